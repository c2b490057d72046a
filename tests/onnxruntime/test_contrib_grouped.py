"""Rotary embeddings and ONNX Runtime's GroupQueryAttention against its own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same, reference, since
from contrib import INTEGERS, Feed, agree, node_model, normal, placed, reason, sized

# ---- rotary embeddings ----


def tables(positions: int, half: int) -> list[np.ndarray]:
    angles = np.arange(positions)[:, None] / 10 ** (np.arange(half) / half)
    return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("width", [0, 8])
@pytest.mark.parametrize("at", ["first", "each"])
@pytest.mark.parametrize("packed", [0, 1])
def test_rotary_embedding(engraft: Engraft, interleaved: int, rank: int, width: int, at: str, packed: int) -> None:
    shape = ["B", "S", 64] if rank == 3 else ["B", 4, "S", 16]
    attributes: dict[str, int] = {"interleaved": interleaved, "is_packed_batching": packed}
    if width:
        attributes |= {"rotary_embedding_dim": width, "num_heads": 4}
    operands = [("x", shape), ("ids", [1] if at == "first" else ["B", "S"]), *tables(40, (width or 16) // 2)]
    made = node_model("RotaryEmbedding", operands, ["y"], types=INTEGERS, **attributes)
    feeds = []
    for batch, length in [(1, 1), (2, 7)]:
        ids = np.array([3]) if at == "first" else np.random.default_rng(1).integers(0, 40, (batch, length))
        feeds.append({"x": normal(*sized(shape, {"B": batch, "S": length})), "ids": ids})
    agree(engraft, made, feeds)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("width", [0, 8])
@pytest.mark.parametrize("ids", [False, True])
def test_rotary_embedding_of_onnx(engraft: Engraft, interleaved: int, rank: int, width: int, ids: bool) -> None:
    shape = ["B", "S", 64] if rank == 3 else ["B", 4, "S", 16]
    attributes: dict[str, int] = {"interleaved": interleaved, "num_heads": 4}
    if width:
        attributes["rotary_embedding_dim"] = width
    half = (width or 16) // 2
    operands: list[Any] = [("x", shape)]
    operands += [*tables(40, half), ("ids", ["B", "S"])] if ids else [(name, ["B", "S", half]) for name in ("c", "s")]
    made = node_model("RotaryEmbedding", operands, ["y"], types=INTEGERS, domain="", opset=23, **attributes)
    feeds = []
    for batch, length in [(1, 1), (2, 7)]:
        feed: Feed = {"x": normal(*sized(shape, {"B": batch, "S": length}))}
        at = np.random.default_rng(1).integers(0, 40, (batch, length))
        if ids:
            feed["ids"] = at
        else:
            feed["c"], feed["s"] = (table[at] for table in tables(40, half))
        feeds.append(feed)
    agree(engraft, made, feeds)


# ---- grouped queries ----

HEADS, GROUPS, SIZE = 4, 2, 16
CACHE: list[int | str] = ["B", GROUPS, "P", SIZE]


def grouped_model(
    *,
    batch: int | str = "B",
    packed: bool = False,
    past: bool = True,
    rotary: int | None = None,
    ids: bool = False,
    term: list[int | str] | None = None,
    sinks: bool = False,
    outputs: Sequence[str] = ("y", "k1", "v1"),
    extra: Sequence[Any] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    def shape(*dims: int | str) -> list[int | str]:
        return [batch if dim == "B" else dim for dim in dims]

    if packed:
        operands: list[Any] = [("q", shape("B", "S", (HEADS + 2 * GROUPS) * SIZE)), None, None]
    else:
        operands = [("q", shape("B", "S", HEADS * SIZE))]
        operands += [(name, shape("B", "S", GROUPS * SIZE)) for name in "kv"]
    operands += [("past_k", shape(*CACHE)), ("past_v", shape(*CACHE))] if past else [None, None]
    operands += [("lengths", shape("B")), ("total", [1])]
    operands += tables(64, rotary // 2) if rotary else [None, None]
    operands += [("ids", shape("B", "S")) if ids else None, ("term", shape(*term)) if term else None]
    operands += [normal(HEADS, seed=8) if sinks else None, *extra]
    while operands[-1] is None:
        operands.pop()
    attributes |= {"num_heads": HEADS, "kv_num_heads": GROUPS} | ({"do_rotary": 1} if rotary else {})
    return node_model("GroupQueryAttention", operands, outputs, types=INTEGERS, **attributes)


def grouped_feed(
    made: onnx.ModelProto, lengths: Sequence[int], rows: int, cached: int, term: list[int | str] | None = None
) -> Feed:
    """Batch items of `lengths` keys at the end of the step, of which `rows` are new, in a cache of `cached`."""
    batch, total = len(lengths), max(lengths)
    width = made.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    feed = {
        "q": normal(batch, rows, width),
        "k": normal(batch, rows, GROUPS * SIZE, seed=1),
        "v": normal(batch, rows, GROUPS * SIZE, seed=2),
        "past_k": normal(batch, GROUPS, cached, SIZE, seed=3),
        "past_v": normal(batch, GROUPS, cached, SIZE, seed=4),
        "lengths": np.array(lengths, np.int32) - 1,
        "total": np.array([total], np.int32),
        "ids": np.maximum(np.array(lengths)[:, None] - rows, 0) + np.arange(rows),
    }
    if term:
        feed["term"] = normal(*sized(term, {"B": batch, "S": rows, "T": total}), seed=6)
    return {i.name: feed[i.name] for i in made.graph.input}


def specified(outputs: list[np.ndarray], item: int, rows: int, keys: int) -> list[np.ndarray]:
    """What is specified of a batch item's results: rows that are no padding, and keys that exist."""
    y, *caches = outputs
    return [y[item, :rows], *(cache[item, :, :keys] for cache in caches)]


