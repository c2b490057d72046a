"""Graphs in the forms in which hosts hand them over: raw and optimized, with every kind of constant."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import Engraft, refused, taken
from models import constant, convnet, mlp, model, normal, value
from onnx import TensorProto, helper

LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]


@pytest.mark.parametrize("level", LEVELS)
def test_every_optimization_level(engraft: Engraft, level: ort.GraphOptimizationLevel) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    made = convnet()
    session, report = engraft.placed(made, level=level)
    assert report["accelerated_flops"] > 0.99
    engraft.agree(session, made, {"x": x})
    made = mlp()
    session, report = engraft.placed(made, level=level)
    assert refused(report) == {}
    engraft.agree(session, made, {"x": x.reshape(-1, 16)})


def test_raw_graphs_are_folded(engraft: Engraft) -> None:
    """Constant nodes of every attribute kind, arithmetic on constants, Identity."""
    node = helper.make_node
    made = model(
        [
            node("Constant", [], ["a"], value=constant("", np.float32([[1, 2, 3, 4]]))),
            node("Constant", [], ["b"], value_float=2.0),
            node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0, 4.0]),
            node("Constant", [], ["n"], value_int=1),
            node("Constant", [], ["shape"], value_ints=[-1, 4]),
            node("Mul", ["a", "b"], ["ab"]),
            node("Identity", ["ab"], ["abi"]),
            node("Cast", ["n"], ["nf"], to=TensorProto.FLOAT),
            node("Reshape", ["x", "shape"], ["r"]),
            node("Add", ["r", "abi"], ["s"]),
            node("Sub", ["s", "c"], ["t"]),
            node("Div", ["t", "nf"], ["y"]),
        ],
        [value("x", ["N", 2, 2])],
        [value("y", ["N", 4])],
    )
    session, report = engraft.placed(made, level=LEVELS[0])
    assert "Add" in taken(report) and len(report["segments"]) == 1
    engraft.agree(session, made, {"x": np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)})


def test_external_data(engraft: Engraft) -> None:
    made = mlp(width=256)
    path = engraft.folder / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    session, report = engraft.placed(path)
    assert refused(report) == {}
    engraft.agree(session, path, {"x": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)})


def test_initializers_that_the_caller_may_override(engraft: Engraft) -> None:
    """An initializer that is an input too may change from run to run."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        [value("x", ["N", 16]), value("w", [16, 8])],
        [value("y", ["N", 8])],
        [normal("w", 16, 8)],
    )
    session, _ = engraft.placed(made)
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    engraft.agree(session, made, {"x": x})
    engraft.agree(session, made, {"x": x, "w": np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)})
    engraft.agree(session, made, {"x": x})


def test_one_value_used_many_times(engraft: Engraft) -> None:
    """Graph inputs used twice, an intermediate that is also an output, outputs in another order than computed."""
    node = helper.make_node
    made = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Add", ["m", "x"], ["a"]),
            node("Relu", ["m"], ["r"]),
            node("Mul", ["a", "a"], ["s"]),
        ],
        [value("x", ["N", 16])],
        [value("s", ["N", 16]), value("m", ["N", 16]), value("r", ["N", 16])],
        [normal("w", 16, 16)],
    )
    session, _ = engraft.placed(made)
    inputs = {"x": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)}
    engraft.agree(session, made, inputs)
    for names in (["r"], ["m", "s"], ["s", "r", "m"]):
        outputs = session.run(names, inputs)
        assert len(outputs) == len(names)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.uint8, np.int8])
def test_types(engraft: Engraft, dtype: type) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = model(
        [helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node("Transpose", ["s"], ["y"])],
        [value("x", ["N", 4], kind)],
        [value("y", [4, "N"], kind)],
        [constant("c", np.array([1, 2, 3, 4], dtype))],
        opset=14,
    )
    session, _ = engraft.placed(made)
    engraft.agree(session, made, {"x": np.arange(12).reshape(3, 4).astype(dtype)})


def test_many_inputs(engraft: Engraft) -> None:
    """More inputs and outputs than any table on the stack holds."""
    count = 150
    made = model(
        [helper.make_node("Exp", [f"x{i}"], [f"y{i}"]) for i in range(count)]
        + [helper.make_node("Sum", [f"y{i}" for i in range(count)], ["z"])],
        [value(f"x{i}", ["N"]) for i in range(count)],
        [value(f"y{i}", ["N"]) for i in range(count)] + [value("z", ["N"])],
    )
    session, _ = engraft.placed(made)
    engraft.agree(session, made, {f"x{i}": np.float32([i / count, 1]) for i in range(count)})
