"""Operators of TensorFlow with random operands: what each case feeds and computes, one table per family."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

raw = tf.raw_ops


@dataclass
class Case:
    """`compute` gives a tensor, or several, of placeholders for `operands`."""

    name: str
    operands: Sequence[np.ndarray]
    compute: Callable[..., Any]
    tolerance: float = 1e-5
    # Sizes that the graph does not know in the variant with dynamic shapes: "all", "leading" (all but the last axis), "batch"
    # (the first axis) or "none", which leaves the case out of it.
    unknown: str = "all"
    # Only the shapes of the operands are read: a graph that knows them has no such input.
    only_shapes: bool = False

    def known_shape(self, operand: np.ndarray) -> list[int | None]:
        """The shape of an operand's placeholder in the variant with dynamic shapes."""
        known = {"all": operand.ndim, "leading": operand.ndim - 1, "batch": 1}[self.unknown]
        return [None if axis < known else size for axis, size in enumerate(operand.shape)]


_generator = np.random.default_rng(20251128)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return _generator.standard_normal(shape).astype(dtype)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(normal(*shape)) + 0.1).astype(np.float32)


def unit(*shape: int) -> np.ndarray:
    return _generator.uniform(-0.95, 0.95, shape).astype(np.float32)


def integers(*shape: int, low: int = -9, high: int = 9, dtype: Any = np.int32) -> np.ndarray:
    return _generator.integers(low, high, shape).astype(dtype)


def divisors(*shape: int, dtype: Any = np.int32) -> np.ndarray:
    return (integers(*shape, low=1, high=6) * _generator.choice([-1, 1], shape)).astype(dtype)


def truths(*shape: int) -> np.ndarray:
    return _generator.integers(0, 2, shape).astype(bool)


def _unary() -> list[Case]:
    cases = []
    ordinary = "Abs Neg Sign Exp Expm1 Sin Cos Tanh Erf Erfc Sigmoid Softplus Softsign Relu Relu6 Elu Selu Floor Ceil Rint Round Square Sinh Cosh Atan Asinh IsNan IsInf IsFinite Tan Identity StopGradient Snapshot ZerosLike OnesLike"
    argument = {"Relu": "features", "Relu6": "features", "Elu": "features", "Selu": "features", "Softplus": "features", "Softsign": "features", "Identity": "input", "StopGradient": "input", "Snapshot": "input"}
    for name in ordinary.split():
        def compute(x: Any, name: str = name) -> Any:
            return getattr(raw, name)(**{argument.get(name, "x"): x})

        cases.append(Case(name, [3 * normal(3, 4, 5)], compute, only_shapes=name.endswith("Like")))
    for name in "Sqrt Rsqrt Log Reciprocal Inv".split():
        cases.append(Case(name, [positive(3, 17)], lambda x, name=name: getattr(raw, name)(x=x)))
    for name in "Asin Acos Atanh".split():
        cases.append(Case(name, [unit(3, 17)], lambda x, name=name: getattr(raw, name)(x=x)))
    cases += [
        Case("Acosh", [positive(3, 17) + 1], lambda x: raw.Acosh(x=x)),
        Case("Log1p", [np.concatenate([positive(30), 1e-6 * normal(30)])], lambda x: raw.Log1p(x=x)),
        Case("Expm1_small", [1e-4 * normal(64)], lambda x: raw.Expm1(x=x)),
        Case("LeakyRelu", [normal(3, 17)], lambda x: raw.LeakyRelu(features=x, alpha=0.3)),
        Case("IsNan_some", [np.array([1, np.nan, np.inf, -np.inf], np.float32)], lambda x: (raw.IsNan(x=x), raw.IsInf(x=x), raw.IsFinite(x=x))),
        Case("Invert", [integers(3, 7)], lambda x: raw.Invert(x=x)),
        Case("LogicalNot", [truths(3, 7)], lambda x: raw.LogicalNot(x=x)),
        Case("Abs_integers", [integers(3, 7)], lambda x: (raw.Abs(x=x), raw.Neg(x=x), raw.Sign(x=x), raw.Square(x=x))),
        Case("L2Loss", [normal(5, 6)], lambda x: raw.L2Loss(t=x)),
        Case("PreventGradient", [normal(5, 6)], lambda x: raw.PreventGradient(input=x)),
        Case("IdentityN", [normal(5, 6), integers(3)], lambda x, y: tuple(raw.IdentityN(input=[x, y]))),
        Case("EnsureShape", [normal(5, 6)], lambda x: raw.EnsureShape(input=x, shape=[None, None])),
        Case("halves", [normal(4, 9, dtype=np.float16)], lambda x: raw.Relu(features=raw.AddV2(x=x, y=x)), 1e-3),
        Case("doubles", [normal(4, 9, dtype=np.float64)], lambda x: raw.Tanh(x=x), 1e-12),
    ]
    for to in [tf.int32, tf.int64, tf.float64, tf.bool, tf.float16, tf.uint8, tf.int8]:
        operand = np.abs(20 * normal(4, 6)) if to.is_unsigned else 20 * normal(4, 6)
        cases.append(Case(f"Cast_{to.name}", [operand], lambda x, to=to: raw.Cast(x=x, DstT=to), 1e-3 if to == tf.float16 else 1e-5))
    cases.append(Case("Cast_integers", [integers(4, 6)], lambda x: (raw.Cast(x=x, DstT=tf.float32), raw.Cast(x=x, DstT=tf.bool), raw.Cast(x=x, DstT=tf.int64))))
    cases.append(Case("Bitcast", [normal(4, 6)], lambda x: raw.Bitcast(input=x, type=tf.int32)))
    return cases


