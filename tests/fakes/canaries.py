"""Canaries: words that are nowhere else, put where secrets and prompts go, and looked for afterwards in all that stays behind.

    found(places, words)    places: {name: bytes}. [(where, word, how), …]: as it is, in hexadecimal (so dumps of PostgreSQL have binary columns) or in base64
    places(corral)          what a running Corral leaves: its metrics, lists, logs, command lines, environments, all files of its state
"""
import base64
import json
from pathlib import Path

PROVIDER_KEY, PROMPT, SYSTEM, JOB_PROMPT = "sk-heron-7Qk2provider", "gannet-3Xw9prompt", "gannet-3Xw9system", "gannet-3Xw9job"
TOKEN = "petrel-5Lm1token-of-gateways"
PLANTED = "dunlin-8zp4planted"          # the name of a provider: no secret, and to be found wherever anything is written
FAULTS = ("answer 2", "status 400", "status 500", "error200", "close", "torn 2", "status 401")     # after the last one the key rests
KINDS = {"oa": ("openai", "/v1"), "an": ("anthropic", "/v1"), "ge": ("gemini", "/v1beta"), "or": ("openrouter", "/api/v1"), PLANTED: ("compatible", "/v1")}
ENTRY = '  - {{name: {}, kind: {}, url: "{}{}", models: m, key_file: "{}", monthly_tokens: unlimited}}\n'


def inside_base64(word):
    """What is the same in base64 wherever the word begins: at each of three places, without the ends that its neighbours change."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + word).rstrip(b"=")
        whole = (before + len(word)) % 3
        yield text[-(-before * 8 // 6):-1 if whole else None]


def forms(word):
    word = word.encode()
    yield "as it is", word
    yield "in hexadecimal", word.hex().encode()
    yield "in hexadecimal", word.hex().upper().encode()
    for text in inside_base64(word):
        yield "in base64", text
        yield "in base64", text.replace(b"+", b"-").replace(b"/", b"_")


def found(places, words):
    return [(where, word, how) for where, text in places.items() for word in words for how, form in forms(word) if form in text]


def readable(path):
    """What is in a file of /proc; b"" where only its owner may look."""
    try:
        return Path(path).read_bytes()
    except PermissionError:
        return b""


def places(corral):
    """{what it is: bytes}"""
    out = {"metrics": corral.metrics().encode(), "logs": corral.logs().encode()}
    for path in ("providers", "keys", "usage?group_by=provider", "v1/models"):
        out[path] = json.dumps(corral.get("/" + path)[2]).encode()
    for pid in corral.pids():
        out.update({f"/proc/{pid}/{what}": readable(f"/proc/{pid}/{what}") for what in ("cmdline", "environ")})
    out.update({str(p): p.read_bytes() for p in (corral.folder / "state").rglob("*") if p.is_file()})
    return out


def write_config(folder, fake):
    """The file of --config, and the key file that it names."""
    (folder / "keys").write_text(PROVIDER_KEY + "\n")
    path = folder / "corral.yaml"
    path.write_text("providers:\n" + "".join(ENTRY.format(name, kind, fake.url, base, folder / "keys") for name, (kind, base) in KINDS.items()))
    return path


def options(config):
    """Those of a Corral that fails often, and says as much as it can."""
    return [f"--backends={PLANTED}-gone=openai+http://127.0.0.1:1", f"--config={config}", "--cloud-listen=127.0.0.1:0", "--log-level=debug", "--decision-sample=1",
            "--breaker-failures=100", "--cloud-recheck=1s"]


def asks(http, url, name, secret):
    """Requests of each dialect to one provider that end well or in an error; the bodies of the errors."""
    model, head, errors = f"{name}/m", {"Authorization": f"Bearer {secret}", "x-api-key": secret}, []
    for n, fault in enumerate(FAULTS):
        say = f"do: {fault}\n{PROMPT}"
        path, body = [("/v1/chat/completions", {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": say}], "max_tokens": 9}),
                      ("/v1/messages", {"system": SYSTEM, "messages": [{"role": "user", "content": say}], "max_tokens": 9}),
                      ("/api/chat", {"messages": [{"role": "user", "content": say}], "stream": False})][n % 3]
        status, _, text = http(url + path, {"model": model, "stream": n % 2 == 1, **body}, "POST", headers=head, timeout=60)
        if status != 200:
            errors.append(text)
    return errors
