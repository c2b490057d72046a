"""Models of architectures that no kernel or fusion was tuned on, with random weights, as exporters spell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from models import constant, model, value
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


class Maker:
    """Builds a graph node by node; values are named by number."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)
        self._count = 0

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def input(self, name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> str:
        self.inputs.append(value(name, shape, dtype))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = self._name()
        self.initializers.append(constant(name, array))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def scalar(self, number: float) -> str:
        return self.constant(np.float32(number))

    def weight(self, *shape: int) -> str:
        """Normal weights that keep the variance of what they are multiplied with."""
        fan = int(np.prod(shape[1:])) if len(shape) == 4 or len(shape) == 3 else shape[0]
        return self.constant((self._random.standard_normal(shape) / np.sqrt(max(fan, 1))).astype(np.float32))

    def normal(self, *shape: int) -> str:
        return self.constant(self._random.standard_normal(shape).astype(np.float32))

    def vector(self, size: int, mean: float = 0.0) -> str:
        return self.constant((mean + 0.1 * self._random.standard_normal(size)).astype(np.float32))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self._name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    # ---- what the models have in common ----

    def linear(self, x: str, inner: int, outer: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(inner, outer)), self.vector(outer))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=perm)

    def layer_norm(self, x: str, size: int) -> str:
        return self.op("LayerNormalization", x, self.vector(size, 1.0), self.vector(size), axis=-1)

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.scalar(np.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.scalar(1))), self.scalar(0.5))

    def conv(self, x: str, inner: int, outer: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        weight = self.weight(outer, inner // group, kernel, kernel)
        pads = [kernel // 2] * 4
        attributes = {"strides": [stride] * 2, "pads": pads, "kernel_shape": [kernel] * 2, "group": group}
        return self.op("Conv", x, weight, self.vector(outer), **attributes)

    def slice(self, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step))

    def finish(self, *outputs: tuple[str, Sequence[int | str] | None, int], opset: int = 17) -> onnx.ModelProto:
        values = [value(*output) for output in outputs]
        return model(self.nodes, self.inputs, values, self.initializers, opset=opset)


def swin() -> onnx.ModelProto:
    """Two blocks of attention in windows, plain and shifted, and the merging of patches."""
    size, channels, window, heads = 16, 96, 4, 3
    windows, tokens, head = (size // window) ** 2, window * window, channels // heads
    m = Maker(1)
    x = m.input("x", [1, size * size, channels])

    def roll(x: str, by: int) -> str:
        for axis in (1, 2):
            x = m.op("Concat", m.slice(x, by, size, axis), m.slice(x, 0, by, axis), axis=axis)
        return x

    def attention(x: str, masked: bool) -> str:
        qkv = m.reshape(m.linear(x, channels, 3 * channels), windows, tokens, 3, heads, head)
        qkv = m.transpose(qkv, 2, 0, 3, 1, 4)
        q, k, v = (m.op("Gather", qkv, m.constant(np.array(i, np.int64)), axis=0) for i in range(3))
        scores = m.op("MatMul", m.op("Mul", q, m.scalar(head**-0.5)), m.transpose(k, 0, 1, 3, 2))
        scores = m.op("Add", scores, m.normal(1, heads, tokens, tokens))
        if masked:
            mask = np.where(m._random.random((1, windows, 1, tokens, tokens)) < 0.3, -100, 0).astype(np.float32)
            scores = m.op("Add", m.reshape(scores, 1, windows, heads, tokens, tokens), m.constant(mask))
            scores = m.reshape(scores, -1, heads, tokens, tokens)
        mixed = m.op("MatMul", m.op("Softmax", scores, axis=-1), v)
        mixed = m.reshape(m.transpose(mixed, 0, 2, 1, 3), windows, tokens, channels)
        return m.linear(mixed, channels, channels)

    for shift in (0, window // 2):
        side = size // window
        y = m.reshape(m.layer_norm(x, channels), 1, size, size, channels)
        y = roll(y, shift) if shift else y
        y = m.transpose(m.reshape(y, 1, side, window, side, window, channels), 0, 1, 3, 2, 4, 5)
        y = attention(m.reshape(y, -1, tokens, channels), masked=shift > 0)
        y = m.transpose(m.reshape(y, 1, side, side, window, window, channels), 0, 1, 3, 2, 4, 5)
        y = m.reshape(y, 1, size, size, channels)
        y = roll(y, size - shift) if shift else y
        x = m.op("Add", x, m.reshape(y, 1, size * size, channels))
        hidden = m.gelu(m.linear(m.layer_norm(x, channels), channels, 4 * channels))
        x = m.op("Add", x, m.linear(hidden, 4 * channels, channels))
    x = m.reshape(x, 1, size, size, channels)
    quarters = [m.slice(m.slice(x, row, size, 1, 2), column, size, 2, 2) for column in (0, 1) for row in (0, 1)]
    x = m.reshape(m.op("Concat", *quarters, axis=-1), 1, size * size // 4, 4 * channels)
    x = m.op("MatMul", m.layer_norm(x, 4 * channels), m.weight(4 * channels, 2 * channels))
    return m.finish((x, [1, size * size // 4, 2 * channels], FLOAT))


def conformer() -> onnx.ModelProto:
    """Half-step feed-forward layers around self-attention and a gated convolution in time; any batch and length."""
    width, heads, kernel = 128, 4, 15
    head = width // heads
    m = Maker(2)
    x = m.input("x", ["N", "T", width])

    def feed_forward(x: str) -> str:
        hidden = m.silu(m.linear(m.layer_norm(x, width), width, 4 * width))
        return m.op("Add", x, m.op("Mul", m.linear(hidden, 4 * width, width), m.scalar(0.5)))

    def convolution(x: str, outer: int, inner: int, kernel: int, group: int = 1) -> str:
        weight = m.weight(outer, inner // group, kernel)
        return m.op("Conv", x, weight, m.vector(outer), kernel_shape=[kernel], pads=[kernel // 2] * 2, group=group)

    x = feed_forward(x)
    y = m.layer_norm(x, width)
    q, k, v = (m.op("Reshape", m.linear(y, width, width), m.ints(0, 0, heads, head)) for _ in range(3))
    scores = m.op("MatMul", m.transpose(q, 0, 2, 1, 3), m.transpose(k, 0, 2, 3, 1))
    weights = m.op("Softmax", m.op("Div", scores, m.scalar(np.sqrt(head))), axis=-1)
    mixed = m.transpose(m.op("MatMul", weights, m.transpose(v, 0, 2, 1, 3)), 0, 2, 1, 3)
    x = m.op("Add", x, m.linear(m.reshape(mixed, 0, 0, width), width, width))
    y = convolution(m.transpose(m.layer_norm(x, width), 0, 2, 1), 2 * width, width, 1)
    left, right = m.op("Split", y, m.ints(width, width), outputs=2, axis=1)
    y = convolution(m.op("Mul", left, m.op("Sigmoid", right)), width, width, kernel, group=width)
    variance = m.constant(np.full(width, 0.7, np.float32))
    y = m.op("BatchNormalization", y, m.vector(width, 1.0), m.vector(width), m.vector(width), variance)
    x = m.op("Add", x, m.transpose(convolution(m.silu(y), width, width, 1), 0, 2, 1))
    x = m.layer_norm(feed_forward(x), width)
    return m.finish((x, ["N", "T", width], FLOAT))


def unet() -> onnx.ModelProto:
    """A level of a diffusion U-Net: residual blocks with a time embedding, attention over pixels, down, up, skip."""
    channels, groups, side = 64, 8, 16
    m = Maker(3)
    x = m.input("x", ["N", 4, side, side])
    time = m.input("time", ["N"])

    def group_norm(x: str, channels: int) -> str:
        """As exporters write it before operator set 18."""
        shape = m.op("Shape", x)
        y = m.reshape(x, 0, groups, -1)
        one, zero = m.constant(np.ones(groups, np.float32)), m.constant(np.zeros(groups, np.float32))
        y = m.op("Reshape", m.op("InstanceNormalization", y, one, zero, epsilon=1e-5), shape)
        return m.op("Add", m.op("Mul", y, m.normal(channels, 1, 1)), m.normal(channels, 1, 1))

    def residual(x: str, inner: int, outer: int, embedding: str) -> str:
        y = m.conv(m.silu(group_norm(x, inner)), inner, outer)
        shift = m.linear(m.silu(embedding), 4 * channels, outer)
        y = m.op("Add", y, m.op("Unsqueeze", m.op("Unsqueeze", shift, m.ints(-1)), m.ints(-1)))
        y = m.conv(m.silu(group_norm(y, outer)), outer, outer)
        return m.op("Add", y, x if inner == outer else m.conv(x, inner, outer, kernel=1))

    def attention(x: str, channels: int, pixels: int) -> str:
        y = m.transpose(m.reshape(group_norm(x, channels), 0, channels, pixels), 0, 2, 1)
        q, k, v = (m.linear(y, channels, channels) for _ in range(3))
        scores = m.op("Mul", m.op("MatMul", q, m.transpose(k, 0, 2, 1)), m.scalar(channels**-0.5))
        y = m.linear(m.op("MatMul", m.op("Softmax", scores, axis=-1), v), channels, channels)
        return m.op("Add", x, m.reshape(m.transpose(y, 0, 2, 1), 0, channels, int(pixels**0.5), int(pixels**0.5)))

    frequencies = np.exp(-np.log(10000) * np.arange(channels // 2) / (channels // 2)).astype(np.float32)
    angles = m.op("Mul", m.op("Unsqueeze", time, m.ints(1)), m.constant(frequencies[None]))
    embedding = m.op("Concat", m.op("Cos", angles), m.op("Sin", angles), axis=-1)
    embedding = m.linear(m.silu(m.linear(embedding, channels, 4 * channels)), 4 * channels, 4 * channels)
    skip = residual(m.conv(x, 4, channels), channels, channels, embedding)
    y = residual(m.conv(skip, channels, channels, stride=2), channels, 2 * channels, embedding)
    y = attention(y, 2 * channels, side * side // 4)
    scales = m.constant(np.float32([1, 1, 2, 2]))
    spelling = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    y = m.op("Resize", y, "", scales, mode="nearest", **spelling)
    y = m.op("Concat", m.conv(y, 2 * channels, channels), skip, axis=1)
    y = m.conv(m.silu(group_norm(residual(y, 2 * channels, channels, embedding), channels)), channels, 4)
    return m.finish((y, ["N", 4, side, side], FLOAT))


def detector() -> onnx.ModelProto:
    """A small one-stage detector: split and pooled features, distances from a distribution, and suppression of boxes."""
    side, width, bins, classes = 64, 32, 16, 8
    m = Maker(4)
    x = m.input("image", [1, 3, side, side])

    def block(x: str, inner: int, outer: int, kernel: int = 3, stride: int = 1) -> str:
        return m.silu(m.conv(x, inner, outer, kernel, stride))

    x = block(block(x, 3, width, stride=2), width, 2 * width, stride=2)
    left, right = m.op("Split", block(x, 2 * width, 2 * width, kernel=1), m.ints(width, width), outputs=2, axis=1)
    inner = m.op("Add", right, block(block(right, width, width), width, width))
    x = block(m.op("Concat", left, right, inner, axis=1), 3 * width, 2 * width, kernel=1)
    pooled = [block(x, 2 * width, width, kernel=1)]
    for _ in range(3):
        pooled.append(m.op("MaxPool", pooled[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2, 2, 2, 2]))
    x = block(m.op("Concat", *pooled, axis=1), 4 * width, 2 * width, kernel=1)
    cells = (side // 4) ** 2
    distances = m.conv(block(x, 2 * width, 2 * width), 2 * width, 4 * bins, kernel=1)
    distances = m.transpose(m.reshape(distances, 1, 4, bins, cells), 0, 2, 1, 3)
    expected = m.constant(np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1))
    distances = m.op("Conv", m.op("Softmax", distances, axis=1), expected, kernel_shape=[1, 1])
    distances = m.reshape(distances, 1, 4, cells)
    scores = m.conv(block(x, 2 * width, 2 * width), 2 * width, classes, kernel=1)
    scores = m.op("Sigmoid", m.reshape(scores, 1, classes, cells))
    grid = np.stack(np.meshgrid(np.arange(side // 4), np.arange(side // 4)), 0).reshape(1, 2, cells).astype(np.float32)
    near = m.op("Sub", m.constant(grid + 0.5), m.slice(distances, 0, 2, 1))
    far = m.op("Add", m.constant(grid + 0.5), m.slice(distances, 2, 4, 1))
    boxes = m.transpose(m.op("Mul", m.op("Concat", near, far, axis=1), m.scalar(4)), 0, 2, 1)
    limits = [m.constant(np.array([10], np.int64)), m.constant(np.float32([0.5])), m.constant(np.float32([0.2]))]
    kept = m.op("NonMaxSuppression", boxes, scores, *limits)
    index = m.op("Squeeze", m.slice(kept, 2, 3, 1), m.ints(1))
    chosen = m.op("Gather", m.op("Squeeze", boxes, m.ints(0)), index, axis=0)
    return m.finish((chosen, ["K", 4], FLOAT), (kept, ["K", 3], TensorProto.INT64))


def quantized() -> onnx.ModelProto:
    """Convolutions and a classifier between QuantizeLinear and DequantizeLinear, as quantizers leave them."""
    m = Maker(5)
    x = m.input("x", ["N", 3, 16, 16])

    def through(x: str, scale: float) -> str:
        parameters = (m.scalar(scale), m.constant(np.uint8(128)))
        return m.op("DequantizeLinear", m.op("QuantizeLinear", x, *parameters), *parameters)

    def weight(*shape: int) -> str:
        integers = m.constant(m._random.integers(-60, 60, shape).astype(np.int8))
        scales = m.constant(np.full(shape[0], 0.004, np.float32))
        return m.op("DequantizeLinear", integers, scales, m.constant(np.zeros(shape[0], np.int8)), axis=0)

    for inner, outer in ((3, 16), (16, 32)):
        attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
        x = m.op("Relu", m.op("Conv", through(x, 0.05), weight(outer, inner, 3, 3), m.vector(outer), **attributes))
    x = m.op("Flatten", m.op("GlobalAveragePool", through(x, 0.05)))
    x = m.op("Gemm", through(x, 0.02), weight(10, 32), m.vector(10), transB=1)
    return m.finish((x, ["N", 10], FLOAT))


def decoder() -> onnx.ModelProto:
    """A loop that feeds a cell with its own state, and stops or turns by what it sees."""
    width = 64
    body, m = Maker(6), Maker(7)
    state = body.op("Tanh", body.linear("state", width, width))
    total = body.op("ReduceMean", state, keepdims=0)
    then, other = Maker(8), Maker(9)
    up = "t" + then.op("Mul", state, then.scalar(0.5))
    down = "e" + other.linear(state, width, width)
    bodies = (("then_branch", _renamed(then, "t"), up), ("else_branch", _renamed(other, "e"), down))
    branches = {
        name: helper.make_graph(maker.nodes, name, [], [value(result, [1, width])], maker.initializers)
        for name, maker, result in bodies
    }
    positive = body.op("Greater", total, body.scalar(0))
    turned = body.op("If", positive, **branches)
    going = body.op("Less", body.op("Abs", total), body.scalar(10))
    seen = body.op("Identity", turned)
    inner = _renamed(body, "b")
    graph = helper.make_graph(
        inner.nodes,
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [1, width])],
        [value(f"b{going}", [], TensorProto.BOOL), value(f"b{turned}", [1, width]), value(f"b{seen}", [1, width])],
        inner.initializers,
    )
    start = m.linear(m.input("x", [1, width]), width, width)
    count = m.input("count", [], TensorProto.INT64)
    last, steps = m.op("Loop", count, "", start, body=graph, outputs=2)
    logits = m.linear(last, width, 16)
    return m.finish((logits, [1, 16], FLOAT), (steps, ["S", 1, width], FLOAT))


def _renamed(maker: Maker, prefix: str) -> Maker:
    """Gives the numbered values of a body a prefix of their own; names from outside stay."""
    own = {name for node in maker.nodes for name in node.output} | {tensor.name for tensor in maker.initializers}

    def rename(nodes: Sequence[onnx.NodeProto]) -> None:
        for node in nodes:
            node.input[:] = [prefix + name if name in own else name for name in node.input]
            node.output[:] = [prefix + name if name in own else name for name in node.output]
            for attribute in node.attribute:
                rename(attribute.g.node)

    rename(maker.nodes)
    for tensor in maker.initializers:
        tensor.name = prefix + tensor.name
    return maker