def _binary() -> list[Case]:
    cases = []
    for name in "Add AddV2 Sub Mul Maximum Minimum SquaredDifference DivNoNan MulNoNan Greater GreaterEqual Less LessEqual Equal NotEqual".split():
        for left, right in [((3, 4, 5), (3, 4, 5)), ((3, 4, 5), (5,)), ((3, 1, 5), (4, 1)), ((), (2, 3))]:
            operands = [np.round(2 * normal(*left)) / 2, np.round(2 * normal(*right)) / 2]
            shape = "x".join(map(str, left)) + "_" + "x".join(map(str, right))
            cases.append(Case(f"{name}_{shape}", operands, lambda x, y, name=name: getattr(raw, name)(x=x, y=y)))
    for name in "RealDiv Div FloorDiv FloorMod TruncateMod Mod".split():
        cases.append(Case(name, [4 * normal(3, 7), positive(7)], lambda x, y, name=name: getattr(raw, name)(x=x, y=y), 1e-4 if "Mod" in name else 1e-5))
    for name in "AddV2 Sub Mul Maximum Minimum FloorDiv FloorMod TruncateDiv TruncateMod Mod Div Equal NotEqual Less BitwiseAnd BitwiseOr BitwiseXor SquaredDifference".split():
        for dtype in [np.int32, np.int64]:
            operands = [integers(3, 1, 7, dtype=dtype, low=-30, high=30), divisors(5, 7, dtype=dtype)]
            cases.append(Case(f"{name}_{np.dtype(dtype).name}", operands, lambda x, y, name=name: getattr(raw, name)(x=x, y=y)))
    for name in "LogicalAnd LogicalOr".split():
        cases.append(Case(name, [truths(3, 7), truths(7)], lambda x, y, name=name: getattr(raw, name)(x=x, y=y)))
    for name in "LeftShift RightShift".split():
        cases.append(Case(name, [integers(3, 7, low=0, high=99), integers(7, low=0, high=5)], lambda x, y, name=name: getattr(raw, name)(x=x, y=y)))
    sparse = normal(4, 6) * truths(4, 6)
    cases += [
        Case("Pow", [positive(3, 7), normal(7)], lambda x, y: raw.Pow(x=x, y=y)),
        Case("Pow_square", [normal(3, 7)], lambda x: raw.Pow(x=x, y=tf.constant(2.0))),
        Case("Pow_integers", [integers(3, 7, low=-4, high=4), integers(7, low=0, high=4)], lambda x, y: raw.Pow(x=x, y=y)),
        Case("Xdivy", [sparse, normal(4, 6)], lambda x, y: raw.Xdivy(x=x, y=y)),
        Case("Xlogy", [sparse, positive(4, 6)], lambda x, y: raw.Xlogy(x=x, y=y)),
        Case("Xlog1py", [sparse, positive(4, 6)], lambda x, y: raw.Xlog1py(x=x, y=y)),
        Case("DivNoNan_zero", [normal(4, 6), sparse], lambda x, y: raw.DivNoNan(x=x, y=y)),
        Case("Atan2", [np.round(2 * normal(9, 9)), np.round(2 * normal(9, 9)) + 0.0], lambda y, x: raw.Atan2(y=y, x=x)),
        Case("ApproximateEqual", [np.round(normal(9, 9)), np.round(normal(9, 9))], lambda x, y: raw.ApproximateEqual(x=x, y=y)),
        Case("AddN", [normal(3, 4), normal(3, 4), normal(3, 4)], lambda *x: raw.AddN(inputs=list(x))),
        Case("Select", [truths(3, 4), normal(3, 4), normal(3, 4)], lambda c, a, b: raw.Select(condition=c, x=a, y=b)),
        Case("Select_rows", [truths(3), normal(3, 4), normal(3, 4)], lambda c, a, b: raw.Select(condition=c, x=a, y=b)),
        Case("SelectV2", [truths(3, 1), normal(4), normal(2, 3, 4)], lambda c, a, b: raw.SelectV2(condition=c, t=a, e=b)),
        Case("ClipByValue", [normal(5, 6)], lambda x: raw.ClipByValue(t=x, clip_value_min=-0.5, clip_value_max=0.7)),
        Case("ClipByValue_given", [normal(5, 6), -positive(5, 6), positive(5, 6)], lambda x, a, b: raw.ClipByValue(t=x, clip_value_min=a, clip_value_max=b)),
        Case("ClipByValue_integers", [integers(5, 6)], lambda x: raw.ClipByValue(t=x, clip_value_min=-3, clip_value_max=5)),
        Case("BiasAdd", [normal(2, 3, 4, 5), normal(5)], lambda x, b: raw.BiasAdd(value=x, bias=b)),
        Case("BiasAdd_matrix", [normal(3, 5), normal(5)], lambda x, b: raw.BiasAdd(value=x, bias=b)),
        Case("BiasAdd_first", [normal(2, 5, 4, 3), normal(5)], lambda x, b: raw.BiasAdd(value=x, bias=b, data_format="NCHW")),
    ]
    return cases


