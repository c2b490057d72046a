"""What ONNX Runtime had before ONNX did, and gates of newer models: Engraft's results against those of ONNX Runtime's own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Engraft, since
from contrib import Feed, agree, node_model, normal, reason

GATES = since(1, 32, "it has no gated operators")


@since(1, 28, "it crashes while it infers the shape, with or without other providers")
def test_expand_dims(engraft: Engraft) -> None:
    for axis in (0, 2, -1):
        made = node_model("ExpandDims", [("x", ["B", 5]), np.array(axis, np.int32)], ["y"])
        agree(engraft, made, [{"x": normal(3, 5)}])


def test_gather_nd(engraft: Engraft) -> None:
    made = node_model("GatherND", [("x", ["B", 4, 5]), ("ids", ["N", 2])], ["y"], types={"ids": np.int64})
    agree(engraft, made, [{"x": normal(3, 4, 5), "ids": np.array([[0, 1], [2, 3], [1, 0]])}])


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_grid_sample(engraft: Engraft, mode: str, padding: str, align_corners: int) -> None:
    made = node_model(
        "GridSample",
        [("x", ["N", 3, "H", "W"]), ("grid", ["N", "P", "Q", 2])],
        ["y"],
        mode=mode,
        padding_mode=padding,
        align_corners=align_corners,
    )
    agree(engraft, made, [{"x": normal(2, 3, 6, 9), "grid": normal(2, 4, 5, 2, seed=1)}])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(engraft: Engraft, mode: str) -> None:
    operands: list[Any] = [("x", ["B", 6]), np.array([0, 2, 0, 3], np.int64)]
    if mode == "constant":
        operands.append(np.array([1.5], np.float32))
    agree(engraft, node_model("Pad", operands, ["y"], mode=mode), [{"x": normal(3, 6)}])
    if mode == "constant":
        agree(engraft, node_model("Pad", operands[:2], ["y"]), [{"x": normal(3, 6)}])


def test_pad_cuts(engraft: Engraft) -> None:
    made = node_model("Pad", [("x", ["B", 6]), np.array([0, -2, 1, -1], np.int64)], ["y"])
    agree(engraft, made, [{"x": normal(3, 6)}])


@pytest.mark.parametrize("delta", [None, 3])
def test_range(engraft: Engraft, delta: int | None) -> None:
    types = dict.fromkeys(["limit", "y"], np.int64)
    operands: list[Any] = [np.array(2, np.int64), ("limit", [])]
    if delta:
        operands.append(np.array(delta, np.int64))
    made = node_model("Range", operands, ["y"], types=types)
    agree(engraft, made, [{"limit": np.array(limit, np.int64)} for limit in (2, 9, 30)])


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 2])
def test_trilu(engraft: Engraft, upper: int, k: int | None) -> None:
    operands: list[Any] = [("x", ["B", 5, 7])]
    if k is not None:
        operands.append(np.array(k, np.int64))
    agree(engraft, node_model("Trilu", operands, ["y"], upper=upper), [{"x": normal(2, 5, 7)}])


def test_unique_keeps_the_order_of_occurrence(engraft: Engraft) -> None:
    made = node_model("Unique", [("x", ["N"])], ["y", "index", "counts"], types={"index": np.int64, "counts": np.int64})
    values = np.random.default_rng(0).integers(0, 9, 40).astype(np.float32)
    agree(engraft, made, [{"x": np.float32([2, 1, 1, 3, 4, 3])}, {"x": values}])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_nhwc_max_pool(engraft: Engraft, dtype: type) -> None:
    made = node_model(
        "NhwcMaxPool",
        [("x", ["N", "H", "W", 8])],
        ["y"],
        types={"x": dtype, "y": dtype},
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    info = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(info.min, info.max + 1, (2, 9, 7, 8)).astype(dtype)
    agree(engraft, made, [{"x": x}])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("size", "step"), [(1, 1), (3, 1), (3, 2), (4, 5)])
def test_unfold_tensor(engraft: Engraft, axis: int, size: int, step: int) -> None:
    made = node_model("UnfoldTensor", [("x", ["B", "S", "T"])], ["y"], dim=axis, size=size, step=step)
    agree(engraft, made, [{"x": normal(4, 9, 6)}, {"x": normal(5, 4, 13)}])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances(engraft: Engraft, metric: str) -> None:
    made = node_model("CDist", [("a", ["M", 12]), ("b", ["N", 12])], ["y"], metric=metric)
    agree(engraft, made, [{"a": normal(m, 12), "b": normal(n, 12, seed=1)} for m, n in [(1, 1), (7, 5), (33, 20)]])


# ---- gates ----


@GATES
@pytest.mark.parametrize("scale", [None, "constant", "input"])
def test_scaled_silu(engraft: Engraft, scale: str | None) -> None:
    operands: list[Any] = [("x", ["B", "S", 16])]
    if scale:
        operands.append(np.array(0.7, np.float32) if scale == "constant" else ("scale", []))
    feed: Feed = {"x": normal(2, 3, 16)} | ({"scale": np.array(1.3, np.float32)} if scale == "input" else {})
    agree(engraft, node_model("ScaledSiLU", operands, ["y"], alpha=1.7), [feed])


@GATES
def test_gated_add(engraft: Engraft) -> None:
    shape = ["B", "S", 16]
    made = node_model("GatedAdd", [("x", shape), ("y", shape), ("gate", ["B", "S", 1])], ["z"])
    agree(engraft, made, [{"x": normal(2, 3, 16), "y": normal(2, 3, 16, seed=1), "gate": normal(2, 3, 1, seed=2)}])


@GATES
@pytest.mark.parametrize("activation", ["silu", "swish", "sigmoid"])
@pytest.mark.parametrize("heads", [1, 4])
def test_gated_rms_norm(engraft: Engraft, activation: str, heads: int) -> None:
    scale = 1 + normal(32 // heads, seed=1) / 4
    operands = [("x", ["B", "S", 32]), scale, ("gate", ["B", "S", 32])]
    made = node_model("GatedRMSNorm", operands, ["y"], activation=activation, epsilon=1e-3)
    agree(engraft, made, [{"x": normal(b, s, 32), "gate": normal(b, s, 32, seed=2)} for b, s in [(1, 1), (2, 7)]])


@GATES
@pytest.mark.parametrize("scale", [None, [8], [4, 8], [32]])
@pytest.mark.parametrize("flat", [False, True])
def test_branchwise_rms_norm(engraft: Engraft, scale: list[int] | None, flat: bool) -> None:
    operands: list[Any] = [("x", ["B", "S", 32] if flat else ["B", "S", 4, 8])]
    if scale:
        operands.append(1 + normal(*scale, seed=1) / 4)
    made = node_model("BranchwiseRMSNorm", operands, ["y"], epsilon=1e-4, **({"num_branches": 4} if flat else {}))
    agree(engraft, made, [{"x": normal(2, 3, 32) if flat else normal(2, 3, 4, 8)}])


@GATES
@pytest.mark.parametrize("beta", [False, True])
def test_linear_attention_gate(engraft: Engraft, beta: bool) -> None:
    operands: list[Any] = [("a", ["B", "T", 6]), normal(6, seed=1), -np.abs(normal(6, seed=2))]
    if beta:
        operands.append(("b", ["B", "T", 6]))
    made = node_model("LinearAttentionGate", operands, ["decay", "beta"] if beta else ["decay"])
    agree(engraft, made, [{"a": normal(2, 5, 6)} | ({"b": normal(2, 5, 6, seed=3)} if beta else {})])


@GATES
@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("past", [False, True])
def test_causal_convolution(engraft: Engraft, activation: str, bias: bool, dilation: int, past: bool) -> None:
    operands: list[Any] = [("x", ["B", 8, "L"]), normal(8, 1, 4, seed=1), normal(8, seed=2) if bias else None]
    if past:
        operands.append(("past", ["B", 8, 3 * dilation]))
    attributes = {"dilation": dilation} if dilation > 1 else {}
    made = node_model("CausalConvWithState", operands, ["y", "present"], activation=activation, **attributes)
    feeds = []
    for length in (1, 2, 9):
        feed = {"x": normal(2, 8, length)}
        feeds.append(feed | ({"past": normal(2, 8, 3 * dilation, seed=3)} if past else {}))
    agree(engraft, made, feeds)


@GATES
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("sections", [[4, 2, 2], [2, 3, 3], [8, 0, 0]])
@pytest.mark.parametrize("rank", [3, 4])
def test_multimodal_rotary(engraft: Engraft, layout: int, interleaved: int, sections: list[int], rank: int) -> None:
    angles = np.random.default_rng(0).random((20, 8)).astype(np.float32) * 6
    shape = ["B", "S", 64] if rank == 3 else ["B", 4, "S", 16]
    made = node_model(
        "MRotaryEmbedding",
        [("x", shape), ("at", [3, "B", "S"]), np.cos(angles), np.sin(angles)],
        ["y"],
        types={"at": np.int64},
        mrope_section=sections,
        mrope_layout=layout,
        interleaved=interleaved,
        num_heads=4,
    )
    at = np.random.default_rng(1).integers(0, 20, (3, 2, 5))
    agree(engraft, made, [{"x": normal(2, 5, 64) if rank == 3 else normal(2, 4, 5, 16), "at": at}])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_decoder_masked_attention(engraft: Engraft, bias: bool, mask: bool, cross: bool) -> None:
    """Attention to itself without shared buffers, which the host's CPU provider lacks, is held against MultiHeadAttention."""
    past, total = 6, 6 if cross else 7
    states = ["B", 4, "P", 8]
    operands: list[Any] = [("q", ["B", 1, 32])]
    operands += [("k", states), ("v", states)] if cross else [("k", ["B", 1, 32]), ("v", ["B", 1, 32])]
    operands.append(("mask", ["B", "T"]) if mask else None)
    operands.append(None)
    operands += [] if cross else [("past_k", states), ("past_v", states)]
    if bias:
        operands += [None] * (10 - len(operands)) + [normal(96, seed=5)]
    outputs = ["y"] if cross else ["y", "present_k", "present_v"]
    made = node_model("DecoderMaskedMultiHeadAttention", operands, outputs, types={"mask": np.int32}, num_heads=4)
    feed: Feed = {"q": normal(2, 1, 32)}
    if cross:
        feed |= {"k": normal(2, 4, past, 8, seed=1), "v": normal(2, 4, past, 8, seed=2)}
    else:
        feed |= {"k": normal(2, 1, 32, seed=1), "v": normal(2, 1, 32, seed=2)}
        feed |= {"past_k": normal(2, 4, past, 8, seed=3), "past_v": normal(2, 4, past, 8, seed=4)}
    if mask:
        feed["mask"] = (np.arange(total) < np.array([[total], [3]])).astype(np.int32)
    oracle = made
    if not cross:
        q, k, v, padding, _, *states = operands[:7]
        same = [q, k, v, operands[10] if bias else None, padding, None, *states]
        oracle = node_model("MultiHeadAttention", same, outputs, types={"mask": np.int32}, num_heads=4)
    agree(engraft, made, [feed], oracle)


def test_what_stays_with_the_host_says_why(engraft: Engraft) -> None:
    inverse = node_model("Inverse", [("x", ["B", 4, 4])], ["y"])
    assert "factorized by the host" in reason(engraft, inverse)
    blocks = [("x", ["B", 32]), np.zeros((8, 1, 16), np.uint8), np.ones(8, np.float32)]
    product = node_model("MatMulNBits", blocks, ["y"], K=32, N=8, bits=4, block_size=32)
    assert "quantized in blocks" in reason(engraft, product)
