"""The machine as the platform sees it: GET /hardware and `corral hardware`."""
import json
import os
import pathlib
import shlex
import subprocess
import urllib.error
import urllib.request

import pytest

from servers import Program, free_port, http, until

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


# A driver's library with one GPU of 300 W. It writes a line for each time that it is started or asked for its GPUs, and hangs as long as a file is there.
LIBRARY = r"""
#include <stdio.h>
#include <unistd.h>
static int note(const char *word) { FILE *f = fopen(DIR "/calls", "a"); fprintf(f, "%s\n", word); fclose(f); return 0; }
int nvmlInit_v2(void) { return note("init"); }
int nvmlShutdown(void) { return note("shutdown"); }
int nvmlDeviceGetCount_v2(unsigned *n) { note("count"); while (access(DIR "/hang", F_OK) == 0) usleep(10000); *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)1; return 0; }
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) { snprintf(s, n, "GPU-1"); return 0; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { note("name"); snprintf(s, n, "Example"); return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { *mw = 300000; return access(DIR "/lost", F_OK) == 0 ? 15 : 0; }
"""


@pytest.fixture
def driver(tmp_path):
    source, library, admin = tmp_path / "nvml.c", tmp_path / "nvml.so", f"127.0.0.1:{free_port()}"
    source.write_text(LIBRARY)
    subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", "-w", f'-DDIR="{tmp_path}"', "-o", library, source], check=True)
    probe = Program("hardware-probe", [str(ROOT / os.environ.get("BUILD", "build") / "bin/hardware-probe"), f"--rpc-listen=ipc://{tmp_path}/rpc", f"--admin-listen={admin}",
                                       f"--nvml-library={library}", "--hardware-every=1h", "--power-every=200ms", f"--state-dir={tmp_path}/state"],
                    tmp_path / "probe.log", f"http://{admin}/readyz")
    yield f"http://{admin}"
    assert probe.stop() == 0


def calls(tmp_path):
    return (tmp_path / "calls").read_text().split()


def test_the_library_stays_open_for_power(driver, tmp_path):
    until(lambda: calls(tmp_path).count("count") >= 10)
    said = calls(tmp_path)
    assert said.count("name") == 1                               # the one whole look, which is asked nothing twice
    assert said.count("init") == 2 and said.count("shutdown") == 1
    assert 'corral_machine_power_watts{service="hardware-probe",source="nvml"} 300' in http(driver + "/metrics")[2]
    (tmp_path / "lost").touch()                                  # an error: it is opened anew, each time
    until(lambda: calls(tmp_path).count("init") >= 4)
    (tmp_path / "lost").unlink()
    until(lambda: http(driver + "/metrics")[2].count('corral_machine_power_watts{service="hardware-probe",source="nvml"} 300'))


def test_ready_again_when_a_hanging_driver_answers(driver, tmp_path):
    """The whole look is an hour away: it was one for power that hung."""
    (tmp_path / "hang").touch()
    until(lambda: http(driver + "/readyz")[0] == 503 and "driver has not answered" in http(driver + "/readyz")[2], 30)
    (tmp_path / "hang").unlink()
    until(lambda: http(driver + "/readyz")[0] == 200)


def test_a_root_that_is_too_long(tmp_path):
    program = str(ROOT / os.environ.get("BUILD", "build") / "bin/hardware-probe")
    done = subprocess.run([program, "--hardware-root=/" + "x" * 600, f"--state-dir={tmp_path}/state"], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "hardware_root" in done.stderr and "longer than 512" in done.stderr