def _convolution() -> list[Case]:
    cases = []
    for padding in ["SAME", "VALID"]:
        for stride in [1, 2, 3]:
            for dilation in [1, 2]:
                if stride > 1 and dilation > 1:
                    continue
                for kernel in [1, 2, 3, 5]:
                    w, d = normal(kernel, kernel, 6, 8), normal(kernel, kernel, 6, 2)
                    name = f"{padding}_{stride}_{dilation}_{kernel}"
                    options = {"padding": padding, "strides": [1, stride, stride, 1], "dilations": [1, dilation, dilation, 1]}
                    cases.append(Case(f"Conv2D_{name}", [normal(2, 11, 12, 6)], lambda x, w=w, options=options: raw.Conv2D(input=x, filter=w, **options), unknown="leading"))
                    cases.append(Case(f"Depthwise_{name}", [normal(2, 11, 12, 6)], lambda x, d=d, options=options: raw.DepthwiseConv2dNative(input=x, filter=d, **options), unknown="leading"))
    w3 = normal(3, 3, 6, 8)
    cases += [
        Case("Conv2D_explicit", [normal(2, 9, 8, 6)], lambda x: raw.Conv2D(input=x, filter=w3, strides=[1, 2, 2, 1], padding="EXPLICIT", explicit_paddings=[0, 0, 1, 2, 0, 1, 0, 0]), unknown="leading"),
        Case("Conv2D_grouped", [normal(2, 9, 8, 12)], lambda x: raw.Conv2D(input=x, filter=w3, strides=[1, 1, 1, 1], padding="SAME"), unknown="leading"),
        Case("Conv2D_given", [normal(2, 9, 8, 6), w3], lambda x, w: raw.Conv2D(input=x, filter=w, strides=[1, 1, 1, 1], padding="SAME"), unknown="batch"),
        Case("Conv3D", [normal(1, 5, 6, 7, 3)], lambda x, w=normal(2, 3, 3, 3, 4): raw.Conv3D(input=x, filter=w, strides=[1, 1, 2, 1, 1], padding="SAME"), unknown="leading"),
    ]
    for padding in ["SAME", "VALID"]:
        for stride, kernel in [(1, 3), (2, 2), (2, 3), (2, 4), (3, 2), (2, 5)]:
            w = normal(kernel, kernel, 4, 6)
            size = 7 * stride if padding == "SAME" else (7 - 1) * stride + max(kernel, stride)

            def compute(x: Any, w: Any = w, size: int = size, stride: int = stride, padding: str = padding) -> Any:
                shape = tf.stack([tf.shape(x)[0], size, size, 4])
                return raw.Conv2DBackpropInput(input_sizes=shape, filter=w, out_backprop=x, strides=[1, stride, stride, 1], padding=padding)

            cases.append(Case(f"Transposed_{padding}_{stride}_{kernel}", [normal(2, 7, 7, 6)], compute, unknown="none"))
    return cases


