"""Shapes that change from run to run, and inputs that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Engraft, refused, taken
from models import FLOAT, convnet, mlp, model, normal, value
from onnx import TensorProto, helper


def rows(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("batch", ["N", 5])
def test_a_dense_network(engraft: Engraft, batch: int | str) -> None:
    made = mlp(batch)
    session, report = engraft.placed(made)
    assert refused(report) == {}
    for count in [1, 5, 33, 2, 5, 128] if batch == "N" else [5, 5]:
        engraft.agree(session, made, {"x": rows(count, seed=count)})


def test_a_convolutional_network_of_any_size(engraft: Engraft) -> None:
    made = convnet(size="S")
    session, report = engraft.placed(made)
    assert report["accelerated_flops"] > 0.99
    for batch, size in [(1, 16), (2, 16), (1, 33), (3, 8), (1, 16)]:
        x = np.random.default_rng(size).standard_normal((batch, 3, size, size)).astype(np.float32)
        engraft.agree(session, made, {"x": x})


def test_zero_rows(engraft: Engraft) -> None:
    made = mlp()
    session, _ = engraft.placed(made)
    engraft.agree(session, made, {"x": rows(0)})
    engraft.agree(session, made, {"x": rows(3)})


def test_equal_symbols_and_unnamed_dims(engraft: Engraft) -> None:
    made = model(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Mul", ["s", "c"], ["y"])],
        [value("a", ["N", "M"]), value("b", ["N", "M"]), value("c", [None, None])],
        [value("y", [None, None])],
    )
    session, report = engraft.placed(made)
    assert sorted(taken(report)) == ["Add", "Mul"]
    for c in ((4, 6), (1, 6), (4, 1), (1, 1)):
        inputs = {"a": rows(4, 6), "b": rows(4, 6, 1), "c": rows(*c, 2)}
        engraft.agree(session, made, inputs)


def test_shapes_computed_from_shapes(engraft: Engraft) -> None:
    """The exporters' way to flatten: Shape, Gather, Concat, Reshape."""
    node = helper.make_node
    made = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Concat", ["n", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["flat"]),
            node("MatMul", ["flat", "w"], ["y"]),
        ],
        [value("x", ["N", 4, 4])],
        [value("y", ["N", 8])],
        [
            normal("w", 16, 8),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("rest", TensorProto.INT64, [1], [-1]),
        ],
    )
    session, report = engraft.placed(made)
    assert "Reshape" in taken(report) and "MatMul" in taken(report)
    assert len(report["segments"]) == 1
    for count in (1, 7, 3):
        x = np.random.default_rng(count).standard_normal((count, 4, 4)).astype(np.float32)
        engraft.agree(session, made, {"x": x})


def test_target_shapes_as_inputs(engraft: Engraft) -> None:
    """0 copies and -1 infers, whatever a run brings."""
    node = helper.make_node
    made = model(
        [node("Reshape", ["x", "target"], ["r"]), node("Tanh", ["r"], ["y"])],
        [value("x", ["N", 6]), value("target", [3], TensorProto.INT64)],
        [value("y", [None, None, None])],
    )
    session, report = engraft.placed(made)
    assert sorted(taken(report)) == ["Reshape", "Tanh"]
    for target in ([2, 3, -1], [-1, 2, 2], [0, 2, 3], [0, 0, -1], [24, 1, 1], [2, 3, -1]):
        engraft.agree(session, made, {"x": rows(4, 6), "target": np.array(target)})


