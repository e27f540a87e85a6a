"""POST /feedback: on disk before it is answered, then in the ledger's database; for requests of one's own tenant only."""
import sqlite3

import pytest

from servers import http
from test_runs import until
from test_runs import model, place                               # noqa: F401

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def ask(corral, headers=None):
    status, got, text = http(corral.url + "/v1/chat/completions", ASK, headers=headers or {})
    assert status == 200, text
    return got["X-Request-Id"]


def give(corral, request, headers=None, **said):
    return corral.post("/feedback", {"request_id": request, **said}, headers=headers or {})


def kept(corral):
    book = sqlite3.connect(f"file:{corral.folder}/state/usage-tracker/ledger.db?mode=ro", uri=True)
    rows = book.execute("SELECT lower(hex(request_id)), author, tenant, rating, thumbs, success, tests_passed, tests_total, corrected_output, comment"
                        " FROM feedback ORDER BY at_us").fetchall()
    book.close()
    return rows


def test_it_is_kept_and_replaced(place, model):                  # noqa: F811
    corral = place()
    request = ask(corral)
    until(lambda: corral.get(f"/requests/{request}")[0] == 200)
    assert give(corral, request, rating=4, thumbs="up", comment="good")[::2] == (202, {"success": True})
    assert give(corral, request, rating=2, success=False, tests_passed=0, tests_total=3, corrected_output="so")[::2] == (202, {"success": True})
    corral.kill()                                                # what was answered with 202 is on disk
    corral = place()
    until(lambda: kept(corral) and kept(corral)[0][3] == 2)
    assert kept(corral) == [(request.replace("-", ""), "", "default", 2, None, 0, 0, 3, "so", None)]


@pytest.mark.parametrize("said, status, field", [
    ({}, 400, None), ({"rating": 0}, 422, "rating"), ({"rating": 6}, 422, "rating"), ({"rating": "5"}, 400, "rating"), ({"thumbs": "sideways"}, 422, "thumbs"),
    ({"success": "yes"}, 400, "success"), ({"tests_passed": 3}, 422, "tests_passed"), ({"tests_passed": 4, "tests_total": 3}, 422, "tests_passed"),
    ({"tests_passed": -1, "tests_total": 3}, 422, "tests_passed"), ({"comment": "x" * 70000}, 422, "comment"), ({"stars": 5}, 400, "stars"),
    ({"rating": 5, "request_id": "no"}, 422, "request_id"), ({"rating": 5, "request_id": None}, 400, "request_id"),
])
def test_what_is_no_feedback(corral, said, status, field):
    got, _, answer = corral.post("/feedback", {"request_id": "0190b7f0-0000-7000-8000-000000000000", **said})
    assert (got, answer["field"]) == (status, field), answer


def test_only_of_ones_own_tenant(place, model):                  # noqa: F811
    corral = place()
    key = {}
    for tenant in ("north", "south"):
        assert http(f"{corral.url}/tenants/{tenant}", {}, "PUT")[0] in (200, 201)
        status, _, made = corral.post("/keys", {"name": tenant, "tenant": tenant, "role": "user"})
        assert status == 201, made
        key[tenant] = {"Authorization": f"Bearer {made['secret']}"}
        until(lambda: http(corral.url + "/api/version", headers=key[tenant])[0] == 200)         # noqa: B023
    request = ask(corral, key["north"])
    until(lambda: corral.get(f"/requests/{request}")[0] == 200)
    assert give(corral, request, key["south"], rating=1)[0] == 202             # and counts for nothing
    assert give(corral, request, key["north"], rating=5)[0] == 202
    assert give(corral, request, rating=3)[0] == 202             # the owner of the installation; another author, another row
    until(lambda: len(kept(corral)) == 2)
    assert [(r[2], r[3]) for r in kept(corral)] == [("north", 5), ("north", 3)]
    until(lambda: 'corral_feedback_total{kind="of_others"} 1' in corral.metrics())