def _pool() -> list[Case]:
    cases = []
    for padding in ["SAME", "VALID"]:
        for kernel, stride in [(2, 2), (3, 2), (3, 1), (1, 2)]:
            options = {"ksize": [1, kernel, kernel, 1], "strides": [1, stride, stride, 1], "padding": padding}
            name = f"{padding}_{kernel}_{stride}"
            cases.append(Case(f"MaxPool_{name}", [normal(2, 9, 10, 5)], lambda x, o=options: raw.MaxPool(input=x, **o)))
            cases.append(Case(f"AvgPool_{name}", [normal(2, 9, 10, 5)], lambda x, o=options: raw.AvgPool(value=x, **o)))
    cases += [
        Case("MaxPool_explicit", [normal(2, 9, 10, 5)], lambda x: raw.MaxPool(input=x, ksize=[1, 3, 3, 1], strides=[1, 2, 2, 1], padding="EXPLICIT", explicit_paddings=[0, 0, 1, 0, 1, 1, 0, 0])),
        Case("MaxPoolV2", [normal(2, 9, 10, 5)], lambda x: raw.MaxPoolV2(input=x, ksize=[1, 2, 3, 1], strides=[1, 2, 1, 1], padding="VALID")),
        Case("MaxPool3D", [normal(1, 6, 7, 8, 3)], lambda x: raw.MaxPool3D(input=x, ksize=[1, 2, 2, 2, 1], strides=[1, 2, 2, 2, 1], padding="VALID")),
        Case("AvgPool3D", [normal(1, 6, 7, 8, 3)], lambda x: raw.AvgPool3D(input=x, ksize=[1, 2, 3, 2, 1], strides=[1, 2, 2, 2, 1], padding="SAME")),
    ]
    return cases


def _norm() -> list[Case]:
    scale, offset, mean, variance = normal(5), normal(5), normal(5), positive(5)

    def fused(version: str) -> Callable[..., Any]:
        return lambda x: getattr(raw, f"FusedBatchNorm{version}")(x=x, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=1e-3, is_training=False)[0]

    return [
        *(Case(f"FusedBatchNorm{version}", [normal(2, 4, 3, 5)], fused(version)) for version in ["", "V2", "V3"]),
        Case("FusedBatchNorm_statistics", [normal(2, 4, 3, 5)], lambda x: raw.FusedBatchNormV3(x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=False)[:3]),
        Case("Softmax", [normal(4, 9)], lambda x: raw.Softmax(logits=x)),
        Case("Softmax_3", [normal(2, 4, 9)], lambda x: raw.Softmax(logits=x)),
        Case("LogSoftmax", [normal(4, 9)], lambda x: raw.LogSoftmax(logits=x)),
        Case("LRN", [normal(2, 3, 4, 9)], lambda x: raw.LRN(input=x, depth_radius=2, bias=1.5, alpha=0.3, beta=0.7), unknown="batch"),
    ]