def test_sizes_computed_from_data(engraft: Engraft) -> None:
    """The largest of some lengths decides the shapes of what follows, anew in every run."""
    node = helper.make_node
    made = model(
        [
            node("ReduceMax", ["lengths"], ["most"], keepdims=1),
            node("ReduceMax", ["lengths"], ["limit"], keepdims=0),
            node("Concat", ["most", "width"], ["shape"], axis=0),
            node("Slice", ["x", "zero", "most", "one"], ["head"]),
            node("Tanh", ["head"], ["t"]),
            node("Range", ["start", "limit", "step"], ["positions"]),
            node("Expand", ["row", "shape"], ["tall"]),
            node("MatMul", ["tall", "w"], ["y"]),
            node("Concat", ["minus", "most"], ["target"], axis=0),
            node("Reshape", ["y", "target"], ["turned"]),
        ],
        [value("x", [2, "S"]), value("row", [1, 16]), value("lengths", ["B"], TensorProto.INT64)],
        [
            value("t", [2, None]),
            value("positions", [None], TensorProto.INT64),
            value("y", [None, 8]),
            value("turned", [None, None]),
        ],
        [
            normal("w", 16, 8),
            helper.make_tensor("width", TensorProto.INT64, [1], [16]),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("minus", TensorProto.INT64, [1], [-1]),
            helper.make_tensor("start", TensorProto.INT64, [], [0]),
            helper.make_tensor("step", TensorProto.INT64, [], [1]),
        ],
    )
    session, report = engraft.placed(made)
    assert refused(report) == {}
    for lengths in ([3, 5], [1], [7, 2, 2], [5], [4, 4]):
        inputs = {"x": rows(2, 9), "row": rows(1), "lengths": np.array(lengths)}
        engraft.agree(session, made, inputs)


def test_scalars(engraft: Engraft) -> None:
    made = model(
        [helper.make_node("Mul", ["a", "b"], ["m"]), helper.make_node("Exp", ["m"], ["y"])],
        [value("a", []), value("b", [])],
        [value("y", [])],
    )
    session, report = engraft.placed(made)
    assert sorted(taken(report)) == ["Exp", "Mul"]
    engraft.agree(session, made, {"a": np.array(0.5, np.float32), "b": np.array(3, np.float32)})


def test_wrong_inputs_are_errors(engraft: Engraft) -> None:
    made = mlp()
    session, _ = engraft.placed(made)
    for wrong in (rows(2).astype(np.float64), rows(2, 15), rows(2)[None]):
        with pytest.raises(Exception, match="x"):
            session.run(None, {"x": wrong})
    engraft.agree(session, made, {"x": rows(2)})


def test_shapes_that_do_not_fit_are_errors(engraft: Engraft) -> None:
    """Declared loosely, wrong at run time: an error, and the session lives on."""
    made = model(
        [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        [value("a", ["N", "K"]), value("b", ["L", "M"])],
        [value("y", None)],
        check=False,
    )
    session, report = engraft.placed(made)
    assert "MatMul" in taken(report)
    with pytest.raises(Exception):
        session.run(None, {"a": rows(2, 3), "b": rows(4, 5)})
    engraft.agree(session, made, {"a": rows(2, 3), "b": rows(3, 5)})


def test_dims_of_two_names_broadcast(engraft: Engraft) -> None:
    """Dims of different names may be equal, or either may be 1."""
    made = model(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Tanh", ["s"], ["y"])],
        [value("a", ["N", "K"]), value("b", ["M", "L"])],
        [value("y", None)],
        check=False,
    )
    session, report = engraft.placed(made)
    assert sorted(taken(report)) == ["Add", "Tanh"]
    for a, b in [((3, 4), (3, 4)), ((3, 4), (1, 4)), ((1, 4), (3, 4)), ((3, 1), (1, 4)), ((1, 1), (0, 2))]:
        engraft.agree(session, made, {"a": rows(*a), "b": rows(*b, 1)})
    with pytest.raises(Exception, match="sizes do not fit"):
        session.run(None, {"a": rows(2, 4), "b": rows(3, 4)})
    engraft.agree(session, made, {"a": rows(3, 4), "b": rows(3, 4, 1)})


def test_integer_outputs_are_exact(engraft: Engraft) -> None:
    node = helper.make_node
    made = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("ArgMax", ["m"], ["i"], axis=1, keepdims=0),
            node("Cast", ["i"], ["y"], to=TensorProto.INT32),
        ],
        [value("x", ["N", 16])],
        [value("i", ["N"], TensorProto.INT64), value("y", ["N"], TensorProto.INT32), value("m", ["N", 12], FLOAT)],
        [normal("w", 16, 12)],
    )
    session, _ = engraft.placed(made)
    engraft.agree(session, made, {"x": rows(9)})
