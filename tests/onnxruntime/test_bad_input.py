"""Models and inputs that make no sense: ONNX Runtime's own behaviour, or an error that names the node; never a wrong result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import Engraft, reference
from models import constant, mlp, model, normal, value
from onnx import TensorProto, helper

node = helper.make_node
X = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


def dense(*nodes: onnx.NodeProto, shape: list[Any] | None = None, weights: list | None = None) -> onnx.ModelProto:
    """MatMul, then `nodes` from h to y."""
    first = node("MatMul", ["x", "w"], ["h"], name="first")
    weights = [normal("w", 16, 16), *(weights or [])]
    return model([first, *nodes], [value("x", ["N", 16])], [value("y", shape)], weights, check=False)


def nan_weights() -> onnx.ModelProto:
    weights = np.full((16, 16), 0.5, np.float32)
    weights[3, 5], weights[4, 6], weights[5, 7] = np.nan, np.inf, -np.inf
    made = dense(node("Relu", ["h"], ["y"], name="relu"))
    made.graph.initializer[0].CopyFrom(constant("w", weights))
    return made


def cyclic() -> onnx.ModelProto:
    made = dense(node("Add", ["h", "z"], ["y"], name="a"), node("Relu", ["y"], ["z"], name="b"))
    return made


def huge() -> onnx.ModelProto:
    """A dimension of 2^40 elements that is only stated."""
    return model(
        [node("Relu", ["x"], ["r"], name="relu"), node("MatMul", ["r", "w"], ["y"], name="product")],
        [value("x", [1 << 40, 16])],
        [value("y", [1 << 40, 16])],
        [normal("w", 16, 16)],
        check=False,
    )


def expanded() -> onnx.ModelProto:
    """A result of 2^42 bytes that is computed."""
    return dense(
        node("Expand", ["h", "size"], ["y"], name="expand"),
        weights=[constant("size", np.array([1 << 34, 4, 16], np.int64))],
    )


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "NaN and infinite weights": nan_weights,
    "a cycle": cyclic,
    "a stated dimension of 2^40": huge,
    "a computed size of 2^38": expanded,
    "an attribute out of range": lambda: dense(node("Softmax", ["h"], ["y"], name="soft", axis=7)),
    "an attribute of the wrong type": lambda: dense(node("Softmax", ["h"], ["y"], name="soft", axis=0.5)),
    "an unknown attribute": lambda: dense(node("Relu", ["h"], ["y"], name="relu", colour=3)),
    "an unknown operator": lambda: dense(node("Relux", ["h"], ["y"], name="relux")),
    "an input too many": lambda: dense(node("Relu", ["h", "h"], ["y"], name="relu")),
    "an input too few": lambda: dense(node("Add", ["h"], ["y"], name="add")),
    "an input that nothing makes": lambda: dense(node("Add", ["h", "q"], ["y"], name="add")),
    "shapes that do not match": lambda: dense(
        node("MatMul", ["h", "v"], ["y"], name="product"), weights=[normal("v", 8, 8)]
    ),
    "shapes that do not broadcast": lambda: dense(
        node("Add", ["h", "v"], ["y"], name="add"), weights=[normal("v", 3)]
    ),
    "a type that does not fit": lambda: dense(
        node("Add", ["h", "v"], ["y"], name="add"), weights=[constant("v", np.ones(16, np.int32))]
    ),
    "a shape that contradicts": lambda: dense(node("Relu", ["h"], ["y"], name="relu"), shape=["N", 7]),
    "a convolution without room": lambda: dense(
        node("Unsqueeze", ["h", "axes"], ["u"]),
        node("Conv", ["u", "v"], ["y"], name="conv"),
        weights=[constant("axes", np.array([0, 1], np.int64)), normal("v", 1, 1, 9, 40)],
    ),
    "a reshape that does not fit": lambda: dense(
        node("Reshape", ["h", "v"], ["y"], name="reshape"), weights=[constant("v", np.array([5, 7], np.int64))]
    ),
    "an index out of range": lambda: dense(
        node("Gather", ["h", "v"], ["y"], name="gather", axis=1), weights=[constant("v", np.array([99], np.int64))]
    ),
    "a split that does not fit": lambda: dense(
        node("Split", ["h", "v"], ["y", "z"], name="split", axis=1),
        weights=[constant("v", np.array([9, 9], np.int64))],
    ),
    "a zero stride": lambda: dense(
        node("Unsqueeze", ["h", "axes"], ["u"]),
        node("MaxPool", ["u"], ["y"], name="pool", kernel_shape=[2, 2], strides=[0, 0]),
        weights=[constant("axes", np.array([0, 1], np.int64))],
    ),
    "a zero-size weight": lambda: dense(
        node("Concat", ["h", "v"], ["y"], name="concat", axis=0), weights=[constant("v", np.zeros((0, 16), np.float32))]
    ),
    "a weight shorter than its shape": lambda: truncated(),
}


def truncated() -> onnx.ModelProto:
    made = dense(node("Relu", ["h"], ["y"], name="relu"))
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-8]
    return made


def outcome(create: Callable[[], ort.InferenceSession], inputs: dict[str, np.ndarray]) -> list[np.ndarray] | Exception:
    try:
        return create().run(None, inputs)
    except Exception as error:  # noqa: BLE001  (whatever onnxruntime raises)
        return error


@pytest.mark.parametrize("level", [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL])
@pytest.mark.parametrize("name", MODELS)
def test_bad_models(engraft: Engraft, name: str, level: ort.GraphOptimizationLevel) -> None:
    made = MODELS[name]()
    expected = outcome(lambda: reference(made), {"x": X})
    options = {"partition_policy": "maximal", "engine_cache_enable": "0"}
    actual = outcome(lambda: engraft.session(made, options, level=level), {"x": X})
    if isinstance(expected, Exception):
        assert isinstance(actual, Exception), f"{[a.shape for a in actual]} instead of {expected}"
        assert "internal error in Engraft" not in str(actual)
    elif isinstance(actual, Exception):
        raise AssertionError(f"ONNX Runtime alone runs this: {actual}")
    else:
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((0, 16), np.float32),
        np.full((2, 16), np.nan, np.float32),
        np.full((2, 16), 3e38, np.float32),
        np.full((2, 16), 1e-42, np.float32),
        np.zeros((2, 17), np.float32),
        np.zeros((2, 16), np.float64),
        np.zeros(16, np.float32),
    ],
    ids=["empty", "NaN", "overflowing", "denormal", "too wide", "another type", "another rank"],
)
def test_bad_inputs(engraft: Engraft, x: np.ndarray) -> None:
    session = engraft.session(mlp(), {"partition_policy": "maximal"})
    expected = outcome(lambda: reference(mlp()), {"x": x})
    actual = outcome(lambda: session, {"x": x})
    if isinstance(expected, Exception):
        assert isinstance(actual, Exception)
    else:
        assert not isinstance(actual, Exception), actual
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5)
    # The session goes on.
    engraft.agree(session, mlp(), {"x": X})


def test_missing_external_data(engraft: Engraft, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    for damage in (lambda: (tmp_path / "m.bin").write_bytes(b"short"), lambda: (tmp_path / "m.bin").unlink()):
        damage()
        assert isinstance(outcome(lambda: reference(path), {"x": X}), Exception)
        failure = outcome(lambda: engraft.session(path, {"partition_policy": "maximal"}), {"x": X})
        assert isinstance(failure, Exception) and ("m.bin" in str(failure) or "xternal initializer" in str(failure))


def test_types_that_engraft_does_not_hold_stay_with_the_host(engraft: Engraft) -> None:
    made = model(
        [node("Identity", ["s"], ["t"]), node("Relu", ["x"], ["y"])],
        [value("s", [2], TensorProto.STRING), value("x", [2])],
        [value("t", [2], TensorProto.STRING), value("y", [2])],
    )
    session = engraft.session(made, {"partition_policy": "maximal"})
    t, y = session.run(None, {"s": np.array(["a", "b"], object), "x": np.array([-1, 1], np.float32)})
    assert list(t) == ["a", "b"] and list(y) == [0, 1]
