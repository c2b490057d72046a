"""Small models that the tests run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def normal(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    return constant(name, (np.random.default_rng(seed).standard_normal(shape) / 4).astype(np.float32))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    ir_version: int = 8,
    check: bool = True,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if check:
        onnx.checker.check_model(made)
    return made


def mlp(batch: int | str = "N", *, width: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Two dense layers with a Gelu in its decomposed spelling between them, and a softmax."""
    node = helper.make_node
    return model(
        [
            node("Gemm", ["x", "w1", "b1"], ["h"]),
            node("Div", ["h", "sqrt2"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "one"], ["a"]),
            node("Mul", ["h", "a"], ["m"]),
            node("Mul", ["m", "half"], ["g"]),
            node("MatMul", ["g", "w2"], ["l"]),
            node("Add", ["l", "b2"], ["z"]),
            node("Softmax", ["z"], ["y"], axis=-1),
        ],
        [value("x", [batch, 16])],
        [value("y", [batch, 8])],
        [
            normal("w1", 16, width, seed=seed),
            normal("b1", width, seed=seed + 1),
            normal("w2", width, 8, seed=seed + 2),
            normal("b2", 8, seed=seed + 3),
            constant("sqrt2", np.float32(2**0.5)),
            constant("one", np.float32(1)),
            constant("half", np.float32(0.5)),
        ],
    )


def convnet(batch: int | str = "N", size: int | str = 16, *, seed: int = 0) -> onnx.ModelProto:
    """Convolution, batch normalization, ReLU, a residual block, pooling and a classifier."""
    node = helper.make_node
    return model(
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("BatchNormalization", ["c1", "scale", "shift", "mean", "variance"], ["n1"]),
            node("Relu", ["n1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            node("Add", ["c2", "r1"], ["s"]),
            node("Relu", ["s"], ["r2"]),
            node("GlobalAveragePool", ["r2"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w3"], ["y"], transB=1),
        ],
        [value("x", [batch, 3, size, size])],
        [value("y", [batch, 10])],
        [
            normal("w1", 16, 3, 3, 3, seed=seed),
            normal("b1", 16, seed=seed + 1),
            normal("scale", 16, seed=seed + 2),
            normal("shift", 16, seed=seed + 3),
            normal("mean", 16, seed=seed + 4),
            constant("variance", np.linspace(0.5, 2, 16, dtype=np.float32)),
            normal("w2", 16, 16, 3, 3, seed=seed + 5),
            normal("w3", 10, 16, seed=seed + 6),
        ],
    )


def branches() -> onnx.ModelProto:
    """An `If` whose branches read an outer value and an outer constant."""
    node = helper.make_node
    then_branch = helper.make_graph(
        [node("MatMul", ["x", "w"], ["t1"]), node("Relu", ["t1"], ["t2"])], "then", [], [value("t2", ["N", 16])]
    )
    else_branch = helper.make_graph(
        [node("MatMul", ["x", "v"], ["e1"]), node("Tanh", ["e1"], ["e2"])],
        "else",
        [],
        [value("e2", ["N", 16])],
        [normal("v", 16, 16, seed=9)],
    )
    return model(
        [
            node("Sigmoid", ["x0"], ["x"]),
            node("If", ["condition"], ["i"], then_branch=then_branch, else_branch=else_branch),
            node("Mul", ["i", "x"], ["y"]),
        ],
        [value("condition", [], TensorProto.BOOL), value("x0", ["N", 16])],
        [value("y", ["N", 16])],
        [normal("w", 16, 16)],
    )


def loop() -> onnx.ModelProto:
    """A `Loop` that multiplies its state by a matrix `count` times and collects it."""
    node = helper.make_node
    body = helper.make_graph(
        [
            node("MatMul", ["state", "w"], ["m"]),
            node("Tanh", ["m"], ["next"]),
            node("Identity", ["next"], ["seen"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", ["N", 16])],
        [value("go_on", [], TensorProto.BOOL), value("next", ["N", 16]), value("seen", ["N", 16])],
    )
    return model(
        [node("Loop", ["count", "", "x"], ["y", "all"], body=body)],
        [value("count", [], TensorProto.INT64), value("x", ["N", 16])],
        [value("y", ["N", 16]), value("all", ["count", "N", 16])],
        [normal("w", 16, 16)],
    )
