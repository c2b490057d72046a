"""What ONNX Runtime adds to ONNX, form by form: Engraft's results against those of ONNX Runtime's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same, reference, refused
from models import constant, value
from onnx import helper

MICROSOFT = "com.microsoft"

Feed = dict[str, np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node_model(
    op: str,
    operands: Sequence[tuple[str, Sequence[int | str]] | np.ndarray | None],
    outputs: Sequence[str],
    *,
    types: dict[str, type] | None = None,
    domain: str = MICROSOFT,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node.

    Operands are inputs (name and shape), constants, or absent (`None`); outputs may be absent as well (an empty name)
    and have no known rank. Inputs and outputs are float32 unless `types` says otherwise.
    """
    types = types or {}

    def of(name: str) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(types.get(name, np.float32)))

    inputs, initializers, names = [], [], []
    for index, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, np.ndarray):
            names.append(f"c{index}")
            initializers.append(constant(f"c{index}", operand))
        else:
            names.append(operand[0])
            inputs.append(value(operand[0], operand[1], of(operand[0])))
    node = helper.make_node(op, names, list(outputs), name="node", domain=domain, **attributes)
    results = [value(name, None, of(name)) for name in outputs if name]
    graph = helper.make_graph([node], "test", inputs, results, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def placed(engraft: Engraft, made: onnx.ModelProto) -> Any:
    """A session that leaves no node to another provider: by our report and by the host's own record."""
    config = {"session.record_ep_graph_assignment_info": "1"}
    session, report = engraft.placed(made, config=config)
    assert refused(report) == {}, refused(report)
    if hasattr(session, "get_provider_graph_assignment_info"):
        parts = session.get_provider_graph_assignment_info()
        nodes = {node.op_type: part.ep_name for part in parts for node in part.get_nodes()}
        assert set(nodes.values()) == {"EngraftExecutionProvider"}, nodes
    return session


def agree(
    engraft: Engraft, made: onnx.ModelProto, feeds: Sequence[Feed], oracle: onnx.ModelProto | None = None
) -> None:
    """Fails unless Engraft takes `made` and gives what the CPU provider gives for it, or for `oracle`."""
    session, expected = placed(engraft, made), reference(oracle or made)
    for feed in feeds:
        assert_same(session.run(None, feed), expected.run(None, feed))


def reason(engraft: Engraft, made: onnx.ModelProto) -> str:
    """Why Engraft leaves the one node to the host, which can run it."""
    _, report = engraft.placed(made)
    (text,) = refused(report).values()
    return text


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


# ---- attention ----

INTEGERS = {"mask": np.int32, "ids": np.int64, "lengths": np.int32, "total": np.int32}


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


def sized(shape: Sequence[int | str], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)


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


def test_grouped_queries_that_see_all(engraft: Engraft) -> None:
    grouped_agree(engraft, grouped_model(causal=0), [([6], 6, 0), ([7, 5], 1, 6)])


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
        ({"sliding_window_cache": 1, "local_window_size": 4}, ["y", "k1", "v1"], "sliding_window_cache"),
        ({"qk_output": 1}, ["y", "k1", "v1", "qk"], "output_qk"),
    ],
)
def test_grouped_queries_are_refused_by_name(
    engraft: Engraft, attributes: dict[str, int], outputs: list[str], text: str
) -> None:
    assert text in reason(engraft, grouped_model(outputs=outputs, **attributes))


def test_a_quantized_cache_is_refused_by_name(engraft: Engraft) -> None:
    made = grouped_model(extra=[np.ones(1, np.float32)] * 2, k_quant_type="PER_TENSOR", v_quant_type="PER_TENSOR")
    for cache in made.graph.input[3:5]:
        cache.type.tensor_type.elem_type = onnx.TensorProto.INT8
    for present in made.graph.output[1:]:
        present.type.tensor_type.elem_type = onnx.TensorProto.INT8
    assert "block-quantized" in reason(engraft, made)