def grouped_agree(engraft: Engraft, made: onnx.ModelProto, steps: Sequence[tuple[Any, ...]], **kwargs: Any) -> None:
    session, expected = placed(engraft, made), reference(made)
    for lengths, rows, cached in steps:
        feed = grouped_feed(made, lengths, rows, cached, **kwargs)
        got, want = session.run(None, feed), expected.run(None, feed)
        assert [part.shape for part in got] == [part.shape for part in want]
        for item, length in enumerate(lengths):
            valid = min(rows, length)
            assert_same(*(specified(outputs, item, valid, length) for outputs in (got, want)))


# Keys of each batch item after the step, new rows, room in the cache: prompts (in an empty cache or one with room),
# tokens, a longer step.
STEPS = [([6], 6, 0), ([6], 6, 9), ([7], 1, 6), ([7], 1, 12), ([9], 3, 6), ([20], 1, 19)]
RAGGED = [([6, 4], 6, 0), ([6, 6, 2], 6, 8), ([7, 5], 1, 6), ([7, 3], 1, 12), ([8, 8], 1, 7)]


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [None, 16])
def test_grouped_queries(engraft: Engraft, batch: int | str, packed: bool, rotary: int | None) -> None:
    made = grouped_model(batch=batch, packed=packed, rotary=rotary)
    grouped_agree(engraft, made, STEPS if batch == 1 else [*STEPS, *RAGGED])


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_queries_without_past(engraft: Engraft, packed: bool) -> None:
    made = grouped_model(packed=packed, past=False, rotary=16)
    grouped_agree(engraft, made, [([6], 6, 0), ([5, 3], 5, 0), ([1, 1], 1, 0)])


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("ids", [False, True])
def test_grouped_queries_rotate(engraft: Engraft, batch: int | str, interleaved: int, ids: bool) -> None:
    made = grouped_model(batch=batch, rotary=16, ids=ids, rotary_interleaved=interleaved)
    grouped_agree(engraft, made, STEPS if batch == 1 else [*STEPS, *RAGGED])


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_grouped_queries_in_a_window(engraft: Engraft, batch: int | str, window: int, cap: float) -> None:
    made = grouped_model(batch=batch, local_window_size=window, softcap=cap, scale=0.4)
    grouped_agree(engraft, made, STEPS if batch == 1 else [*STEPS, *RAGGED])


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("term", [["B", HEADS, "S", "T"], [1, 1, "S", "T"]])
def test_grouped_queries_with_a_term(engraft: Engraft, batch: int | str, cap: float, term: list[int | str]) -> None:
    made = grouped_model(batch=batch, term=term, softcap=cap)
    grouped_agree(engraft, made, STEPS if batch == 1 else [*STEPS, *RAGGED], term=term)


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("form", ["smooth", "sinks", "sinks in a window", "sinks and a term"])
def test_grouped_queries_with_sinks(engraft: Engraft, batch: int | str, form: str) -> None:
    term: list[int | str] | None = ["B", HEADS, "S", "T"] if "term" in form else None
    attributes: dict[str, int] = {"smooth_softmax": 1} if form == "smooth" else {}
    if "window" in form:
        attributes["local_window_size"] = 3
    made = grouped_model(batch=batch, sinks="sinks" in form, term=term, **attributes)
    grouped_agree(engraft, made, STEPS if batch == 1 else [*STEPS, *RAGGED], term=term)


