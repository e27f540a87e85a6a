"""cloud-fallback: which providers may be used and why not, what becomes of a request to one, and where its keys show (nowhere)."""
import http.client
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import ROOT, Corral, free_port, http as fetch, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402

TOKEN = "a-token-that-gateways-show"
GOOD, SECOND, BAD = "canary-key-one-1234", "canary-key-two-5678", "canary-key-bad-9999"
PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


@pytest.fixture(scope="module")
def fake():
    fake = providers.Fake(script=["answer 3"], keys={GOOD, SECOND})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def cloud(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "keys").write_text(f"{BAD}\n{GOOD} 2\n")
    (folder / "master").write_text("the master key of this test, which is long enough\n")
    sealed = subprocess.run([PROGRAM, "providers", "seal", "shut", "--master-key-file", folder / "master"], input=f"{GOOD}\n", capture_output=True, text=True, timeout=30)
    assert sealed.returncode == 0 and sealed.stdout.startswith("sealed:1:") and GOOD not in sealed.stdout, sealed.stderr
    (folder / "sealed").write_text(sealed.stdout)
    (folder / "prices.tsv").write_text("".join(f"{who}\tm2\t-\t-\t-\t2000000\t-\t6000000\t2026-11-20\ta price list\n" for who in ("oa", "off")))
    (folder / "corral.yaml").write_text(f"""
providers:
  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1|m2, key_file: "{folder}/keys", monthly_tokens: 1000000, slots: 2}}
  - {{name: lazy, kind: openai, url: "{fake.url}/v1", models: m1, key_env: LAZY_KEY}}
  - {{name: poor, kind: openrouter, url: "{fake.url}/api/v1", models: m1, key_env: GOOD_KEY, monthly_microusd: 0}}
  - {{name: off, kind: compatible, url: "{fake.url}/v1", models: m1, key_env: GOOD_KEY, enabled: no, monthly_tokens: unlimited}}
  - {{name: uncapped, kind: compatible, url: "{fake.url}/v1", models: m1, key_env: GOOD_KEY}}
  - {{name: an, kind: anthropic, url: "{fake.url}/v1", models: m1, key_env: GOOD_KEY, monthly_tokens: unlimited}}
  - {{name: ge, kind: gemini, url: "{fake.url}/v1beta", models: m1|m2, key_env: GOOD_KEY, monthly_tokens: unlimited}}
  - {{name: go, kind: gemini, url: "{fake.url}/v1beta/openai", models: m1, key_env: GOOD_KEY, monthly_tokens: unlimited}}
  - {{name: or, kind: openrouter, url: "{fake.url}/api/v1", models: m1, key_env: GOOD_KEY, monthly_tokens: unlimited}}
  - {{name: few, kind: compatible, url: "{fake.url}/v1", models: m1, key_env: GOOD_KEY, monthly_tokens: unlimited, per_day: 3}}
  - {{name: shut, kind: compatible, url: "{fake.url}/v1", models: m1, key_file: "{folder}/sealed", monthly_tokens: unlimited}}
  - {{name: wrong, kind: compatible, url: "{fake.url}/v1", models: m1, key_file: "{folder}/sealed", monthly_tokens: unlimited}}
  - {{name: paid, kind: compatible, url: "{fake.url}/v1", models: m9, key_env: GOOD_KEY, monthly_microusd: 5000000}}
  - {{name: rp, kind: runpod, url: "{fake.url}/v2/ep", models: m1, key_env: GOOD_KEY, monthly_tokens: unlimited}}
""")
    listen = f"127.0.0.1:{free_port()}"
    corral = Corral(folder, None, "--backends=none=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen", listen,
                    "--cloud-catalogue", str(folder / "prices.tsv"), "--breaker-failures=2",
                    "--breaker-open=300ms", "--cloud-idle=1s", f"--master-key-file={folder}/master", env={"LAZY_KEY": "sk-...", "GOOD_KEY": GOOD, "CORRAL_CLOUD_TOKEN": TOKEN})
    corral.cloud, corral.keys = f"http://{listen}", folder / "keys"
    until(lambda: state(corral, "oa")["state"] == "ready" and not any("not said yet" in (p["reason"] or "") for p in corral.get("/providers")[2]["providers"]))
    yield corral
    assert corral.close() is None
    everything = corral.logs() + "".join(p.read_text(errors="replace") for p in (folder / "state").rglob("*") if p.is_file())
    for secret in (GOOD, SECOND, BAD, TOKEN):
        assert secret not in everything


