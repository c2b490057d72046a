"""Operators that sample, place or pool along spatial axes: with fixed and with symbolic sizes, against the CPU provider."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same, reference, refused, since
from models import constant, model, value
from onnx import helper
from onnx.reference import ReferenceEvaluator


def normal(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def node_model(
    op: str,
    inputs: dict[str, np.ndarray | None],
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int,
    symbolic: bool,
    outputs: int = 1,
    result: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node. Inputs stand in their order, absent ones as None; constants among them are given by name. The first output
    has the type of x, if no other is given."""
    constants = constants or {}
    node = helper.make_node(
        op,
        [name if given is not None or name in constants else "" for name, given in inputs.items()],
        [f"y{i}" for i in range(outputs)],
        **attributes,
    )
    given = {name: array for name, array in inputs.items() if array is not None and name not in constants}

    def dims(name: str, array: np.ndarray) -> list[int | str]:
        # What says a shape has as many elements as there are axes.
        fixed = not symbolic or array.dtype == np.int64 and array.ndim == 1
        return [size if fixed else f"{name}{axis}" for axis, size in enumerate(array.shape)]

    element = result or helper.np_dtype_to_tensor_dtype(given["x"].dtype)
    return model(
        [node],
        [
            value(name, dims(name, a), helper.np_dtype_to_tensor_dtype(a.dtype))
            for name, a in given.items()
        ],
        [value(f"y{i}", None, element if i == 0 else onnx.TensorProto.INT64) for i in range(outputs)],
        [constant(name, array) for name, array in constants.items()],
        opset=opset,
        ir_version=10,
        check=False,
    )


def agree(
    engraft: Engraft,
    op: str,
    inputs: dict[str, np.ndarray | None],
    constants: dict[str, np.ndarray] | None = None,
    *,
    by_definition: bool = False,
    **arguments: Any,
) -> None:
    """Takes the node whole, with fixed and symbolic sizes, and gives what the CPU provider gives; or, `by_definition`,
    what ONNX's reference gives."""
    given = {n: a for n, a in inputs.items() if a is not None and n not in (constants or {})}
    for symbolic in [False, True]:
        made = node_model(op, inputs, constants, symbolic=symbolic, **arguments)
        session, report = engraft.placed(made)
        assert refused(report) == {}
        if by_definition:
            assert_same(session.run(None, given), ReferenceEvaluator(made).run(None, given))
        else:
            engraft.agree(session, made, given)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_grid_sample(engraft: Engraft, mode: str, padding_mode: str, align_corners: int) -> None:
    attributes = {"padding_mode": padding_mode, "align_corners": align_corners}
    for channels in (3, 19):
        inputs = {"x": normal(2, channels, 7, 9), "grid": 0.8 * normal(2, 5, 6, 2, seed=1)}
        agree(engraft, "GridSample", inputs, opset=16, mode=mode, **attributes)
        name = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
        agree(engraft, "GridSample", inputs, opset=20, mode=name, **attributes)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_grid_sample_of_volumes(engraft: Engraft, mode: str, padding_mode: str, align_corners: int) -> None:
    for channels in (2, 16):
        inputs = {"x": normal(2, channels, 4, 5, 6), "grid": 0.8 * normal(2, 3, 4, 5, 3, seed=1)}
        attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        agree(engraft, "GridSample", inputs, opset=20, **attributes)


@pytest.mark.parametrize("size", [(2, 3, 5, 7), (2, 3, 4, 5, 6), (2, 1, 1, 4)])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_affine_grid(engraft: Engraft, size: tuple[int, ...], align_corners: int) -> None:
    axes = len(size) - 2
    inputs = {"x": normal(2, axes, axes + 1), "size": None}
    constants = {"size": np.array(size, np.int64)}
    agree(engraft, "AffineGrid", inputs, constants, opset=20, align_corners=align_corners)
    inputs["size"] = constants["size"]
    agree(engraft, "AffineGrid", inputs, opset=20, align_corners=align_corners)