def _linear() -> list[Case]:
    cases = []
    for a in [False, True]:
        for b in [False, True]:
            left, right = ((6, 4) if a else (4, 6)), ((5, 6) if b else (6, 5))
            cases.append(Case(f"MatMul_{a}_{b}", [normal(*left), normal(*right)], lambda x, y, a=a, b=b: raw.MatMul(a=x, b=y, transpose_a=a, transpose_b=b)))
            batched = [normal(3, 2, *left), normal(2, *right)]
            cases.append(Case(f"BatchMatMulV2_{a}_{b}", batched, lambda x, y, a=a, b=b: raw.BatchMatMulV2(x=x, y=y, adj_x=a, adj_y=b)))
            same = [normal(3, *left), normal(3, *right)]
            cases.append(Case(f"BatchMatMul_{a}_{b}", same, lambda x, y, a=a, b=b: raw.BatchMatMul(x=x, y=y, adj_x=a, adj_y=b)))
            cases.append(Case(f"BatchMatMulV3_{a}_{b}", same, lambda x, y, a=a, b=b: raw.BatchMatMulV3(x=x, y=y, Tout=tf.float32, adj_x=a, adj_y=b)))
    cases.append(Case("MatMul_integers", [integers(4, 6), integers(6, 5)], lambda x, y: raw.MatMul(a=x, b=y)))
    cases.append(Case("MatMul_weights", [normal(4, 64)], lambda x, w=normal(64, 48): raw.MatMul(a=x, b=w)))
    for equation, shapes in [
        ("abc,cde->abde", [(2, 3, 4), (4, 5, 6)]),
        ("abcd,cde->abe", [(2, 3, 4, 5), (4, 5, 6)]),
        ("BTNH,BSNH->BNTS", [(2, 3, 4, 5), (2, 6, 4, 5)]),
        ("BNTS,BSNH->BTNH", [(2, 4, 3, 6), (2, 6, 4, 5)]),
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("ij->ji", [(3, 4)]),
        ("ijk->i", [(3, 4, 5)]),
        ("bi,bj->bij", [(3, 4), (3, 5)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("aecd,abcd->acbe", [(2, 3, 4, 5), (2, 6, 4, 5)]),
        ("acbe,aecd->abcd", [(2, 4, 6, 3), (2, 3, 4, 5)]),
    ]:
        operands = [normal(*shape) for shape in shapes]
        cases.append(Case(f"Einsum_{''.join(c if c.isalnum() else '_' for c in equation)}", operands, lambda *x, e=equation: raw.Einsum(inputs=list(x), equation=e)))
    return cases


def _reduce() -> list[Case]:
    cases = []
    for name in "Sum Mean Max Min Prod EuclideanNorm".split():
        for axes in [[0], [1, 2], [-1], [0, 1, 2], 1]:
            for keep in [False, True]:
                text = "_".join(map(str, np.atleast_1d(axes))).replace("-", "m")
                cases.append(Case(f"{name}_{text}_{keep}", [normal(3, 4, 5)], lambda x, name=name, axes=axes, keep=keep: getattr(raw, name)(input=x, axis=axes, keep_dims=keep)))
        cases.append(Case(f"{name}_none", [normal(3, 4, 5)], lambda x, name=name: getattr(raw, name)(input=x, axis=tf.constant([], tf.int32))))
    for name in "Sum Max Min Prod".split():
        cases.append(Case(f"{name}_integers", [integers(3, 4, 5, low=-3, high=4)], lambda x, name=name: getattr(raw, name)(input=x, axis=[1])))
    for name in "All Any".split():
        cases.append(Case(name, [truths(3, 4, 5)], lambda x, name=name: (getattr(raw, name)(input=x, axis=[1]), getattr(raw, name)(input=x, axis=[0, 2], keep_dims=True))))
    for name in "ArgMax ArgMin".split():
        for to in [tf.int32, tf.int64]:
            cases.append(Case(f"{name}_{to.name}", [normal(3, 4, 5)], lambda x, name=name, to=to: getattr(raw, name)(input=x, dimension=1, output_type=to)))
    for name in "Cumsum Cumprod".split():
        for exclusive in [False, True]:
            for reverse in [False, True]:
                cases.append(Case(f"{name}_{exclusive}_{reverse}", [normal(3, 4, 5)], lambda x, name=name, e=exclusive, r=reverse: getattr(raw, name)(x=x, axis=1, exclusive=e, reverse=r)))
    cases.append(Case("TopKV2", [normal(3, 9)], lambda x: raw.TopKV2(input=x, k=4)))
    cases.append(Case("TopKV2_equal", [np.round(normal(3, 9))], lambda x: raw.TopKV2(input=x, k=4)))
    return cases


def _shape() -> list[Case]:
    x3 = normal(3, 4, 5)
    return [
        Case("Reshape", [x3], lambda x: (tf.reshape(x, [4, -1]), tf.reshape(x, [-1]))),
        Case("Reshape_computed", [x3], lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0] * tf.shape(x)[1], tf.shape(x)[2]]))),
        Case("ExpandDims", [x3], lambda x: (tf.expand_dims(x, 0), tf.expand_dims(x, -1), tf.expand_dims(x, 2))),
        Case("Squeeze", [normal(1, 4, 1)], lambda x: (tf.squeeze(x, [0]), tf.squeeze(x, [-1]), tf.squeeze(x, [0, 2])), unknown="batch"),
        Case("Squeeze_all", [normal(1, 4, 1)], tf.squeeze, unknown="none"),
        Case("Transpose", [x3], lambda x: (tf.transpose(x, [2, 0, 1]), tf.transpose(x, [0, 2, 1]))),
        Case("ConcatV2", [normal(3, 4), normal(3, 2)], lambda x, y: (tf.concat([x, y], 1), tf.concat([y, x, y], -1))),
        Case("Pack", [normal(3, 4), normal(3, 4)], lambda x, y: (tf.stack([x, y], 0), tf.stack([x, y, x], 1), tf.stack([x, y], -1))),
        Case("Unpack", [x3], lambda x: tf.unstack(x, 4, axis=1) + tf.unstack(x, 3, axis=0), unknown="batch"),
        Case("Split", [normal(3, 12)], lambda x: tf.split(x, 3, axis=1), unknown="batch"),
        Case("Split_some", [normal(3, 12)], lambda x: tf.split(x, 4, axis=1)[2], unknown="batch"),
        Case("SplitV", [normal(3, 12)], lambda x: tf.split(x, [3, 4, 5], axis=1), unknown="batch"),
        Case("SplitV_rest", [normal(3, 12)], lambda x: tf.split(x, [3, -1, 2], axis=-1), unknown="batch"),
        Case("Tile", [normal(3, 4)], lambda x: tf.tile(x, [2, 3])),
        Case("BroadcastTo", [normal(1, 4)], lambda x: tf.broadcast_to(x, [2, 3, 4])),
        Case("Shape", [x3], lambda x: (tf.shape(x) + 0, tf.shape(x, tf.int64) * 2, tf.size(x), tf.rank(x) + 0), only_shapes=True),
        Case("ShapeN", [x3, normal(2, 2)], lambda x, y: [shape + 0 for shape in tf.shape_n([x, y])], only_shapes=True),
        Case("Fill", [x3], lambda x: (tf.fill(tf.shape(x), 2.5), tf.fill([2, 3], 7)), only_shapes=True),
        Case("Fill_given", [np.float32(2.5), x3], lambda v, x: tf.fill(tf.shape(x)[1:], v) + x),
        Case("Range", [x3], lambda x: (tf.range(tf.shape(x)[1]), tf.range(2, 11, 3), tf.range(tf.shape(x)[0], 20, 2)), only_shapes=True),
        Case("LinSpace", [x3], lambda x: x[:, 0, 0] + tf.cast(tf.linspace(0.5, 3.0, 3), tf.float32), unknown="none"),
        Case("Like", [x3, integers(3)], lambda x, y: (tf.zeros_like(x), tf.ones_like(x), tf.ones_like(y)), only_shapes=True),
        Case("ReverseV2", [x3], lambda x: (tf.reverse(x, [0]), tf.reverse(x, [1, -1]))),
        Case("Roll", [x3], lambda x: tf.roll(x, [1, -2], [0, 2]), unknown="none"),
        Case("Slice", [x3], lambda x: (tf.slice(x, [0, 1, 2], [2, 2, -1]), tf.slice(x, [1, 0, 0], [-1, -1, 3]))),
        Case("Pad", [x3], lambda x: (tf.pad(x, [[0, 1], [2, 0], [1, 1]]), tf.pad(x, [[1, 0], [0, 0], [0, 2]], constant_values=3.5))),
        Case("MirrorPad", [x3], lambda x: (tf.pad(x, [[0, 1], [2, 0], [1, 3]], "REFLECT"), tf.pad(x, [[0, 1], [2, 0], [1, 3]], "SYMMETRIC"))),
        Case("InvertPermutation", [x3], lambda x: tf.transpose(x, tf.math.invert_permutation([2, 0, 1]))),
        Case("DepthToSpace", [normal(2, 3, 4, 12)], lambda x: tf.nn.depth_to_space(x, 2), unknown="batch"),
        Case("SpaceToDepth", [normal(2, 6, 4, 3)], lambda x: tf.nn.space_to_depth(x, 2), unknown="batch"),
        Case("SpaceToBatchND", [normal(2, 5, 6, 3)], lambda x: tf.space_to_batch_nd(x, [2, 3], [[1, 0], [0, 3]])),
        Case("BatchToSpaceND", [normal(12, 3, 2, 3)], lambda x: tf.batch_to_space(x, [2, 3], [[1, 0], [0, 2]])),
        Case("arithmetic", [normal(2, 9)], lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], tf.shape(x)[1] // 3, 3 + 0 * tf.shape(x)[0]]))),
        Case("product", [x3], lambda x: tf.reshape(x, tf.concat([tf.shape(x)[:1], [tf.reduce_prod(tf.shape(x)[1:])]], 0))),
    ]


