"""What ONNX Runtime adds to ONNX, form by form: Engraft's results against those of ONNX Runtime's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same
from contrib import Feed, agree, node_model, normal, placed, reason

# ---- activations ----


@pytest.mark.parametrize(
    ("op", "bias", "attributes"),
    [
        ("Gelu", None, {}),
        ("QuickGelu", None, {}),
        ("QuickGelu", None, {"alpha": 0.7}),
        ("QuickGelu", None, {"alpha": 1.0}),
        ("FastGelu", None, {}),
        ("FastGelu", "constant", {}),
        ("FastGelu", "input", {}),
        ("BiasGelu", "constant", {}),
        ("BiasGelu", "input", {}),
    ],
)
def test_gelus(engraft: Engraft, op: str, bias: str | None, attributes: dict[str, float]) -> None:
    operands: list[Any] = [("x", ["B", "S", 48])]
    if bias:
        operands.append(normal(48, seed=1) if bias == "constant" else ("b", [48]))
    made = node_model(op, operands, ["y"], **attributes)
    extra = {"b": normal(48, seed=2)} if bias == "input" else {}
    agree(engraft, made, [{"x": 3 * normal(*shape, 48), **extra} for shape in [(1, 1), (2, 7), (3, 33), (0, 4)]])


ACTIVATIONS = [
    ("Relu", []),
    ("Tanh", []),
    ("Sigmoid", []),
    ("LeakyRelu", [0.1]),
    ("Clip", [-0.5, 1.5]),
    ("HardSigmoid", [0.3, 0.4]),
]


@pytest.mark.parametrize(("activation", "parameters"), [("", []), *ACTIVATIONS])
@pytest.mark.parametrize("sum_input", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_fused_conv(engraft: Engraft, activation: str, parameters: list[float], sum_input: bool, bias: bool) -> None:
    operands: list[Any] = [("x", ["N", 6, "H", "W"]), normal(8, 3, 3, 3) / 3]
    if bias or sum_input:
        operands.append(normal(8, seed=1) if bias else None)
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1], "group": 2}
    if sum_input:
        operands.append(("z", ["N", 8, "H", "W"]))
    if activation:
        attributes["activation"] = activation
    if parameters:
        attributes["activation_params"] = parameters
    made = node_model("FusedConv", operands, ["y"], **attributes)
    feeds = []
    for n, h, w in [(1, 8, 8), (2, 5, 9)]:
        feeds.append({"x": normal(n, 6, h, w)} | ({"z": normal(n, 8, h, w, seed=3)} if sum_input else {}))
    agree(engraft, made, feeds)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", {}),
        ("Tanh", {}),
        ("Sigmoid", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("LeakyRelu", {"activation_alpha": 0.1}),
        ("Elu", {"activation_alpha": 0.6}),
        ("ThresholdedRelu", {"activation_alpha": 0.5}),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
        ("Selu", {"activation_alpha": 1.5, "activation_gamma": 1.1}),
    ],
)
def test_fused_gemm(engraft: Engraft, activation: str, parameters: dict[str, float]) -> None:
    operands = [("a", ["M", 24]), normal(16, 24) / 4, normal(16, seed=1)]
    made = node_model("FusedGemm", operands, ["y"], transB=1, activation=activation, **parameters)
    agree(engraft, made, [{"a": normal(m, 24)} for m in (1, 5, 64)])
    scaled = node_model(
        "FusedGemm", operands, ["y"], transB=1, alpha=0.5, beta=1.5, activation=activation, **parameters
    )
    agree(engraft, scaled, [{"a": normal(m, 24)} for m in (1, 5)])


@pytest.mark.parametrize("op", ["FusedMatMul", "TransposeMatMul"])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_fused_matmul(engraft: Engraft, op: str, trans_a: int, trans_b: int) -> None:
    a, b = (["B", 12, "M"] if trans_a else ["B", "M", 12]), (["B", "N", 12] if trans_b else ["B", 12, "N"])
    made = node_model(op, [("a", a), ("b", b)], ["y"], transA=trans_a, transB=trans_b, alpha=0.3)
    feeds = []
    for batch, m, n in [(1, 4, 4), (3, 7, 20)]:
        left, right = normal(batch, m, 12), normal(batch, 12, n, seed=1)
        feeds.append({"a": left.swapaxes(1, 2) if trans_a else left, "b": right.swapaxes(1, 2) if trans_b else right})
    agree(engraft, made, feeds)


@pytest.mark.parametrize(("left", "right"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_fused_matmul_with_batches_behind(engraft: Engraft, left: int, right: int, transposed: int) -> None:
    """`transBatchA`: the rows stand before the batch axes."""
    a, b = normal(3, 2, 5, 12), normal(3, 2, 12, 7, seed=1)
    if transposed:
        a, b = a.swapaxes(2, 3), b.swapaxes(2, 3)
    feed = {
        "a": np.ascontiguousarray(np.moveaxis(a, 2, 0)) if left else np.ascontiguousarray(a),
        "b": np.ascontiguousarray(np.moveaxis(b, 2, 0)) if right else np.ascontiguousarray(b),
    }
    made = node_model(
        "FusedMatMul",
        [(name, list(feed[name].shape)) for name in feed],
        ["y"],
        transBatchA=left,
        transBatchB=right,
        transA=transposed,
        transB=transposed,
    )
    agree(engraft, made, [feed])


# ---- normalizations ----


def skip_operands(skip: Sequence[int | str], bias: bool, rms: bool) -> list[Any]:
    scale, shift = 1 + normal(64, seed=1) / 4, normal(64, seed=2) / 4
    operands: list[Any] = [("x", ["B", "S", 64]), ("skip", skip), scale]
    if not rms:
        operands.append(shift)
    if bias:
        operands.append(normal(64, seed=3) / 2)
    return operands


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "sum"]])
@pytest.mark.parametrize("epsilon", [None, 1e-3])
def test_skip_layer_norm(engraft: Engraft, op: str, bias: bool, outputs: list[str], epsilon: float | None) -> None:
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    operands = skip_operands(["B", "S", 64], bias, "Simplified" in op)
    made = node_model(op, operands, outputs, **attributes)
    agree(engraft, made, [{"x": normal(b, s, 64), "skip": normal(b, s, 64, seed=9)} for b, s in [(1, 1), (2, 17)]])


@pytest.mark.parametrize("skip", [["1", "S", 64], ["S", 64]])
def test_skips_are_broadcast(engraft: Engraft, skip: list[int | str]) -> None:
    shape = [1 if dim == "1" else dim for dim in skip]
    made = node_model("SkipLayerNormalization", skip_operands(shape, True, False), ["y", "", "", "sum"])
    leading = (1,) if len(shape) == 3 else ()
    agree(
        engraft,
        made,
        [{"x": normal(b, s, 64), "skip": normal(*leading, s, 64, seed=9)} for b, s in [(1, 3), (4, 5)]],
    )


def test_skip_layer_norm_without_shift_or_batch(engraft: Engraft) -> None:
    operands = [("x", ["B", "S", 64]), ("skip", ["B", "S", 64]), 1 + normal(64, seed=1) / 4]
    feed = {"x": normal(2, 3, 64), "skip": normal(2, 3, 64, seed=1)}
    agree(engraft, node_model("SkipLayerNormalization", operands, ["y"]), [feed])
    flat = [("x", ["T", 64]), ("skip", ["T", 64]), 1 + normal(64, seed=1) / 4]
    agree(
        engraft,
        node_model("SkipSimplifiedLayerNormalization", flat, ["y", "", "", "sum"]),
        [{"x": normal(7, 64), "skip": normal(7, 64, seed=1)}],
    )


def test_training_outputs_are_refused_by_name(engraft: Engraft) -> None:
    made = node_model("SkipLayerNormalization", skip_operands(["B", "S", 64], False, False), ["y", "mean"])
    assert "output mean" in reason(engraft, made)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("outputs", [["y"], ["y", "inverse"]])
def test_simplified_layer_norm(engraft: Engraft, axis: int, outputs: list[str]) -> None:
    scale = 1 + normal(*([8, 32] if axis == 1 else [32]), seed=1) / 4
    made = node_model(
        "SimplifiedLayerNormalization", [("x", ["B", 8, 32]), scale], outputs, domain="", axis=axis, epsilon=1e-4
    )
    agree(engraft, made, [{"x": normal(b, 8, 32)} for b in (1, 5)])


def embedding(batch: int, length: int) -> Feed:
    random = np.random.default_rng(length)
    return {
        "words": random.integers(0, 50, (batch, length)).astype(np.int32),
        "segments": random.integers(0, 2, (batch, length)).astype(np.int32),
        "mask": (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int32),
        "positions": random.integers(0, 20, (batch, length)).astype(np.int32),
    }


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("positions", [None, "B", 1])
@pytest.mark.parametrize("outputs", [["y", "index"], ["y", "index", "sum"]])
def test_embed_layer_norm(
    engraft: Engraft, segments: bool, mask: bool, positions: str | int | None, outputs: list[str]
) -> None:
    integers = dict.fromkeys(["words", "segments", "mask", "positions", "index"], np.int32)
    operands = [
        ("words", ["B", "S"]),
        ("segments", ["B", "S"]) if segments else None,
        normal(50, 64),
        normal(20, 64, seed=1),
        normal(2, 64, seed=2) if segments else None,
        1 + normal(64, seed=3) / 4,
        normal(64, seed=4),
        ("mask", ["B", "S"]) if mask else None,
        ("positions", [positions, "S"]) if positions else None,
    ]
    made = node_model("EmbedLayerNormalization", operands, outputs, types=integers, epsilon=1e-5)
    wanted = [operand[0] for operand in operands if isinstance(operand, tuple)]
    feeds = []
    for batch, length in [(1, 8), (3, 20)]:
        feed = embedding(batch, length)
        if positions == 1:
            feed["positions"] = feed["positions"][:1]
        feeds.append({name: feed[name] for name in wanted})
    agree(engraft, made, feeds)


# ---- what ONNX Runtime's CPU provider lacks, by the formulas of its schema ----


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def by_formula(engraft: Engraft, made: onnx.ModelProto, feed: Feed, formula: Callable[..., list[np.ndarray]]) -> None:
    expected = [array.astype(np.float32) for array in formula(**{k: v.astype(np.float64) for k, v in feed.items()})]
    assert_same(placed(engraft, made).run(None, feed), expected)


def test_bias_add(engraft: Engraft) -> None:
    bias = normal(32, seed=1)
    made = node_model("BiasAdd", [("x", ["N", "S", 32]), bias, ("skip", ["N", "S", 32])], ["y"])
    feed = {"x": normal(2, 9, 32), "skip": normal(2, 9, 32, seed=2)}
    by_formula(engraft, made, feed, lambda x, skip: [x + bias + skip])


def test_bias_split_gelu(engraft: Engraft) -> None:
    bias = normal(64, seed=1)
    made = node_model("BiasSplitGelu", [("x", ["N", "S", 64]), bias], ["y"])

    def formula(x: np.ndarray) -> list[np.ndarray]:
        left, right = np.split(x + bias, 2, axis=-1)
        return [left * gelu(right)]

    by_formula(engraft, made, {"x": normal(2, 9, 64)}, formula)


def group_normalized(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, silu: int) -> np.ndarray:
    """Four groups, channels last, epsilon 1e-3."""
    grouped = x.reshape(x.shape[0], -1, 4, x.shape[-1] // 4)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    y = ((grouped - mean) / np.sqrt(variance + 1e-3)).reshape(x.shape) * scale + shift
    return y / (1 + np.exp(-y)) if silu else y


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("silu", [0, 1])
def test_group_norm(engraft: Engraft, channels_last: int, silu: int) -> None:
    scale, shift = 1 + normal(16, seed=1) / 4, normal(16, seed=2)
    shape = ["N", "H", "W", 16] if channels_last else ["N", 16, "H", "W"]
    made = node_model(
        "GroupNorm",
        [("x", shape), scale, shift],
        ["y"],
        groups=4,
        epsilon=1e-3,
        activation=silu,
        channels_last=channels_last,
    )

    def formula(x: np.ndarray) -> list[np.ndarray]:
        if channels_last:
            return [group_normalized(x, scale, shift, silu)]
        return [np.moveaxis(group_normalized(np.moveaxis(x, 1, -1), scale, shift, silu), -1, 1)]

    feed = normal(2, 5, 6, 16) + 1
    by_formula(engraft, made, {"x": feed if channels_last else np.ascontiguousarray(np.moveaxis(feed, -1, 1))}, formula)


@pytest.mark.parametrize("skip", [["N", "H", "W", 16], ["N", 1, 1, 16], ["N", 16]])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_group_norm(engraft: Engraft, skip: list[int | str], bias: bool) -> None:
    scale, shift, added = 1 + normal(16, seed=1) / 4, normal(16, seed=2), normal(16, seed=3)
    operands: list[Any] = [("x", ["N", "H", "W", 16]), scale, shift, ("skip", skip)]
    if bias:
        operands.append(added)
    made = node_model("SkipGroupNorm", operands, ["y", "sum"], groups=4, epsilon=1e-3, activation=1)
    sizes = {"N": 2, "H": 5, "W": 6}

    def formula(x: np.ndarray, skip: np.ndarray) -> list[np.ndarray]:
        spread = skip[:, None, None, :] if skip.ndim == 2 else skip
        total = x + spread + (added if bias else 0)
        return [group_normalized(total, scale, shift, 1), total]

    feed = {"x": normal(2, 5, 6, 16), "skip": normal(*[sizes.get(dim, dim) for dim in skip], seed=4)}
    by_formula(engraft, made, feed, formula)