@since(1, 28, "sequences of length 0 come out wrong")
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_reverse_sequence(engraft: Engraft, dtype: type) -> None:
    x = (9 * normal(5, 4, 3)).astype(dtype)
    agree(engraft, "ReverseSequence", {"x": x, "lengths": np.array([5, 0, 1, 3])}, opset=10)
    batch_first = {"batch_axis": 0, "time_axis": 1}
    agree(engraft, "ReverseSequence", {"x": x, "lengths": np.array([4, 0, 1, 3, 2])}, opset=10, **batch_first)


@pytest.mark.parametrize("shape", [(4, 4, 9), (10, 3, 7), (7, 8, 8)])
def test_center_crop_pad(engraft: Engraft, shape: tuple[int, ...]) -> None:
    wanted = np.array(shape, np.int64)
    agree(engraft, "CenterCropPad", {"x": normal(7, 8, 8), "shape": wanted}, {"shape": wanted}, opset=18)
    two = wanted[:2]
    agree(engraft, "CenterCropPad", {"x": normal(7, 8, 8), "shape": two}, {"shape": two}, opset=18, axes=[-1, 0])


def test_max_pool_counts_columns_first(engraft: Engraft) -> None:
    for shape in [(2, 3, 8), (2, 3, 8, 6), (1, 2, 5, 6, 4)]:
        spatial = len(shape) - 2
        attributes = {"kernel_shape": [2] * spatial, "strides": [2] * spatial, "storage_order": 1}
        agree(engraft, "MaxPool", {"x": normal(*shape)}, opset=12, outputs=2, **attributes)


@pytest.mark.parametrize("opset", [9, 11, 22])
def test_max_unpool(engraft: Engraft, opset: int) -> None:
    for shape in [(2, 3, 8, 6), (1, 5, 8)]:
        spatial = len(shape) - 2
        pool = {"kernel_shape": [2] * spatial, "strides": [2] * spatial}
        pooled = node_model("MaxPool", {"x": normal(*shape)}, opset=12, symbolic=False, outputs=2, **pool)
        values, places = ReferenceEvaluator(pooled).run(None, {"x": normal(*shape)})
        agree(engraft, "MaxUnpool", {"x": values, "places": places}, opset=opset, **pool)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_powers(engraft: Engraft, p: int) -> None:
    agree(engraft, "GlobalLpPool", {"x": normal(2, 3, 5, 6)}, opset=13, p=p)
    agree(engraft, "LpPool", {"x": normal(2, 3, 9, 8)}, opset=18, p=p, kernel_shape=[3, 2], strides=[2, 1])


