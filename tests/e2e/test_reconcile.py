"""The metric that says whether the ledger has what the gateways wrote: 0 in balance, not 0 when a row is taken out by hand."""
import sqlite3

from servers import http
from test_runs import until
from test_runs import model, place                               # noqa: F401

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
KINDS = ("spool_attempts", "spool_tokens", "row_attempts", "row_tokens", "row_microusd")


def unreconciled(corral):
    lines = [line for line in corral.metrics().splitlines() if line.startswith("corral_ledger_unreconciled{")]
    return {k: float(line.rsplit(" ", 1)[1]) for k in KINDS for line in lines if f'kind="{k}"' in line}


def looked(corral):
    """The end of a look through the whole ledger that began after now."""
    def ended():
        return [line for line in corral.metrics().splitlines() if line.startswith("corral_ledger_reconciled_timestamp_seconds")]
    for _ in range(2):
        before = ended()
        until(lambda: ended() != before)                         # noqa: B023


def test_a_row_is_missed(place, model):                          # noqa: F811
    corral = place("--reconcile-every=100ms")
    for _ in range(4):
        assert http(corral.url + "/v1/chat/completions", ASK)[0] == 200
    until(lambda: corral.get("/usage")[2]["totals"]["attempts"] == 4)
    looked(corral)
    assert unreconciled(corral) == dict.fromkeys(KINDS, 0), unreconciled(corral)
    corral.kill()
    corral = place("--reconcile-every=100ms")
    assert http(corral.url + "/v1/chat/completions", ASK)[0] == 200
    until(lambda: corral.get("/usage")[2]["totals"]["attempts"] == 5)
    looked(corral)
    assert unreconciled(corral) == dict.fromkeys(KINDS, 0), unreconciled(corral)
    book = sqlite3.connect(f"{corral.folder}/state/usage-tracker/ledger.db", timeout=20, isolation_level=None)
    runs = book.execute("SELECT finals_said, finals_had FROM spool_runs").fetchall()
    assert sum(said for said, _ in runs) == 5 and all(said == had for said, had in runs), runs
    (tokens,) = book.execute("SELECT prompt_tokens + completion_tokens FROM attempts LIMIT 1").fetchone()
    book.execute("DELETE FROM attempts WHERE request_id = (SELECT MIN(request_id) FROM attempts)")
    book.close()
    until(lambda: unreconciled(corral)["row_attempts"] > 0)
    assert unreconciled(corral)["row_tokens"] == tokens > 0
