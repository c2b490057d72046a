"""ONNX Runtime's Attention and MultiHeadAttention against its own kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same, reference
from contrib import INTEGERS, agree, node_model, normal, placed, reason, sized


def padding_mask(kind: str, batch: int, rows: int, keys: int) -> np.ndarray:
    """A mask of the named form; every row keeps a key."""
    random = np.random.default_rng(batch * 100 + keys)
    ends = random.integers(1, keys + 1, batch)
    starts = np.minimum(random.integers(0, 3, batch), ends - 1)
    line = np.arange(keys)
    within = (line < ends[:, None]) & (line >= starts[:, None])
    masks = {
        "ends": ends,
        "ends and starts": np.concatenate([ends, starts]),
        "packed": np.concatenate([ends, np.arange(batch + 1) * rows, np.arange(batch + 1) * keys]),
        "keys": within,
        "rows": np.broadcast_to(within[:, None], (batch, rows, keys)) | (line == random.integers(0, keys, (rows, 1))),
        "dummy": np.ones((batch, 1)),
    }
    return np.ascontiguousarray(masks[kind]).astype(np.int32)


MASK_SHAPES: dict[str, list[int | str]] = {
    "ends": ["B"],
    "keys": ["B", "T"],
    "rows": ["B", "S", "T"],
    "dummy": ["B", 1],
}


def term_shape(kind: str, heads: int) -> list[int | str]:
    return {"full": ["B", heads, "S", "T"], "batch": [1, heads, "S", "T"], "heads": ["B", 1, "S", "T"]}[kind]


@pytest.mark.parametrize("mask", [None, "ends", "ends and starts", "keys", "rows", "dummy"])
@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("term", [None, "full"])
def test_attention(engraft: Engraft, mask: str | None, unidirectional: int, term: str | None) -> None:
    made_for: dict[int, onnx.ModelProto] = {}
    for batch, length in [(1, 5), (2, 9)]:
        sizes = {"B": batch, "S": length, "T": length}
        # Without names for the sizes the forms of one axis can only be told apart by numbers.
        fixed = mask == "ends and starts"
        named = (lambda shape: list(sized(shape, sizes))) if fixed else list
        operands: list[Any] = [("x", named(["B", "S", 24])), normal(24, 96) / 4, normal(96, seed=1) / 4]
        operands.append(None)
        if mask:
            shape = [2 * batch] if fixed else ["S" if dim == "T" else dim for dim in MASK_SHAPES[mask]]
            operands[3] = ("mask", shape)
        if term:
            operands += [None, ("term", named(["S" if dim == "T" else dim for dim in term_shape(term, 4)]))]
        made = made_for.setdefault(
            batch if fixed else 0,
            node_model("Attention", operands, ["y"], types=INTEGERS, num_heads=4, unidirectional=unidirectional),
        )
        feed = {"x": normal(batch, length, 24)}
        if mask:
            feed["mask"] = padding_mask(mask, batch, length, length)
        if term:
            feed["term"] = normal(*sized(term_shape(term, 4), sizes), seed=5)
        agree(engraft, made, [feed])


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("mask", [None, "ends", "keys"])
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention_with_its_past(engraft: Engraft, past: bool, mask: str | None, unidirectional: int) -> None:
    operands: list[Any] = [("x", ["B", "S", 32]), normal(32, 96) / 4, normal(96, seed=1) / 4]
    operands += [("mask", MASK_SHAPES[mask]) if mask else None, ("past", [2, "B", 4, "P", 8]) if past else None]
    made = node_model(
        "Attention", operands, ["y", "present"], types=INTEGERS, num_heads=4, unidirectional=unidirectional
    )
    feeds = []
    for batch, length, older in [(1, 1, 6), (2, 3, 4), (2, 4, 0)]:
        feed = {"x": normal(batch, length, 32)}
        older = older if past else 0
        if past:
            feed["past"] = normal(2, batch, 4, older, 8, seed=3)
        if mask:
            feed["mask"] = padding_mask(mask, batch, length, length + older)
        feeds.append(feed)
    agree(engraft, made, feeds)


def test_attention_with_other_sizes(engraft: Engraft) -> None:
    operands = [("x", ["B", "S", 24]), normal(24, 16 + 16 + 40) / 4, normal(72, seed=1)]
    attributes = {"num_heads": 4, "qkv_hidden_sizes": [16, 16, 40], "scale": 0.3, "mask_filter_value": -50.0}
    made = node_model("Attention", [*operands, ("mask", ["B", "S"])], ["y"], types=INTEGERS, **attributes)
    feeds = [{"x": normal(b, s, 24), "mask": padding_mask("keys", b, s, s)} for b, s in [(1, 4), (3, 7)]]
    agree(engraft, made, feeds)


@pytest.mark.parametrize(
    ("inputs", "attributes", "text"),
    [
        ([None, ("mask", ["B", 1, "M", "M"])], {}, "mask_index of rank 4"),
        ([None, ("mask", ["N"])], {}, "mask_index"),
        ([None, None, ("past", [2, "B", 4, "M", 6])], {"past_present_share_buffer": 1}, "past_present_share_buffer"),
        ([None], {"do_rotary": 1}, "do_rotary"),
    ],
)
def test_attention_is_refused_by_name(
    engraft: Engraft, inputs: list[Any], attributes: dict[str, int], text: str
) -> None:
    operands = [("x", ["B", "S", 24]), normal(24, 72), normal(72), *inputs[1:]]
    outputs = ["y", "present"] if len(inputs) > 2 else ["y"]
    made = node_model("Attention", operands, outputs, types=INTEGERS, num_heads=4, **attributes)
    assert text in reason(engraft, made)


@pytest.mark.parametrize("mask", [None, "ends", "keys", "rows"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("term", [None, "full", "batch", "heads"])
def test_multi_head_attention(engraft: Engraft, mask: str | None, bias: bool, term: str | None) -> None:
    operands: list[Any] = [("q", ["B", "S", 32]), ("k", ["B", "T", 32]), ("v", ["B", "T", 48])]
    operands.append(normal(112, seed=1) / 2 if bias else None)
    operands.append(("mask", MASK_SHAPES[mask]) if mask else None)
    operands.append(("term", term_shape(term, 4)) if term else None)
    made = node_model("MultiHeadAttention", operands, ["y"], types=INTEGERS, num_heads=4)
    feeds = []
    for batch, rows, keys in [(1, 1, 5), (2, 6, 6), (2, 3, 20)]:
        sizes = {"B": batch, "S": rows, "T": keys}
        feed = {"q": normal(batch, rows, 32), "k": normal(batch, keys, 32, seed=2)}
        feed["v"] = normal(batch, keys, 48, seed=3)
        if mask:
            feed["mask"] = padding_mask(mask, batch, rows, keys)
        if term:
            feed["term"] = normal(*sized(term_shape(term, 4), sizes), seed=5)
        feeds.append(feed)
    agree(engraft, made, feeds)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("mask", [None, "keys"])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_self_attention(
    engraft: Engraft, unidirectional: int, scale: float | None, past: bool, mask: str | None, bias: bool
) -> None:
    operands: list[Any] = [(name, ["B", "S", 32]) for name in "qkv"]
    operands += [normal(96, seed=1) / 2 if bias else None, ("mask", ["B", "T"]) if mask else None, None]
    operands += [("past_k", ["B", 4, "P", 8]), ("past_v", ["B", 4, "P", 8])] if past else []
    attributes: dict[str, Any] = {"num_heads": 4, "unidirectional": unidirectional}
    if scale:
        attributes["scale"] = scale
    made = node_model("MultiHeadAttention", operands, ["y", "k1", "v1"], types=INTEGERS, **attributes)
    feeds = []
    for batch, rows, older in [(1, 1, 7), (2, 5, 3), (1, 4, 0)]:
        older = older if past else 0
        feed = {name: normal(batch, rows, 32, seed=seed) for seed, name in enumerate("qkv")}
        if past:
            feed |= {name: normal(batch, 4, older, 8, seed=7) for name in ("past_k", "past_v")}
        if mask:
            feed["mask"] = padding_mask(mask, batch, rows, rows + older)
        feeds.append(feed)
    agree(engraft, made, feeds)


@pytest.mark.parametrize("bias", [False, True])
def test_cross_attention_to_states(engraft: Engraft, bias: bool) -> None:
    """Keys and values that an earlier step has split into heads already."""
    operands = [("q", ["B", "S", 32]), ("k", ["B", 4, "T", 8]), ("v", ["B", 4, "T", 8])]
    if bias:
        operands.append(np.concatenate([normal(32), np.zeros(64, np.float32)]))
    made = node_model("MultiHeadAttention", operands, ["y"], num_heads=4)
    feeds = []
    for batch, rows, keys in [(1, 1, 9), (2, 3, 5)]:
        feeds.append({"q": normal(batch, rows, 32)} | {name: normal(batch, 4, keys, 8) for name in "kv"})
    agree(engraft, made, feeds)


@pytest.mark.parametrize("packed", ["all", "keys and values"])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_operands(engraft: Engraft, packed: str, bias: bool) -> None:
    """ONNX Runtime's CPU kernel does not take packed operands: the oracle is the same node without packing."""
    made_bias = normal(96, seed=1) if bias else None
    parts = [normal(2, 6, 4, 8, seed=seed) for seed in range(3)]
    flat = {name: np.ascontiguousarray(part.reshape(2, 6, 32)) for name, part in zip("qkv", parts)}
    plain = node_model(
        "MultiHeadAttention", [*[(name, ["B", "S", 32]) for name in "qkv"], made_bias], ["y"], num_heads=4
    )
    if packed == "all":
        operands: list[Any] = [("q", ["B", "S", 4, 3, 8]), None, None, made_bias]
        feed = {"q": np.stack(parts, 3)}
    else:
        operands = [("q", ["B", "S", 32]), ("k", ["B", "S", 4, 2, 8]), None, made_bias]
        feed = {"q": flat["q"], "k": np.stack(parts[1:], 3)}
    session = placed(engraft, node_model("MultiHeadAttention", operands, ["y"], num_heads=4))
    assert_same(session.run(None, feed), reference(plain).run(None, flat))