def state(corral, name):
    return next(p for p in corral.get("/providers")[2]["providers"] if p["name"] == name)


def ask(corral, model="oa/m1", stream=False, headers=None, token=TOKEN, text="x", **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}), **more}
    return fetch(corral.cloud + "/v1/chat/completions", body, "POST", headers={"Authorization": f"Bearer {token}", **(headers or {})}, timeout=60)


def error(answer):
    status, headers, text = answer
    return status, headers, json.loads(text)["error"]


def rested(corral, fake):
    """Two answers in a row close a breaker."""
    fake.now(["answer 1"])
    until(lambda: ask(corral)[0] == 200 and ask(corral)[0] == 200)
    until(lambda: state(corral, "oa")["state"] == "ready")


def test_the_ledger_hears_the_prices_of_the_catalogue(cloud):
    until(lambda: cloud.get("/prices")[2]["prices"])
    told = [(p["model"], p["input_microusd"], p["cached_input_microusd"], p["output_microusd"], p["valid_from"][:10]) for p in cloud.get("/prices")[2]["prices"]]
    assert told == [("oa/m2", 2000000, 2000000, 6000000, "2026-11-20")]       # of providers that are on, and nothing of what no row names
    until(lambda: any(line.startswith("corral_prices") and line.endswith(" 1") for line in cloud.metrics().splitlines()))     # and so the gateway


def test_a_price_that_somebody_sets_counts_for_deciding_too(cloud):
    def by_name():
        return cloud.post("/v1/chat/completions", {"model": "paid/m9", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]})

    def refused():
        status, _, answer = by_name()        # until the gateway knows the model, and what is lent of its budget, it says that
        return status == 402 and "what this model costs is not known" in answer["error"]["message"]
    until(lambda: state(cloud, "paid")["state"] == "ready")
    until(refused)
    price = {"model": "paid/m9", "provider": "paid", "input_microusd": 2000000, "output_microusd": 4000000, "valid_from": "2026-01-01"}
    assert cloud.get("/prices", body=price, method="PUT")[0] in (200, 201)
    _, headers, answer = until(lambda: (got := by_name())[0] == 200 and got)
    used = answer["usage"]
    assert int(headers["X-Corral-Cost-Microusd"]) == 2 * used["prompt_tokens"] + 4 * used["completion_tokens"] > 0


def test_each_provider_says_what_it_lacks(cloud):
    said = {p["name"]: (p["state"], p["reason"]) for p in cloud.get("/providers")[2]["providers"]}
    assert said["oa"] == ("ready", None) and said["rp"][0] == "ready"
    assert said["lazy"][0] == "not configured" and "placeholder" in said["lazy"][1]
    assert said["off"] == ("not configured", "off is switched off")
    assert said["poor"][0] == "no budget" and "micro-dollars" in said["poor"][1]
    assert said["uncapped"][0] == "no budget" and "has no budget" in said["uncapped"][1]
    assert state(cloud, "oa")["left_tokens"] == 1000000 and state(cloud, "poor")["ready_at"]
    shown = subprocess.run([PROGRAM, "providers", "--url", cloud.url], capture_output=True, text=True, timeout=30)
    assert shown.returncode == 0 and "off is switched off" in shown.stdout and "0.00" in shown.stdout, shown.stdout + shown.stderr
    log = cloud.logs()
    assert all(f'"provider":"{name}"' in log for name in said)
    for name, code in (("poor", 402), ("uncapped", 402), ("lazy", 503), ("off", 503)):
        assert error(ask(cloud, f"{name}/m1"))[0] == code, name


