"""A provider's slots are one number, however many gateways and cloud-fallbacks there are: three of the ones and two of the others, behind one address."""
import argparse
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import ARRANGEMENT, ROOT, until

sys.path[:0] = [str(ROOT / "tests/fakes"), str(ROOT / "tests/proofs")]
import cloud_budget                                              # noqa: E402
import providers                                                 # noqa: E402

SLOTS, REQUESTS = 4, 36


class Place(cloud_budget.Proof):
    """Everything on SQLite, and the provider in this process, so that what it has to do at once can be counted."""

    def __init__(self, folder):
        super().__init__(folder, argparse.Namespace(seed=1, rounds=0), [])
        self.servers = {}

    def start_fake(self):
        self.provider = providers.Fake(keys={"the-key-of-the-proof-1"})
        return self.provider.url

    def config(self, fake_url):
        (self.folder / "corral.yaml").write_text(f"""providers:
  - {{name: all, kind: openai, url: "{fake_url}/v1", models: m, key_env: PROOF_KEY, monthly_tokens: unlimited, slots: {SLOTS}}}
""")

    def lent(self):
        return sum(self.metric(name, "corral_slots") for name in cloud_budget.GATEWAYS)


@pytest.mark.skipif(ARRANGEMENT != "one", reason="starts services of its own")
def test_slots_of_a_provider_are_for_all_gateways_and_cloud_fallbacks_together(tmp_path):
    place = Place(tmp_path)
    try:
        place.start()
        until(lambda: place.lent() == SLOTS)                     # all of them say what they use
        place.provider.provider.most_running = 0
        with ThreadPoolExecutor(REQUESTS) as pool:
            got = Counter(pool.map(lambda i: place.one(i, 0, "all/m", {}, "answer 2 wait=60ms", i % 3 == 0), range(REQUESTS)))
        assert got == {200: REQUESTS}, got
        assert place.provider.provider.most_running == SLOTS, place.provider.provider.most_running
    finally:
        place.stop()
        place.provider.close()
    assert not place.wrong, place.wrong