def _strided() -> list[Case]:
    x = normal(6, 7, 8)
    picks: dict[str, Callable[[Any], Any]] = {
        "index": lambda x: x[2],
        "negative_index": lambda x: x[-2, :, 1],
        "range": lambda x: x[1:4, 2:, :-3],
        "negative": lambda x: x[-4:-1, -100:3, 2:100],
        "step": lambda x: x[::2, 1::3, :6:4],
        "backwards": lambda x: x[::-1, 5:1:-2, ::-3],
        "backwards_beyond": lambda x: x[100:-100:-1, -2:-100:-1],
        "empty": lambda x: x[4:2, :, :],
        "empty_backwards": lambda x: x[:, 2:4:-1],
        "ellipsis": lambda x: x[..., 3],
        "ellipsis_middle": lambda x: x[1, ..., ::2],
        "new_axis": lambda x: x[:, tf.newaxis, 2:5],
        "new_axis_last": lambda x: x[..., tf.newaxis],
        "all": lambda x: x[1, tf.newaxis, ..., tf.newaxis, -1],
    }
    cases = [Case(f"StridedSlice_{name}", [x], pick, unknown="all" if name in ("index", "range", "step", "ellipsis", "new_axis", "new_axis_last") else "none") for name, pick in picks.items()]
    cases.append(Case("StridedSlice_of_shape", [x], lambda x: (tf.shape(x)[1] + 0, tf.shape(x)[1:] + 0, tf.shape(x)[::-1] + 0), only_shapes=True))
    return cases


