"""Bodies of If and Loop: accelerated where the host allows it, right in any case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import RELEASE, Engraft, taken
from models import branches, loop, model, value
from onnx import TensorProto, helper

BODIES = RELEASE >= (1, 28)
"""Whether the host takes claims inside bodies."""


def in_bodies(report: dict[str, Any]) -> list[str]:
    """Operator types taken inside bodies."""
    return [node["op_type"] for node in report["nodes"] if node.get("graph") and node["segment"] is not None]


def test_both_branches(engraft: Engraft) -> None:
    made = branches()
    session, report = engraft.placed(made)
    assert sorted(in_bodies(report)) == (["MatMul", "MatMul", "Relu", "Tanh"] if BODIES else [])
    assert "Mul" in taken(report)
    # The bodies' work counts in either case.
    assert (report["accelerated_flops"] > 0.9) == BODIES
    for condition in (True, False, True):
        x = np.random.default_rng(condition).standard_normal((3, 16)).astype(np.float32)
        engraft.agree(session, made, {"condition": np.array(condition), "x0": x})


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_loop(engraft: Engraft, count: int) -> None:
    made = loop()
    session, report = engraft.placed(made)
    assert ("MatMul" in in_bodies(report)) == BODIES
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    engraft.agree(session, made, {"count": np.array(count, np.int64), "x": x})


def test_bodies_of_functions_stay_with_the_host(engraft: Engraft) -> None:
    """The host makes a function of SequenceMap and its body after providers have been asked about the body."""
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])], "body", [value("a", ["N"]), value("b", ["N"])], [value("c", ["N"])]
    )
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    total = helper.make_tensor_sequence_value_info("t", TensorProto.FLOAT, None)
    made = model([helper.make_node("SequenceMap", ["s", "x"], ["t"], body=body)], [sequence, value("x", ["N"])], [total])
    session = engraft.session(made, {"partition_policy": "maximal", "min_subgraph_size": 1})
    items = [np.float32([1, 2]), np.float32([3, 4])]
    (sums,) = session.run(None, {"s": items, "x": np.float32([10, 20])})
    assert np.array_equal(sums, [[11, 22], [13, 24]])
