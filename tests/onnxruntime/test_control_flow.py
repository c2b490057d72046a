"""Bodies of If and Loop: accelerated where the host allows it, right in any case."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Engraft, taken
from models import branches, loop


def test_both_branches(engraft: Engraft) -> None:
    made = branches()
    session, report = engraft.placed(made)
    # Twice in the branches, beside what the main graph has.
    assert taken(report).count("MatMul") == 2
    for condition in (True, False, True):
        x = np.random.default_rng(condition).standard_normal((3, 16)).astype(np.float32)
        engraft.agree(session, made, {"condition": np.array(condition), "x0": x})


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_loop(engraft: Engraft, count: int) -> None:
    made = loop()
    session, report = engraft.placed(made)
    assert "MatMul" in taken(report)
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    engraft.agree(session, made, {"count": np.array(count, np.int64), "x": x})