@since(1, 28, "no TensorScatter")
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(engraft: Engraft, mode: str) -> None:
    for shape, axis in [((3, 8, 5), 1), ((2, 3, 8, 4), -2), ((2, 8, 3, 4), 1)]:
        steps = list(shape)
        steps[axis] = 3
        inputs = {"x": normal(*shape), "update": normal(*steps, seed=1), "first": None}
        agree(engraft, "TensorScatter", inputs, opset=24, mode=mode, axis=axis)
        starts = np.arange(shape[0]) + (4 if mode == "circular" else 0)
        inputs["first"] = starts
        agree(engraft, "TensorScatter", inputs, opset=24, mode=mode, axis=axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roi_align(engraft: Engraft, dtype: type) -> None:
    rng = np.random.default_rng(3)
    regions = np.concatenate([rng.uniform(-4, 12, (6, 2)), rng.uniform(8, 24, (6, 2))], axis=1).astype(dtype)
    inputs = {
        "x": normal(2, 20, 9, 11, dtype=dtype),
        "regions": regions,
        "images": np.array([0, 1, 0, 1, 1, 0]),
    }
    sizes = {"output_height": 3, "output_width": 4, "spatial_scale": 0.5}
    for mode in ["avg", "max"]:
        for ratio in [0, 1, 3]:
            attributes = {"mode": mode, "sampling_ratio": ratio, **sizes}
            agree(engraft, "RoiAlign", inputs, opset=10, **attributes)
            for coordinates in ["half_pixel", "output_half_pixel"]:
                attributes["coordinate_transformation_mode"] = coordinates
                agree(engraft, "RoiAlign", inputs, opset=16, **attributes)
                # A version that the CPU provider has no kernel for.
                agree(engraft, "RoiAlign", inputs, opset=22, by_definition=True, **attributes)


def test_max_roi_pool(engraft: Engraft) -> None:
    rng = np.random.default_rng(3)
    corners = np.concatenate([rng.uniform(-4, 12, (6, 2)), rng.uniform(8, 30, (6, 2))], axis=1)
    regions = np.concatenate([np.array([[0, 1, 0, 1, 1, 0]]).T, corners], axis=1).astype(np.float32)
    inputs = {"x": normal(2, 20, 9, 11), "regions": regions}
    attributes = {"pooled_shape": [3, 4], "spatial_scale": 0.5}
    agree(engraft, "MaxRoiPool", inputs, opset=7, **attributes)
    # The CPU provider has no kernel for the newest version, which says the same.
    oldest, newest = (
        node_model("MaxRoiPool", inputs, opset=opset, symbolic=True, **attributes) for opset in (7, 22)
    )
    session, report = engraft.placed(newest)
    assert refused(report) == {}
    assert_same(session.run(None, inputs), reference(oldest).run(None, inputs))


@since(1, 28, "no DeformConv on the CPU")
@pytest.mark.parametrize("opset", [19, 22])
def test_deform_conv(engraft: Engraft, opset: int) -> None:
    for groups, offset_groups, biased, masked in [(1, 1, False, False), (2, 1, True, True), (1, 4, False, True)]:
        inputs = {
            "x": normal(2, 8, 7, 9),
            "w": normal(6, 8 // groups, 3, 2, seed=1),
            "offsets": 1.5 * normal(2, offset_groups * 12, 4, 10, seed=2),
            "b": normal(6, seed=3) if biased else None,
            "mask": normal(2, offset_groups * 6, 4, 10, seed=4) if masked else None,
        }
        attributes = {"strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "kernel_shape": [3, 2]}
        arguments = {"group": groups, "offset_group": offset_groups, **attributes}
        weights = {"w": inputs["w"]}
        agree(engraft, "DeformConv", inputs, weights, opset=opset, **arguments)


@since(1, 28, "columns of volumes come out wrong")
def test_col2im(engraft: Engraft) -> None:
    for image, block, strides, dilations, pads in [
        ((6, 7), (3, 2), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((9, 8), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        ((9, 8), (2, 3), (1, 3), (2, 1), (0, 2, 1, 0)),
        ((5, 4, 6), (2, 2, 3), (1, 2, 1), (1, 1, 1), (0, 0, 1, 0, 0, 0)),
        ((5, 4, 6), (2, 2, 3), (1, 2, 1), (1, 1, 2), (0, 0, 1, 0, 0, 0)),
    ]:
        axes = len(image)
        places = [
            (image[a] + pads[a] + pads[axes + a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1
            for a in range(axes)
        ]
        shapes = {"image": np.array(image), "block": np.array(block)}
        inputs = {"x": normal(2, 3 * int(np.prod(block)), int(np.prod(places))), **shapes}
        attributes = {"strides": strides, "dilations": dilations, "pads": pads}
        # The CPU provider does not space the blocks of volumes.
        defined = axes == 3 and max(dilations) > 1
        agree(engraft, "Col2Im", inputs, shapes, opset=18, by_definition=defined, **attributes)


def test_det(engraft: Engraft) -> None:
    for shape in [(3, 3), (2, 5, 4, 4), (3, 1, 1), (2, 9, 9)]:
        agree(engraft, "Det", {"x": normal(*shape)}, opset=11)
        agree(engraft, "Det", {"x": normal(*shape)}, opset=22)


@since(1, 28, "no operator set 26")
@pytest.mark.parametrize(
    "dtype, to",
    [(np.float32, np.int32), (np.float64, np.int64), (np.uint16, np.int16), (np.bool_, np.uint8), (np.int8, np.bool_)],
)
def test_bit_cast(engraft: Engraft, dtype: type, to: type) -> None:
    x = (9 * normal(4, 5)).astype(dtype)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    agree(engraft, "BitCast", {"x": x}, opset=26, by_definition=True, to=element, result=element)