def test_a_request_and_a_stream(cloud, fake):
    fake.now(["answer 3"])
    status, _, text = ask(cloud, headers={"X-Request-Id": "an-id", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, max_tokens=5)
    assert status == 200 and json.loads(text)["usage"]["completion_tokens"] == 3, text
    call = fake.calls[-1]
    assert call.headers["traceparent"].startswith("00-0af7") and call.headers["x-request-id"] == "an-id"
    assert call.json["model"] == "m1" and call.json["max_completion_tokens"] == 5 and "max_tokens" not in call.json
    status, headers, text = ask(cloud, stream=True)
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n") and '"total_tokens":' in text


@pytest.mark.parametrize("provider, path", [("an", "/v1/messages"), ("ge", ":generateContent"), ("go", "/v1beta/openai/chat/completions"),
                                            ("or", "/api/v1/chat/completions"), ("rp", "/v2/ep/openai/v1/chat/completions")])
def test_each_kind_in_its_own_form(cloud, fake, provider, path):
    fake.now(["answer 3"])
    status, _, text = ask(cloud, f"{provider}/m1")
    assert status == 200 and json.loads(text)["choices"][0]["message"]["content"].startswith("w0 w1 w2"), text
    assert fake.calls[-1].path.endswith(path)
    assert json.loads(text)["usage"]["completion_tokens"] == 3
    status, _, text = ask(cloud, f"{provider}/m1", stream=True)
    assert status == 200 and text.endswith("data: [DONE]\n\n") and '"total_tokens":' in text, text
    fake.now(["torn 2"])
    status, _, text = ask(cloud, f"{provider}/m1", stream=True)
    assert status == 200 and "data: [DONE]" not in text and "error" in json.loads(text.strip().split("data: ")[-1]), text
    for behaviour, code in (("status 400", 400), ("status 500", 502)):
        fake.now([behaviour])
        assert error(ask(cloud, f"{provider}/m1"))[0] == code, behaviour
    fake.now(["answer 1"])
    until(lambda: ask(cloud, f"{provider}/m1")[0] == 200 and ask(cloud, f"{provider}/m1")[0] == 200)


def test_so_many_requests_a_day_and_no_more(cloud, fake):
    fake.now(["answer 1"])
    before = len(fake.calls)
    for _ in range(3):
        until(lambda: ask(cloud, "few/m1")[0] == 200)
    until(lambda: state(cloud, "few")["state"] == "no budget")
    assert "3 requests of this day" in state(cloud, "few")["reason"]
    assert error(ask(cloud, "few/m1"))[0] == 402 and len(fake.calls) == before + 3


def test_a_sealed_key_opens_for_its_provider_alone(cloud, fake):
    fake.now(["answer 1"])
    assert ask(cloud, "shut/m1")[0] == 200 and fake.calls[-1].headers["authorization"].endswith(GOOD)
    assert "cannot be opened" in state(cloud, "wrong")["reason"]


def test_nobody_else_comes_in(cloud, fake):
    before = len(fake.calls)
    assert error(ask(cloud, token="something-else"))[0] == 401
    assert fetch(cloud.cloud + "/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 404
    assert error(ask(cloud, "oa/m3"))[0] == 404 and error(ask(cloud, "nobody/m1"))[0] == 404
    assert len(fake.calls) == before


@pytest.mark.parametrize("behaviour", ["torn 2", "unterminated 2", "stall 2", "event-error 2"])
def test_a_stream_that_breaks_ends_with_an_error(cloud, fake, behaviour):
    rested(cloud, fake)
    fake.now([behaviour])
    status, _, text = ask(cloud, stream=True)
    assert status == 200 and "w1" in text and "data: [DONE]" not in text, text
    assert "error" in json.loads(text.strip().split("data: ")[-1]), text


@pytest.mark.parametrize("behaviour, code", [("status 500", 502), ("error200", 502), ("close", 502), ("status 400", 400)])
def test_a_failure_is_an_error_of_its_kind(cloud, fake, behaviour, code):
    rested(cloud, fake)
    fake.now([behaviour])
    assert error(ask(cloud, stream=True))[0] == code


def test_the_breaker_opens_and_closes(cloud, fake):
    rested(cloud, fake)
    fake.now(["status 500"])
    for _ in range(2):
        assert error(ask(cloud))[0] == 502
    until(lambda: "failed 2 times in a row" in cloud.logs())
    rested(cloud, fake)


def test_its_own_time_is_kept(cloud, fake):
    rested(cloud, fake)
    fake.now(["hang"])
    status, _, said = error(ask(cloud, headers={"X-Corral-Deadline-Ms": "300"}))
    assert status == 504 and "time" in said["message"]
    assert error(ask(cloud, headers={"X-Corral-Deadline-Ms": "0"}))[0] == 504
    fake.now(["answer 1"])
    assert ask(cloud)[0] == 200                                  # that said nothing about the provider


def test_slots_are_a_wall_and_who_leaves_frees_one(cloud, fake):
    rested(cloud, fake)
    fake.now(["hang"])
    before = len(fake.calls)
    held = []
    for _ in range(2):
        c = http.client.HTTPConnection(cloud.cloud[7:], timeout=30)
        c.request("POST", "/v1/chat/completions", json.dumps({"model": "oa/m1", "messages": [{"role": "user", "content": "x"}]}),
                  {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
        held.append(c)
    until(lambda: len(fake.calls) == before + 2)
    status, headers, said = error(ask(cloud))
    assert status == 503 and headers["Retry-After"] == "1" and "slots" in said["message"], said
    for c in held:
        c.close()
    fake.now(["answer 1"])
    until(lambda: ask(cloud)[0] == 200)


def test_who_finds_no_slot_waits_for_one(cloud, fake):
    """Gateways know the slots of each model; the provider has them for all its models together."""
    rested(cloud, fake)
    fake.now(["answer 2 wait=20ms"])
    fake.provider.most_running = 0
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: ask(cloud, f"oa/m{1 + i % 2}")[0], range(4)))
    assert got == [200] * 4 and fake.provider.most_running <= 2, (got, fake.provider.most_running)
    fake.now(["hang"])
    before, held = len(fake.calls), []
    for _ in range(3):
        c = http.client.HTTPConnection(cloud.cloud[7:], timeout=30)
        c.request("POST", "/v1/chat/completions", json.dumps({"model": "oa/m1", "messages": [{"role": "user", "content": "x"}]}),
                  {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
        held.append(c)
        until(lambda: len(fake.calls) >= min(before + len(held), before + 2))
    held[2].close()                                              # it leaves while it waits, and holds nothing up
    fake.now(["answer 1"])
    held[0].close()
    until(lambda: ask(cloud)[0] == 200)
    held[1].close()
    assert len([c for c in fake.calls[before:] if c.behaviour.do == "hang"]) == 2


def test_keys_change_while_it_runs_and_a_refused_one_rests(cloud, fake):
    rested(cloud, fake)
    fake.now(["answer 1"])
    assert "a key of a provider rests" in cloud.logs()           # the first of the file is none
    assert state(cloud, "oa")["keys"] == 1
    cloud.keys.write_text(f"{SECOND}\n")
    until(lambda: ask(cloud)[0] == 200 and fake.calls[-1].headers["authorization"].endswith(SECOND))
    cloud.keys.write_text(f"{BAD}\n")
    until(lambda: ask(cloud)[0] == 503)
    until(lambda: state(cloud, "oa")["state"] == "not configured" and "refuses its key" in state(cloud, "oa")["reason"])
    cloud.keys.write_text(f"{GOOD}\n")
    until(lambda: ask(cloud)[0] == 200)
    rested(cloud, fake)


def test_a_key_that_is_told_to_wait_waits(cloud, fake):
    rested(cloud, fake)
    fake.now(["status 429 retry=4"])
    status, headers, _ = error(ask(cloud))
    assert status == 429 and headers["Retry-After"] == "4"
    calls = len(fake.calls)
    fake.now(["answer 1"])
    assert error(ask(cloud))[0] == 503 and len(fake.calls) == calls
    told = state(cloud, "oa")
    assert told["state"] == "ready" or "429" in told["reason"]
    until(lambda: ask(cloud)[0] == 200)
    cloud.keys.write_text(f"{GOOD}\n{SECOND}\n")
    until(lambda: state(cloud, "oa")["keys"] == 2)
    fake.now(["status 402", "answer 2"])
    assert ask(cloud)[0] == 200                                  # by the other one
    assert state(cloud, "oa")["keys"] == 1


def test_a_limit_of_the_day_is_one_models(cloud, fake):
    """Gemini's limits of the day are of a project and a model: another model goes on with the same key."""
    fake.now(["status 429 word=daily"])
    status, headers, _ = error(ask(cloud, "ge/m1"))
    assert status == 429 and int(headers["Retry-After"]) > 0
    fake.now(["answer 1"])
    calls = len(fake.calls)
    status, headers, said = error(ask(cloud, "ge/m1"))
    assert status == 429 and "no more requests of m1 today" in said["message"] and int(headers["Retry-After"]) > 0 and len(fake.calls) == calls, said
    assert ask(cloud, "ge/m2")[0] == 200 and state(cloud, "ge")["state"] == "ready"
    rests, other = until(lambda: (m := state(cloud, "ge")["models"]) and m[0]["rests_until"] and m)
    assert rests["reason"] == f"ge allows no more requests of m1 until {rests['rests_until'][:19]}Z" and (other["rests_until"], other["reason"]) == (None, None), (rests, other)
    table = subprocess.run([PROGRAM, "providers", "--url", cloud.url], capture_output=True, text=True, timeout=30).stdout
    assert rests["reason"] in " ".join(table.split()), table

    def explained():
        status, headers, _ = cloud.post("/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5})
        status, _, told = cloud.get("/explain/" + headers["X-Request-Id"])
        return status == 200 and rests["reason"] in json.dumps(told) and told
    told = until(explained)
    assert '"model_rests"' in json.dumps(told) and told.get("reproduced") is not False, told
