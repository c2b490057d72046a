"""Models of one operator each, at sizes that take ONNX Runtime a fraction of a millisecond to some milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from architectures import FLOAT
from models import model, value
from networks import INT64, Made, Net, random


def _one(op_type: str, *operands: np.ndarray, outputs: int = 1, constants: tuple[int, ...] = (), **attributes: Any) -> Made:
    """The operator on inputs of the operands' shapes; operands whose positions are in `constants` belong to the model."""
    m, inputs, names = Net(), {}, []
    types = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64}
    for index, operand in enumerate(operands):
        if index in constants:
            names.append(m.constant(operand))
        else:
            names.append(m.input(f"x{index}", operand.shape, types[operand.dtype]))
            inputs[f"x{index}"] = operand
    made = m.op(op_type, *names, outputs=outputs, **attributes)
    results = [made] if outputs == 1 else made
    kinds = [INT64 if index == 1 or op_type in ("NonMaxSuppression", "Unique") else FLOAT for index in range(outputs)]
    values = [value(name, None, kind) for name, kind in zip(results, kinds, strict=True)]
    # The checker wants shapes of outputs, which the operator itself tells.
    return model(m.nodes, m.inputs, values, m.initializers, opset=20, check=False), inputs


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _image(channels: int = 32, side: int = 56, batch: int = 1) -> np.ndarray:
    return random(batch, channels, side, side)


def _grid(side: int, batch: int = 1) -> np.ndarray:
    return np.tanh(random(batch, side, side, 2, seed=1)).astype(np.float32)


def _unpool() -> Made:
    x = random(1, 32, 28, 28)
    offset = np.random.default_rng(1).integers(0, 2, (2, *x.shape))
    rows, columns = 2 * np.arange(28)[:, None] + offset[0], 2 * np.arange(28) + offset[1]
    places = np.arange(32)[None, :, None, None] * 56 * 56 + rows * 56 + columns
    return _one("MaxUnpool", x, places.astype(np.int64), kernel_shape=[2, 2], strides=[2, 2])


def _deform(mask: bool) -> Made:
    operands = [random(1, 64, 28, 28), random(64, 64, 3, 3, seed=1) / 24, random(1, 18, 28, 28, seed=2), random(64, seed=3)]
    if mask:
        operands.append(random(1, 9, 28, 28, seed=4))
    return _one("DeformConv", *operands, constants=(1, 3), pads=[1] * 4, kernel_shape=[3, 3])


def _boxes() -> Made:
    corners = np.random.default_rng(0).random((1, 2000, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 0.1], -1)
    scores = np.random.default_rng(1).random((1, 20, 2000)).astype(np.float32)
    limits = ints(100), np.float32([0.5]), np.float32([0.3])
    return _one("NonMaxSuppression", boxes, scores, *limits, constants=(2, 3, 4))


def _regions() -> Made:
    corners = np.random.default_rng(0).random((100, 2)).astype(np.float32) * 200
    boxes = np.concatenate([corners, corners + 100], -1)
    attributes = {"output_height": 7, "output_width": 7, "sampling_ratio": 2, "spatial_scale": 0.125}
    return _one("RoiAlign", random(1, 64, 50, 50), boxes, np.zeros(100, np.int64), **attributes)


def _lengths(time_axis: int) -> Made:
    x = random(64, 64, 64)
    lengths = np.random.default_rng(1).integers(1, 65, 64)
    return _one("ReverseSequence", x, lengths, batch_axis=1 - time_axis, time_axis=time_axis)


OPERATORS: dict[str, Callable[[], Made]] = {
    "Col2Im 3x3": lambda: _one(
        "Col2Im", random(1, 288, 3136), ints(56, 56), ints(3, 3), constants=(1, 2), pads=[1] * 4
    ),
    "Col2Im 2x2 stride 2": lambda: _one(
        "Col2Im", random(1, 128, 784), ints(56, 56), ints(2, 2), constants=(1, 2), strides=[2, 2]
    ),
    "MaxUnpool": _unpool,
    "AffineGrid": lambda: _one("AffineGrid", random(2, 2, 3), ints(2, 3, 112, 112), constants=(1,)),
    "ReverseSequence time first": lambda: _lengths(0),
    "ReverseSequence batch first": lambda: _lengths(1),
    "MaxPool with indices": lambda: _one(
        "MaxPool", _image(), outputs=2, kernel_shape=[2, 2], strides=[2, 2]
    ),
    "MaxPool with column-major indices": lambda: _one(
        "MaxPool", _image(), outputs=2, kernel_shape=[2, 2], strides=[2, 2], storage_order=1
    ),
    "DeformConv": lambda: _deform(False),
    "DeformConv masked": lambda: _deform(True),
    "GridSample linear": lambda: _one("GridSample", _image(16, 64), _grid(64), mode="linear"),
    "GridSample linear 3 channels": lambda: _one("GridSample", _image(3, 112), _grid(112), mode="linear"),
    "GridSample linear border": lambda: _one(
        "GridSample", _image(16, 64), _grid(64), mode="linear", padding_mode="border", align_corners=1
    ),
    "GridSample nearest": lambda: _one("GridSample", _image(16, 64), _grid(64), mode="nearest"),
    "GridSample cubic": lambda: _one("GridSample", _image(16, 64), _grid(64), mode="cubic"),
    "RoiAlign": _regions,
    "NonMaxSuppression": _boxes,
    "STFT": lambda: _one(
        "STFT", random(1, 16000, 1), np.array(160), np.hanning(400).astype(np.float32), np.array(400), constants=(1, 2, 3)
    ),
    "DFT 1024": lambda: _one("DFT", random(16, 1024, 1), constants=()),
    "DFT 1000": lambda: _one("DFT", random(16, 1000, 1), constants=()),
    "Unique": lambda: _one("Unique", np.random.default_rng(0).integers(0, 500, 20000), outputs=1),
}


def _transform(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    (x,) = inputs.values()
    y = np.fft.fft(x[..., 0].astype(np.float64), axis=-1)
    return [np.stack([y.real, y.imag], axis=-1).astype(np.float32)]


EXACT: dict[str, Callable[[dict[str, np.ndarray]], list[np.ndarray]]] = {"DFT 1000": _transform}
"""Results in double precision where the host's own are far from them: it sums transforms of lengths that are no power of two
term by term, with factors of single precision."""