@since(1, 32, "no such attribute")
def test_grouped_queries_that_see_all(engraft: Engraft) -> None:
    grouped_agree(engraft, grouped_model(causal=0), [([6], 6, 0), ([7, 5], 1, 6)])


@since(1, 32, "no such operand")
def test_padded_chunks(engraft: Engraft) -> None:
    """`query_seqlens`: new rows behind which padding follows."""
    made = grouped_model(rotary=16, extra=[None] * 4 + [("new", ["B"])], outputs=["y", "k1", "v1"])
    made.graph.input[-1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    session, expected = placed(engraft, made), reference(made)
    for lengths, new in [([6, 3], [4, 3]), ([9, 5], [1, 4])]:
        feed = grouped_feed_with(made, lengths, new)
        got, want = session.run(None, feed), expected.run(None, feed)
        for item, (length, count) in enumerate(zip(lengths, new)):
            assert_same(*(specified(outputs, item, count, length) for outputs in (got, want)))


def grouped_feed_with(made: onnx.ModelProto, lengths: list[int], new: list[int]) -> Feed:
    counts = {"new": np.array(new, np.int32), "total": np.array([16], np.int32)}
    shadow = onnx.ModelProto()
    shadow.CopyFrom(made)
    del shadow.graph.input[-1]
    return grouped_feed(shadow, lengths, 4, 16) | counts


@pytest.mark.parametrize(
    ("attributes", "outputs", "text"),
    [
        pytest.param(
            {"sliding_window_cache": 1, "local_window_size": 4},
            ["y", "k1", "v1"],
            "sliding_window_cache",
            marks=since(1, 32, "no such attribute"),
        ),
        ({"qk_output": 1}, ["y", "k1", "v1", "qk"], "output_qk"),
    ],
)
def test_grouped_queries_are_refused_by_name(
    engraft: Engraft, attributes: dict[str, int], outputs: list[str], text: str
) -> None:
    assert text in reason(engraft, grouped_model(outputs=outputs, **attributes))


@since(1, 28, "no such attribute")
def test_a_quantized_cache_is_refused_by_name(engraft: Engraft) -> None:
    made = grouped_model(extra=[np.ones(1, np.float32)] * 2, k_quant_type="PER_TENSOR", v_quant_type="PER_TENSOR")
    for cache in made.graph.input[3:5]:
        cache.type.tensor_type.elem_type = onnx.TensorProto.INT8
    for present in made.graph.output[1:]:
        present.type.tensor_type.elem_type = onnx.TensorProto.INT8
    assert "block-quantized" in reason(engraft, made)
