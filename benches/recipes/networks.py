"""Networks of architectures outside the zoo, with random weights, spelled as exporters spell them.

Each maker returns a model and the inputs of one run; the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import architectures
import numpy as np
import onnx
from architectures import FLOAT, Maker
from models import value
from onnx import TensorProto, helper

Inputs = dict[str, np.ndarray]
Made = tuple[onnx.ModelProto, Inputs]
INT64 = TensorProto.INT64


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tokens(*shape: int, below: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, below, shape)


class Net(Maker):
    """What convolutional networks and transformers have in common beyond `Maker`."""

    def batch_norm(self, x: str, channels: int) -> str:
        variance = self.constant(np.full(channels, 0.8, np.float32))
        statistics = (self.vector(channels, 1.0), self.vector(channels), self.vector(channels), variance)
        return self.op("BatchNormalization", x, *statistics)

    def unit(self, x: str, inner: int, outer: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        return self.op("Relu", self.batch_norm(self.conv(x, inner, outer, kernel, stride, group), outer))

    def window(self, x: str, inner: int, outer: int, kernel: Sequence[int]) -> str:
        """A convolution of an oblong kernel."""
        weight = self.weight(outer, inner, *kernel)
        pads = [k // 2 for k in kernel] * 2
        y = self.op("Conv", x, weight, kernel_shape=list(kernel), pads=pads)
        return self.op("Relu", self.batch_norm(y, outer))

    def conv1d(self, x: str, inner: int, outer: int, kernel: int, group: int = 1, **attributes: object) -> str:
        weight = self.weight(outer, inner // group, kernel)
        given = {"pads": [kernel // 2] * 2, "group": group, "kernel_shape": [kernel]} | attributes
        return self.op("Conv", x, weight, self.vector(outer), **given)

    def pool(self, x: str, kernel: int = 3, stride: int = 2, kind: str = "MaxPool") -> str:
        pads = [kernel // 2 if kernel % 2 else 0] * 4
        return self.op(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def classifier(self, x: str, channels: int, classes: int = 1000) -> str:
        y = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", y, self.constant((0.05 * random(classes, channels)).astype(np.float32)), self.vector(classes), transB=1)

    def rms_norm(self, x: str, width: int) -> str:
        mean = self.op("ReduceMean", self.op("Pow", x, self.scalar(2)), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.scalar(1e-5)))
        return self.op("Mul", self.vector(width, 1.0), self.op("Div", x, root))

    def attention(
        self, x: str, width: int, heads: int, bias: str | None = None, memory: str | None = None, scaled: bool = True
    ) -> str:
        head = width // heads
        q, k, v = (
            self.transpose(self.reshape(self.linear(source, width, width), 0, -1, heads, head), 0, 2, 1, 3)
            for source in (x, memory or x, memory or x)
        )
        scores = self.op("MatMul", q, self.transpose(k, 0, 1, 3, 2))
        if scaled:
            scores = self.op("Div", scores, self.scalar(np.sqrt(head)))
        if bias is not None:
            scores = self.op("Add", scores, bias)
        mixed = self.transpose(self.op("MatMul", self.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
        return self.linear(self.reshape(mixed, 0, -1, width), width, width)


def resnext() -> Made:
    """Grouped convolutions of 32 groups in residual bottlenecks."""
    m = Net(1)
    x = m.pool(m.unit(m.input("x", [1, 3, 160, 160]), 3, 64, 7, 2))
    channels = 64
    for width, blocks in ((128, 2), (256, 2), (512, 2)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 128 else 1
            y = m.unit(m.unit(x, channels, width, 1), width, width, 3, stride, 32)
            y = m.batch_norm(m.conv(y, width, 2 * width, 1), 2 * width)
            short = m.batch_norm(m.conv(x, channels, 2 * width, 1, stride), 2 * width) if block == 0 else x
            x, channels = m.op("Relu", m.op("Add", y, short)), 2 * width
    return m.finish((m.classifier(x, channels), [1, 1000], FLOAT)), {"x": random(1, 3, 160, 160)}


def densenet() -> Made:
    """Every layer reads all layers before it."""
    m, growth = Net(2), 32
    x = m.pool(m.unit(m.input("x", [1, 3, 160, 160]), 3, 64, 7, 2))
    channels = 64
    for layers in (6, 8, 8):
        for _ in range(layers):
            y = m.op("Relu", m.batch_norm(x, channels))
            y = m.op("Relu", m.batch_norm(m.conv(y, channels, 4 * growth, 1), 4 * growth))
            x, channels = m.op("Concat", x, m.conv(y, 4 * growth, growth), axis=1), channels + growth
        x = m.conv(m.op("Relu", m.batch_norm(x, channels)), channels, channels // 2, 1)
        x, channels = m.pool(x, 2, 2, "AveragePool"), channels // 2
    return m.finish((m.classifier(x, channels), [1, 1000], FLOAT)), {"x": random(1, 3, 160, 160)}


def shufflenet() -> Made:
    """Split channels, depthwise convolutions and a shuffle by reshape and transposition."""
    m = Net(3)
    x = m.pool(m.unit(m.input("x", [1, 3, 224, 224]), 3, 24, 3, 2))
    channels, side = 24, 56

    def shuffle(x: str, channels: int, side: int) -> str:
        y = m.transpose(m.reshape(x, 1, 2, channels // 2, side, side), 0, 2, 1, 3, 4)
        return m.reshape(y, 1, channels, side, side)

    for width, blocks in ((116, 3), (232, 4), (464, 3)):
        half, side = width // 2, side // 2
        left = m.batch_norm(m.conv(x, channels, channels, 3, 2, channels), channels)
        left = m.unit(left, channels, half, 1)
        right = m.batch_norm(m.conv(m.unit(x, channels, half, 1), half, half, 3, 2, half), half)
        x, channels = shuffle(m.op("Concat", left, m.unit(right, half, half, 1), axis=1), width, side), width
        for _ in range(blocks):
            left, right = m.op("Split", x, m.ints(half, half), outputs=2, axis=1)
            right = m.batch_norm(m.conv(m.unit(right, half, half, 1), half, half, 3, 1, half), half)
            x = shuffle(m.op("Concat", left, m.unit(right, half, half, 1), axis=1), width, side)
    x = m.unit(x, channels, 1024, 1)
    return m.finish((m.classifier(x, 1024), [1, 1000], FLOAT)), {"x": random(1, 3, 224, 224)}


def inception() -> Made:
    """Oblong kernels and branches of different depth."""
    m = Net(4)
    x = m.unit(m.unit(m.input("x", [1, 3, 149, 149]), 3, 32, 3, 2), 32, 64)
    x = m.unit(m.pool(x), 64, 192, 3, 2)
    channels = 192
    for _ in range(3):
        a = m.unit(x, channels, 64, 1)
        b = m.window(m.window(m.unit(x, channels, 48, 1), 48, 48, (1, 7)), 48, 64, (7, 1))
        c = m.window(m.window(m.unit(x, channels, 48, 1), 48, 48, (3, 1)), 48, 96, (1, 3))
        d = m.unit(m.pool(x, 3, 1, "AveragePool"), channels, 32, 1)
        x, channels = m.op("Concat", a, b, c, d, axis=1), 256
    return m.finish((m.classifier(x, channels), [1, 1000], FLOAT)), {"x": random(1, 3, 149, 149)}


def vgg() -> Made:
    """Plain convolutions and wide dense layers."""
    m = Net(5)
    x, channels = m.input("x", [1, 3, 96, 96]), 3
    for width, layers in ((64, 1), (128, 1), (256, 2), (512, 2)):
        for _ in range(layers):
            x, channels = m.op("Relu", m.conv(x, channels, width)), width
        x = m.pool(x, 2, 2)
    x = m.op("Flatten", x)
    for inner, outer in ((512 * 36, 1024), (1024, 1000)):
        x = m.op("Relu", m.op("Gemm", x, m.constant(random(outer, inner, seed=outer) / np.float32(np.sqrt(inner))), m.vector(outer), transB=1))
    return m.finish((x, [1, 1000], FLOAT)), {"x": random(1, 3, 96, 96)}


def mixer() -> Made:
    """Dense layers over tokens and over channels in turn."""
    m, patches, width = Net(6), 196, 256
    x = m.op("Conv", m.input("x", [1, 3, 224, 224]), m.weight(width, 3, 16, 16), m.vector(width), strides=[16, 16])
    x = m.transpose(m.reshape(x, 1, width, patches), 0, 2, 1)
    for _ in range(4):
        y = m.transpose(m.layer_norm(x, width), 0, 2, 1)
        y = m.linear(m.gelu(m.linear(y, patches, 384)), 384, patches)
        x = m.op("Add", x, m.transpose(y, 0, 2, 1))
        y = m.linear(m.gelu(m.linear(m.layer_norm(x, width), width, 1024)), 1024, width)
        x = m.op("Add", x, y)
    x = m.op("ReduceMean", m.layer_norm(x, width), axes=[1], keepdims=0)
    return m.finish((m.linear(x, width, 1000), [1, 1000], FLOAT)), {"x": random(1, 3, 224, 224)}


def t5_encoder() -> Made:
    """Unscaled attention with a bias by relative position, and gated feed-forward layers; any batch and length."""
    m, width, heads, buckets = Net(7), 256, 8, 32
    ids = m.input("ids", ["N", "T"], INT64)
    x = m.op("Gather", m.normal(1000, width), ids)
    length = m.op("Gather", m.op("Shape", ids), m.constant(np.array(1)), axis=0)
    steps = m.op("Range", m.constant(np.array(0)), length, m.constant(np.array(1)))
    apart = m.op("Sub", m.op("Unsqueeze", steps, m.ints(0)), m.op("Unsqueeze", steps, m.ints(1)))
    bucket = m.op("Min", m.op("Abs", apart), m.constant(np.array(buckets - 1)))
    bias = m.transpose(m.op("Gather", m.normal(buckets, heads), bucket), 2, 0, 1)
    bias = m.op("Unsqueeze", bias, m.ints(0))
    for _ in range(3):
        x = m.op("Add", x, m.attention(m.rms_norm(x, width), width, heads, bias, scaled=False))
        y = m.rms_norm(x, width)
        gate = m.gelu(m.op("MatMul", y, m.weight(width, 682)))
        y = m.op("Mul", gate, m.op("MatMul", y, m.weight(width, 682)))
        x = m.op("Add", x, m.op("MatMul", y, m.weight(682, width)))
    return m.finish((m.rms_norm(x, width), ["N", "T", width], FLOAT)), {"ids": tokens(1, 96, below=1000)}


def _rotate(m: Net, x: str, cos: str, sin: str, half: int) -> str:
    first, second = m.slice(x, 0, half, 3), m.slice(x, half, 2 * half, 3)
    turned = m.op("Concat", m.op("Neg", second), first, axis=-1)
    return m.op("Add", m.op("Mul", x, cos), m.op("Mul", turned, sin))


def llama() -> Made:
    """Rotated queries and keys, keys shared by groups of heads, gated layers, a causal mask: a prompt of 64 tokens."""
    m, width, heads, shared, head, length = Net(8), 256, 8, 2, 32, 64
    x = m.op("Gather", m.normal(2000, width), m.input("ids", [1, length], INT64))
    angles = np.outer(np.arange(length), 10000.0 ** (-np.arange(head // 2) / (head // 2)))
    angles = np.concatenate([angles, angles], -1)[None, None]
    cos, sin = (m.constant(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
    mask = m.constant(np.triu(np.full((length, length), -3e38, np.float32), 1)[None, None])

    def heads_of(x: str, count: int) -> str:
        return m.transpose(m.reshape(m.op("MatMul", x, m.weight(width, count * head)), 1, length, count, head), 0, 2, 1, 3)

    def repeated(x: str) -> str:
        x = m.op("Expand", m.op("Unsqueeze", x, m.ints(2)), m.ints(1, shared, heads // shared, length, head))
        return m.reshape(x, 1, heads, length, head)

    for _ in range(3):
        y = m.rms_norm(x, width)
        q = _rotate(m, heads_of(y, heads), cos, sin, head // 2)
        k = repeated(_rotate(m, heads_of(y, shared), cos, sin, head // 2))
        v = repeated(heads_of(y, shared))
        scores = m.op("Mul", m.op("MatMul", q, m.transpose(k, 0, 1, 3, 2)), m.scalar(head**-0.5))
        mixed = m.op("MatMul", m.op("Softmax", m.op("Add", scores, mask), axis=-1), v)
        mixed = m.reshape(m.transpose(mixed, 0, 2, 1, 3), 1, length, width)
        x = m.op("Add", x, m.op("MatMul", mixed, m.weight(width, width)))
        y = m.rms_norm(x, width)
        y = m.op("Mul", m.silu(m.op("MatMul", y, m.weight(width, 688))), m.op("MatMul", y, m.weight(width, 688)))
        x = m.op("Add", x, m.op("MatMul", y, m.weight(688, width)))
    logits = m.op("MatMul", m.rms_norm(x, width), m.weight(width, 2000))
    return m.finish((logits, [1, length, 2000], FLOAT)), {"ids": tokens(1, length, below=2000)}


def whisper_encoder() -> Made:
    """Two convolutions over a spectrogram and a transformer."""
    m, width, frames = Net(9), 256, 400
    x = m.input("mel", [1, 80, frames])
    x = m.gelu(m.conv1d(x, 80, width, 3))
    x = m.gelu(m.conv1d(x, width, width, 3, strides=[2]))
    x = m.op("Add", m.transpose(x, 0, 2, 1), m.normal(frames // 2, width))
    for _ in range(3):
        x = m.op("Add", x, m.attention(m.layer_norm(x, width), width, 4))
        x = m.op("Add", x, m.linear(m.gelu(m.linear(m.layer_norm(x, width), width, 1024)), 1024, width))
    return m.finish((m.layer_norm(x, width), [1, frames // 2, width], FLOAT)), {"mel": random(1, 80, frames)}


def wav2vec() -> Made:
    """Strided convolutions over samples with group and layer norms between, then attention; any length."""
    m, width = Net(10), 192
    x = m.op("Unsqueeze", m.input("samples", [1, "T"]), m.ints(1))
    inner = 1
    for index, (kernel, stride) in enumerate(((10, 5), (3, 2), (3, 2), (3, 2), (2, 2))):
        x = m.conv1d(x, inner, width, kernel, strides=[stride], pads=[0, 0])
        if index == 0:
            one, zero = m.constant(np.ones(width, np.float32)), m.constant(np.zeros(width, np.float32))
            x = m.op("InstanceNormalization", x, one, zero)
        x, inner = m.gelu(x), width
    x = m.layer_norm(m.transpose(x, 0, 2, 1), width)
    position = m.gelu(m.conv1d(m.transpose(x, 0, 2, 1), width, width, 31, group=16))
    x = m.op("Add", x, m.transpose(position, 0, 2, 1))
    for _ in range(2):
        x = m.layer_norm(m.op("Add", x, m.attention(x, width, 4)), width)
        x = m.layer_norm(m.op("Add", x, m.linear(m.gelu(m.linear(x, width, 768)), 768, width)), width)
    return m.finish((x, [1, "F", width], FLOAT)), {"samples": random(1, 8000)}


def tagger() -> Made:
    """Embeddings, two bidirectional LSTMs and a classifier per word; any batch and length."""
    m, width, hidden = Net(11), 128, 128
    x = m.transpose(m.op("Gather", m.normal(5000, width), m.input("ids", ["N", "T"], INT64)), 1, 0, 2)
    for inner in (width, 2 * hidden):
        scale = np.float32(1 / np.sqrt(inner))
        w = m.constant(random(2, 4 * hidden, inner, seed=inner) * scale)
        r = m.constant(random(2, 4 * hidden, hidden, seed=inner + 1) * np.float32(hidden**-0.5))
        b = m.constant(0.1 * random(2, 8 * hidden, seed=3))
        y = m.op("LSTM", x, w, r, b, hidden_size=hidden, direction="bidirectional", outputs=1)
        x = m.op("Reshape", m.transpose(y, 0, 2, 1, 3), m.ints(0, 0, -1))
    x = m.op("Softmax", m.linear(m.transpose(x, 1, 0, 2), 2 * hidden, 20), axis=-1)
    return m.finish((x, ["N", "T", 20], FLOAT)), {"ids": tokens(1, 40, below=5000)}


def wavenet() -> Made:
    """Gated, dilated convolutions with skip connections."""
    m, width = Net(12), 64
    x = m.conv1d(m.input("x", [1, 16, 1024]), 16, width, 1)
    skips = []
    for layer in range(8):
        dilation = 2 ** (layer % 4)
        shape = {"dilations": [dilation], "pads": [2 * dilation, 0]}
        y = m.op("Mul", m.op("Tanh", m.conv1d(x, width, width, 3, **shape)), m.op("Sigmoid", m.conv1d(x, width, width, 3, **shape)))
        skips.append(m.conv1d(y, width, width, 1))
        x = m.op("Add", x, m.conv1d(y, width, width, 1))
    y = m.op("Relu", m.op("Sum", *skips))
    return m.finish((m.conv1d(y, width, 256, 1), [1, 256, 1024], FLOAT)), {"x": random(1, 16, 1024)}


def vocoder() -> Made:
    """Transposed convolutions that make samples of frames, each with residual blocks of several dilations."""
    m, channels = Net(13), 128
    x = m.conv1d(m.input("mel", [1, 80, "T"]), 80, channels, 7)
    leaky = lambda x: m.op("LeakyRelu", x, alpha=0.1)
    for stride in (8, 4, 2):
        kernel = 2 * stride
        weight = m.constant(random(channels, channels // 2, kernel) / np.float32(np.sqrt(2 * channels)))
        attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [stride // 2] * 2}
        x = m.op("ConvTranspose", leaky(x), weight, m.vector(channels // 2), **attributes)
        channels //= 2
        branches = []
        for kernel, dilations in ((3, (1, 3)), (7, (1, 3))):
            y = x
            for dilation in dilations:
                pads = [(kernel // 2) * dilation] * 2
                z = m.conv1d(leaky(y), channels, channels, kernel, dilations=[dilation], pads=pads)
                y = m.op("Add", y, m.conv1d(leaky(z), channels, channels, kernel))
            branches.append(y)
        x = m.op("Div", m.op("Add", *branches), m.scalar(2))
    return m.finish((m.op("Tanh", m.conv1d(leaky(x), channels, 1, 7)), [1, 1, "S"], FLOAT)), {"mel": random(1, 80, 64)}


def super_resolution() -> Made:
    """Dense residual blocks and pixels made of channels; any size."""
    m, width, growth = Net(14), 48, 24
    leaky = lambda x: m.op("LeakyRelu", x, alpha=0.2)
    x = m.conv(m.input("x", [1, 3, "H", "W"]), 3, width)
    first = x
    for _ in range(2):
        parts = [x]
        for index in range(3):
            joined = m.op("Concat", *parts, axis=1) if index else x
            parts.append(leaky(m.conv(joined, width + index * growth, growth)))
        y = m.conv(m.op("Concat", *parts, axis=1), width + 3 * growth, width)
        x = m.op("Add", m.op("Mul", y, m.scalar(0.2)), x)
    x = m.op("Add", first, x)
    for _ in range(2):
        x = leaky(m.op("DepthToSpace", m.conv(x, width, 4 * width, 1), blocksize=2, mode="CRD"))
    return m.finish((m.conv(x, width, 3), [1, 3, "H4", "W4"], FLOAT)), {"x": random(1, 3, 40, 56)}


def segmenter() -> Made:
    """Dilated convolutions side by side, pooled context, and bilinear enlarging."""
    m = Net(15)
    x = m.unit(m.input("x", [1, 3, 160, 160]), 3, 32, 3, 2)
    low = x = m.unit(m.unit(x, 32, 64, 3, 2), 64, 64)
    x = m.unit(m.unit(x, 64, 128, 3, 2), 128, 128)
    parts = [m.unit(x, 128, 64, 1)]
    for rate in (2, 4, 6):
        y = m.op("Conv", x, m.weight(64, 128, 3, 3), dilations=[rate] * 2, pads=[rate] * 4, kernel_shape=[3, 3])
        parts.append(m.op("Relu", m.batch_norm(y, 64)))
    pooled = m.unit(m.op("GlobalAveragePool", x), 128, 64, 1)
    resize = lambda x, *sizes: m.op("Resize", x, "", "", m.ints(*sizes), mode="linear", coordinate_transformation_mode="half_pixel")
    parts.append(resize(pooled, 1, 64, 20, 20))
    x = resize(m.unit(m.op("Concat", *parts, axis=1), 320, 64, 1), 1, 64, 40, 40)
    x = m.unit(m.op("Concat", x, m.unit(low, 64, 24, 1), axis=1), 88, 64)
    x = resize(m.conv(x, 64, 21, 1), 1, 21, 160, 160)
    return m.finish((m.op("ArgMax", x, axis=1, keepdims=0), [1, 160, 160], INT64)), {"x": random(1, 3, 160, 160)}


def detr() -> Made:
    """A convolutional trunk, an encoder over its pixels, and queries that attend to them."""
    m, width, queries = Net(16), 128, 50
    x = m.unit(m.input("image", [1, 3, 192, 192]), 3, 32, 7, 2)
    for inner, outer in ((32, 64), (64, 128), (128, width)):
        x = m.unit(m.unit(x, inner, outer, 3, 2), outer, outer)
    pixels = m.op("Add", m.transpose(m.reshape(x, 1, width, 144), 0, 2, 1), m.normal(144, width))
    for _ in range(2):
        pixels = m.layer_norm(m.op("Add", pixels, m.attention(pixels, width, 8)), width)
        y = m.linear(m.op("Relu", m.linear(pixels, width, 512)), 512, width)
        pixels = m.layer_norm(m.op("Add", pixels, y), width)
    x = m.constant(random(1, queries, width))
    for _ in range(2):
        x = m.layer_norm(m.op("Add", x, m.attention(x, width, 8)), width)
        x = m.layer_norm(m.op("Add", x, m.attention(x, width, 8, memory=pixels)), width)
        x = m.layer_norm(m.op("Add", x, m.linear(m.op("Relu", m.linear(x, width, 512)), 512, width)), width)
    classes = m.op("Softmax", m.linear(x, width, 92), axis=-1)
    boxes = m.op("Sigmoid", m.linear(m.op("Relu", m.linear(x, width, width)), width, 4))
    outputs = (classes, [1, queries, 92], FLOAT), (boxes, [1, queries, 4], FLOAT)
    return m.finish(*outputs), {"image": random(1, 3, 192, 192)}


def recommender() -> Made:
    """Embedding tables, products of all pairs of features, dense layers; any batch."""
    m, width, tables = Net(17), 32, 8
    dense = m.input("dense", ["N", 13])
    ids = m.input("ids", ["N", tables], INT64)
    bottom = m.op("Relu", m.linear(m.op("Relu", m.linear(dense, 13, 128)), 128, width))
    features = [m.op("Unsqueeze", bottom, m.ints(1))]
    for index in range(tables):
        rows = m.op("Gather", m.normal(2000, width), m.op("Gather", ids, m.constant(np.array(index)), axis=1), axis=0)
        features.append(m.op("Unsqueeze", rows, m.ints(1)))
    stacked = m.op("Concat", *features, axis=1)
    pairs = m.op("MatMul", stacked, m.transpose(stacked, 0, 2, 1))
    lower = np.stack(np.tril_indices(tables + 1, -1), -1)
    flat = m.reshape(pairs, 0, (tables + 1) ** 2)
    chosen = m.op("Gather", flat, m.constant(lower[:, 0] * (tables + 1) + lower[:, 1]), axis=1)
    x = m.op("Concat", bottom, chosen, axis=1)
    x = m.op("Relu", m.linear(x, width + len(lower), 256))
    x = m.op("Sigmoid", m.linear(m.op("Relu", m.linear(x, 256, 128)), 128, 1))
    inputs = {"dense": random(128, 13), "ids": tokens(128, tables, below=2000)}
    return m.finish((x, ["N", 1], FLOAT)), inputs


def pointnet() -> Made:
    """Points transformed by a matrix that the network finds for them, shared dense layers, a maximum over points."""
    m, points = Net(18), 512
    x = m.input("points", [1, 3, points])

    def trunk(x: str, widths: Sequence[int], inner: int) -> str:
        for width in widths:
            x, inner = m.op("Relu", m.batch_norm(m.conv1d(x, inner, width, 1), width)), width
        return x

    pooled = m.op("ReduceMax", trunk(x, (64, 128, 256), 3), axes=[2], keepdims=0)
    matrix = m.reshape(m.linear(m.op("Relu", m.linear(pooled, 256, 128)), 128, 9), 1, 3, 3)
    matrix = m.op("Add", matrix, m.constant(np.eye(3, dtype=np.float32)[None]))
    turned = m.transpose(m.op("MatMul", m.transpose(x, 0, 2, 1), matrix), 0, 2, 1)
    local = trunk(turned, (64, 64), 3)
    pooled = m.op("ReduceMax", trunk(local, (128, 512), 64), axes=[2], keepdims=1)
    spread = m.op("Expand", pooled, m.ints(1, 512, points))
    x = trunk(m.op("Concat", local, spread, axis=1), (256, 128), 576)
    x = m.op("LogSoftmax", m.conv1d(x, 128, 13, 1), axis=1)
    return m.finish((x, [1, 13, points], FLOAT)), {"points": random(1, 3, points)}


def video() -> Made:
    """Convolutions and pooling over space and time."""
    m = Net(19)
    x, inner = m.input("clip", [1, 3, 8, 56, 56]), 3
    for index, outer in enumerate((32, 64, 128)):
        weight = m.constant(random(outer, inner, 3, 3, 3, seed=index) / np.float32(np.sqrt(27 * inner)))
        x = m.op("Relu", m.op("Conv", x, weight, m.vector(outer), kernel_shape=[3] * 3, pads=[1] * 6))
        depth = 1 if index == 0 else 2
        x = m.op("MaxPool", x, kernel_shape=[depth, 2, 2], strides=[depth, 2, 2])
        inner = outer
    x = m.op("Flatten", m.op("GlobalAveragePool", x))
    return m.finish((m.linear(x, 128, 101), [1, 101], FLOAT)), {"clip": random(1, 3, 8, 56, 56)}


def graph_network() -> Made:
    """Messages along edges, gathered and added up by scattering; any number of nodes and edges."""
    m, width = Net(20), 64
    x = m.linear(m.input("nodes", ["V", 32]), 32, width)
    edges = m.input("edges", [2, "E"], INT64)
    source, target = (m.op("Gather", edges, m.constant(np.array(i)), axis=0) for i in (0, 1))
    for _ in range(3):
        messages = m.op("Concat", m.op("Gather", x, source, axis=0), m.op("Gather", x, target, axis=0), axis=1)
        messages = m.linear(m.op("Relu", m.linear(messages, 2 * width, width)), width, width)
        zeros = m.op("Mul", x, m.scalar(0))
        total = m.op("ScatterND", zeros, m.op("Unsqueeze", target, m.ints(1)), messages, reduction="add")
        x = m.layer_norm(m.op("Add", x, m.op("Relu", m.linear(total, width, width))), width)
    inputs = {"nodes": random(400, 32), "edges": tokens(2, 2400, below=400)}
    return m.finish((m.linear(x, width, 8), ["V", 8], FLOAT), opset=18), inputs


def autoencoder() -> Made:
    """Strided convolutions down, transposed ones up, and a latent code between."""
    m = Net(21)
    x, inner = m.input("x", [4, 1, 64, 64]), 1
    for outer in (32, 64, 128):
        x, inner = m.op("LeakyRelu", m.batch_norm(m.conv(x, inner, outer, 3, 2), outer), alpha=0.01), outer
    code = m.linear(m.op("Flatten", x), 128 * 64, 64)
    x = m.reshape(m.op("Relu", m.linear(code, 64, 128 * 64)), 4, 128, 8, 8)
    for outer in (64, 32, 1):
        weight = m.constant(random(inner, outer, 4, 4, seed=outer) / np.float32(np.sqrt(4 * inner)))
        x = m.op("ConvTranspose", x, weight, m.vector(outer), kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)
        x, inner = m.op("Relu", x) if outer > 1 else m.op("Sigmoid", x), outer
    return m.finish((x, [4, 1, 64, 64], FLOAT), (code, [4, 64], FLOAT)), {"x": random(4, 1, 64, 64)}


def swin() -> Made:
    return architectures.swin(), {"x": random(1, 256, 96)}


def conformer() -> Made:
    return architectures.conformer(), {"x": random(1, 200, 128)}


def diffusion() -> Made:
    return architectures.unet(), {"x": random(2, 4, 16, 16), "time": np.float32([3, 400])}


def one_stage_detector() -> Made:
    return architectures.detector(), {"image": random(1, 3, 64, 64)}


# ---- int8 ----


def qdq_convnet() -> Made:
    return architectures.quantized(), {"x": random(8, 3, 16, 16)}


def qdq_residual() -> Made:
    """Residual blocks between QuantizeLinear and DequantizeLinear, weights of 8 bits per channel."""
    m = Net(31)

    def through(x: str, scale: float = 0.03) -> str:
        parameters = (m.scalar(scale), m.constant(np.uint8(128)))
        return m.op("DequantizeLinear", m.op("QuantizeLinear", x, *parameters), *parameters)

    def conv(x: str, inner: int, outer: int, kernel: int, stride: int = 1) -> str:
        integers = m.constant(m._random.integers(-90, 90, (outer, inner, kernel, kernel)).astype(np.int8))
        scales = m.constant(np.full(outer, 0.02 / np.sqrt(inner * kernel * kernel), np.float32))
        weight = m.op("DequantizeLinear", integers, scales, m.constant(np.zeros(outer, np.int8)), axis=0)
        pads = [kernel // 2] * 4
        return m.op("Conv", x, weight, m.vector(outer), kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2)

    x = through(m.op("Relu", conv(through(m.input("x", [1, 3, 112, 112])), 3, 32, 3, 2)))
    inner = 32
    for outer in (32, 64, 128):
        stride = 1 if outer == inner else 2
        y = through(m.op("Relu", conv(x, inner, outer, 3, stride)))
        short = through(conv(x, inner, outer, 1, stride)) if stride == 2 else x
        x, inner = through(m.op("Relu", m.op("Add", through(conv(y, outer, outer, 3)), short))), outer
    return m.finish((m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), 128, 100), [1, 100], FLOAT)), {
        "x": random(1, 3, 112, 112)
    }


def dynamic_quantized() -> Made:
    """A transformer whose products take 8-bit weights and quantize their operands as they run."""
    m, width = Net(32), 192

    def linear(x: str, inner: int, outer: int) -> str:
        q, scale, zero = m.op("DynamicQuantizeLinear", x, outputs=3)
        weight = m.constant(m._random.integers(-100, 100, (inner, outer)).astype(np.int8))
        y = m.op("Cast", m.op("MatMulInteger", q, weight, zero, m.constant(np.int8(0))), to=FLOAT)
        y = m.op("Mul", y, m.op("Mul", scale, m.scalar(0.02 / np.sqrt(inner))))
        return m.op("Add", y, m.vector(outer))

    x = m.input("x", [1, "T", width])
    for _ in range(2):
        y = m.layer_norm(x, width)
        q, k, v = (m.transpose(m.reshape(linear(y, width, width), 0, -1, 4, 48), 0, 2, 1, 3) for _ in range(3))
        scores = m.op("Div", m.op("MatMul", q, m.transpose(k, 0, 1, 3, 2)), m.scalar(np.sqrt(48)))
        mixed = m.transpose(m.op("MatMul", m.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
        x = m.op("Add", x, linear(m.reshape(mixed, 0, -1, width), width, width))
        x = m.op("Add", x, linear(m.gelu(linear(m.layer_norm(x, width), width, 768)), 768, width))
    return m.finish((x, [1, "T", width], FLOAT)), {"x": random(1, 64, width)}


# ---- control flow ----


def looped_decoder() -> Made:
    return architectures.decoder(), {"x": random(1, 64), "count": np.array(7)}


def scanned_cell() -> Made:
    """A gated cell, spelled out, over the steps of a sequence by `Scan`."""
    width, steps = 128, 32
    body = Net(41)
    joined = body.op("Concat", "state", "step", axis=1)
    gate = body.op("Sigmoid", body.linear(joined, 2 * width, width))
    new = body.op("Tanh", body.linear(joined, 2 * width, width))
    kept = body.op("Mul", "state", body.op("Sub", body.scalar(1), gate))
    state = body.op("Add", kept, body.op("Mul", new, gate))
    seen = body.op("Identity", state)
    inner = architectures._renamed(body, "b")
    graph = helper.make_graph(
        inner.nodes,
        "cell",
        [value("state", [1, width]), value("step", [1, width])],
        [value(f"b{state}", [1, width]), value(f"b{seen}", [1, width])],
        inner.initializers,
    )
    m = Net(42)
    x = m.op("Relu", m.linear(m.input("x", [steps, 1, width]), width, width))
    last, seen = m.op("Scan", m.constant(np.zeros((1, width), np.float32)), x, body=graph, num_scan_inputs=1, outputs=2)
    return m.finish((m.linear(seen, width, 64), [steps, 1, 64], FLOAT), (last, [1, width], FLOAT)), {
        "x": random(steps, 1, width)
    }


def early_exit() -> Made:
    """A network that decides by its own confidence whether to go deeper."""
    m, width = Net(43), 64
    x = m.unit(m.unit(m.input("x", [1, 3, 64, 64]), 3, 32, 3, 2), 32, width, 3, 2)
    quick = m.linear(m.op("Flatten", m.op("GlobalAveragePool", x)), width, 10)
    sure = m.op("Greater", m.op("ReduceMax", m.op("Softmax", quick, axis=-1), keepdims=0), m.scalar(0.9))
    deep, same = Net(44), Net(45)
    # Bodies see the values around them: theirs have numbers of their own.
    deep._count, same._count = 1000, 2000
    y = deep.unit(deep.unit(x, width, 128, 3, 2), 128, 128)
    y = deep.linear(deep.op("Flatten", deep.op("GlobalAveragePool", y)), 128, 10)
    z = same.op("Identity", quick)
    bodies = (("then_branch", same, z), ("else_branch", deep, y))
    branches = {
        name: helper.make_graph(maker.nodes, name, [], [value(result, [1, 10])], maker.initializers)
        for name, maker, result in bodies
    }
    return m.finish((m.op("If", sure, **branches), [1, 10], FLOAT)), {"x": random(1, 3, 64, 64)}


FREE = {
    "resnext": ["N", 3, "H", "W"],
    "densenet": ["N", 3, "H", "W"],
    "inception": ["N", 3, "H", "W"],
    "wavenet": ["N", 16, "T"],
    "video": ["N", 3, "D", "H", "W"],
    "qdq_residual": ["N", 3, "H", "W"],
    "early_exit": [1, 3, "H", "W"],
}
"""Networks that are made for one shape but run on any: their input's dims."""


