#!/usr/bin/env python3
"""Print k8s/ as pods for `podman kube play`: the same files of options, security contexts and limits, without a cluster.

    tests/containers/pods.py IMAGE KEY_FILE

What podman has no counterpart for is put in other words: a pod has its Service's name, under which the others look for it; a
claim is a volume of the image; the Secret of the first key is that file. The tests ask --probe in place of kubelets.
"""
import sys
from pathlib import Path

import yaml

KEPT = {"command", "env", "name", "resources", "securityContext", "volumeMounts"}


def volume(prefix, v, key_file):
    if "secret" in v:
        return {"name": v["name"], "hostPath": {"path": key_file, "type": "File"}}
    if "emptyDir" in v:
        return {"name": v["name"], "persistentVolumeClaim": {"claimName": f"{prefix}-{v['name']}"}}
    return v


def pod(workload, image, key_file):
    name, template = workload["metadata"]["name"], workload["spec"]["template"]
    (container,) = template["spec"]["containers"]
    claims = [{"name": c["metadata"]["name"], "emptyDir": {}} for c in workload["spec"].get("volumeClaimTemplates", [])]
    mounts = [{**m, "mountPath": m["mountPath"] + "/key"} if m["name"] == "first-key" else m for m in container["volumeMounts"]]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": {
        "securityContext": template["spec"]["securityContext"],
        "containers": [{**{k: v for k, v in container.items() if k in KEPT}, "image": image, "imagePullPolicy": "Never", "volumeMounts": mounts}],
        "volumes": [volume(name, v, key_file) for v in template["spec"]["volumes"] + claims]}}


def main(image, key_file):
    objects = [o for path in sorted(Path("k8s").glob("*.yaml")) for o in yaml.safe_load_all(path.read_text())]
    maps = [{k: v for k, v in o.items()} for o in objects if o["kind"] == "ConfigMap"]
    pods = [pod(o, image, key_file) for o in objects if o["kind"] in ("StatefulSet", "Deployment")]
    for o in maps:
        del o["metadata"]["namespace"]
    print(yaml.safe_dump_all(maps + pods, sort_keys=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
