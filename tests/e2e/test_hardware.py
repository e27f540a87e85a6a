"""The machine as the platform sees it: GET /hardware and `corral hardware`."""
import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


def get(corral, path):
    with urllib.request.urlopen(corral.url + path, timeout=20) as r:
        return json.load(r)


def test_what_this_machine_has(corral):
    hw = get(corral, "/hardware")
    with open("/proc/meminfo") as f:
        kb = int(f.readline().split()[1])
    assert abs(hw["memory"]["total_bytes"] - kb * 1024) < 1 << 20
    assert 1 <= hw["cpu_cores"] <= os.cpu_count()
    assert hw["gpu_type"] and hw["tier"] in ("24gb", "16gb", "8gb", "cpu")
    assert hw["gpus"] or any("no GPU is visible" in n["text"] for n in hw["notes"])
    assert hw["disks"][0]["free_bytes"] > 0


def test_memory_of_a_recommendation_adds_up(corral):
    short, long = get(corral, "/hardware?context=2048&all=true"), get(corral, "/hardware?context=32768&all=true")
    for m in short["recommended_models"]:
        assert m["needed_bytes"] == m["weights_bytes"] + m["kv_cache_bytes"] + m["overhead_bytes"]
        assert m["why"].startswith("needs ")
    needs = lambda hw: {m["name"]: m["needed_bytes"] for m in hw["recommended_models"]}
    a, b = needs(short), needs(long)
    assert a.keys() == b.keys() and all(b[k] >= a[k] for k in a) and any(b[k] > a[k] for k in a)
    roles = [m["role"] for m in short["recommended_models"] if m["first"]]
    assert len(roles) == len(set(roles))


def test_a_wrong_context_is_told(corral):
    with pytest.raises(urllib.error.HTTPError) as e:
        get(corral, "/hardware?context=many")
    body = json.load(e.value)
    assert e.value.code == 422 and body["field"] == "context" and "many" in body["error"]


def test_command(corral):
    env = {**os.environ, "CORRAL_URL": corral.url}
    out = subprocess.run([BINARY, "hardware"], env=env, capture_output=True, text=True, timeout=30)
    assert out.returncode == 0 and "Processor" in out.stdout and "Memory" in out.stdout and "MODEL" in out.stdout
    out = subprocess.run([BINARY, "hardware", "--json", "--all"], env=env, capture_output=True, text=True, timeout=30)
    assert json.loads(out.stdout)["recommended_models"]