def _gather() -> list[Case]:
    x = normal(5, 6, 7)
    return [
        Case("GatherV2", [x, integers(3, 2, low=0, high=5)], lambda x, i: (tf.gather(x, i), tf.gather(x, i, axis=1), tf.gather(x, i, axis=-1))),
        Case("GatherV2_constant", [x], lambda x: (tf.gather(x, [4, 0]), tf.gather(x, 2, axis=1))),
        Case("GatherV2_table", [integers(3, 4, low=0, high=9)], lambda i, table=normal(9, 8): tf.gather(table, i)),
        Case("GatherV2_batch", [x, integers(5, 3, low=0, high=6)], lambda x, i: (tf.gather(x, i, axis=1, batch_dims=1), tf.gather(x, i, axis=2, batch_dims=1))),
        Case("GatherNd", [x, integers(4, 2, low=0, high=5)], lambda x, i: tf.gather_nd(x, i), unknown="leading"),
        Case("ScatterNd", [integers(6, 1, low=0, high=4), normal(6, 3)], lambda i, u: tf.scatter_nd(i, u, [5, 3]), unknown="leading"),
        Case("TensorScatter", [normal(9, 3), np.array([[4], [0], [7]], np.int32), normal(3, 3)], lambda x, i, u: (tf.tensor_scatter_nd_update(x, i, u), tf.tensor_scatter_nd_add(x, i, u), tf.tensor_scatter_nd_sub(x, i, u), tf.tensor_scatter_nd_max(x, i, u), tf.tensor_scatter_nd_min(x, i, u)), unknown="leading"),
        Case("OneHot", [integers(4, 3, low=-2, high=7)], lambda i: (tf.one_hot(i, 5), tf.one_hot(i, 5, 2.5, -1.0, axis=0), tf.one_hot(i, 5, axis=1, dtype=tf.int32))),
        Case("Where", [truths(4, 5)], lambda x: tf.where(x)),
        Case("ReverseSequence", [x, integers(5, low=1, high=6)], lambda x, n: tf.reverse_sequence(x, n, seq_axis=1, batch_axis=0)),
        Case("Bucketize", [normal(4, 5)], lambda x: raw.Bucketize(input=x, boundaries=[-1.0, 0.0, 0.5])),
    ]


