"""The golden answers of common/llm, understood by the vendors' packages; see tests/contract/golden_clients.py."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
import golden_clients  # noqa: E402


@pytest.mark.parametrize("check, name", golden_clients.checks(), ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_golden(check, name):
    check(name)