def resized(name: str, made: Made, seed: int) -> Made | None:
    """The network with its free dims as names, and inputs of other sizes: odd ones, batches of 3. None where nothing is free."""
    model, inputs = made
    if name in FREE:
        model.graph.input[0].CopyFrom(value(model.graph.input[0].name, FREE[name]))
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
    draw, sizes, others = np.random.default_rng(seed), {}, {}
    for declared in model.graph.input:
        array, shape = inputs[declared.name], []
        for dim, size in zip(declared.type.tensor_type.shape.dim, array.shape):
            if dim.dim_param:
                larger = 3 if dim.dim_param == "N" and size == 1 else int(size * draw.uniform(1.1, 1.6)) | 1
                shape.append(sizes.setdefault(dim.dim_param, larger))
            else:
                shape.append(size)
        others[declared.name] = np.resize(array, shape)
    return (model, others) if sizes else None


NETWORKS: dict[str, list[Callable[[], Made]]] = {
    "float": [
        resnext, densenet, shufflenet, inception, vgg, mixer, t5_encoder, llama, whisper_encoder, wav2vec, tagger, wavenet,
        vocoder, super_resolution, segmenter, detr, recommender, pointnet, video, graph_network, autoencoder, swin,
        conformer, diffusion, one_stage_detector,
    ],
    "int8": [qdq_convnet, qdq_residual, dynamic_quantized],
    "control flow": [looped_decoder, scanned_cell, early_exit],
}  # fmt: skip