def _resize() -> list[Case]:
    cases = []
    for name in ["ResizeBilinear", "ResizeNearestNeighbor"]:
        for corners, centers in [(False, False), (True, False), (False, True)]:
            for size in [[4, 5], [14, 18], [9, 13], [7, 9]]:
                cases.append(Case(f"{name}_{corners}_{centers}_{size[0]}", [normal(2, 7, 9, 3)], lambda x, name=name, a=corners, h=centers, size=size: getattr(raw, name)(images=x, size=size, align_corners=a, half_pixel_centers=h), 1e-4))
    cases.append(Case("Resize_twice", [normal(2, 4, 5, 3)], lambda x: raw.ResizeNearestNeighbor(images=x, size=tf.shape(x)[1:3] * 2, half_pixel_centers=True)))
    cases.append(Case("ResizeBilinear_bytes", [integers(1, 4, 5, 3, low=0, high=255, dtype=np.uint8)], lambda x: raw.ResizeBilinear(images=x, size=[8, 9], half_pixel_centers=True)))
    return cases


def _quantize() -> list[Case]:
    return [
        Case("FakeQuantArgs", [3 * normal(4, 5)], lambda x: raw.FakeQuantWithMinMaxArgs(inputs=x, min=-2.0, max=3.0, num_bits=6), 1e-4),
        Case("FakeQuantVars", [3 * normal(4, 5)], lambda x: raw.FakeQuantWithMinMaxVars(inputs=x, min=-2.2, max=3.1, narrow_range=True), 1e-4),
        Case("FakeQuantPerChannel", [3 * normal(4, 3)], lambda x: raw.FakeQuantWithMinMaxVarsPerChannel(inputs=x, min=[-1.0, -2.0, -0.1], max=[1.0, 3.0, 2.0]), 1e-4),
    ]


def families() -> dict[str, list[Case]]:
    return {
        "unary": _unary(),
        "binary": _binary(),
        "convolution": _convolution(),
        "pool": _pool(),
        "norm": _norm(),
        "linear": _linear(),
        "reduce": _reduce(),
        "shape": _shape(),
        "strided": _strided(),
        "gather": _gather(),
        "resize": _resize(),
        "quantize": _quantize(),
    }
