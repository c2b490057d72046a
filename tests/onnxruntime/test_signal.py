"""Windows, Fourier transforms, and operators whose results are as large as the data says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, refused, since, taken
from models import constant, value
from models import model as checked_model
from onnx import TensorProto, helper

node = helper.make_node
INT64 = TensorProto.INT64


def model(*parts: Any, opset: int = 17) -> onnx.ModelProto:
    """A model that may leave the shapes of its outputs open."""
    return checked_model(*parts, opset=opset, check=False)


def scalar(name: str, number: float, dtype: type = np.int64) -> onnx.TensorProto:
    return constant(name, np.array(number, dtype))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(engraft: Engraft, made: onnx.ModelProto, inputs: dict[str, np.ndarray], expected: list[str]) -> list[np.ndarray]:
    """Engraft takes nodes of these types, and its results are the CPU provider's."""
    session, report = engraft.placed(made)
    assert sorted(set(taken(report))) == sorted(set(expected)), refused(report)
    return engraft.agree(session, made, inputs)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows_of_any_size(engraft: Engraft, op: str, periodic: int) -> None:
    made = model(
        [node(op, ["size"], ["w"], periodic=periodic), node("Mul", ["w", "w"], ["y"])],
        [value("size", [], INT64)],
        [value("y", ["N"])],
    )
    for size in (3, 5, 400):
        check(engraft, made, {"size": np.array(size)}, [op, "Mul"])


@pytest.mark.parametrize(("length", "channels", "attributes"), [
    (400, 1, {"onesided": 1}),
    (400, 1, {}),
    (64, 2, {}),
    (64, 2, {"inverse": 1}),
    (37, 1, {"onesided": 1}),
])
def test_transforms(engraft: Engraft, length: int, channels: int, attributes: dict[str, int]) -> None:
    """Of all points, of fewer, and filled up with zeros."""
    for points in (None, length // 2, length + 12):
        operands = ["x"] if points is None else ["x", "points"]
        made = model(
            [node("DFT", operands, ["y"], **attributes)],
            [value("x", ["N", length, channels])],
            [value("y", None)],
            [] if points is None else [scalar("points", points)],
        )
        check(engraft, made, {"x": noise(3, length, channels)}, ["DFT"])


@since(1, 28, "half spectra have no inverse")
def test_a_spectrum_comes_back(engraft: Engraft) -> None:
    made = model(
        [node("DFT", ["x", "", "axis"], ["s"], onesided=1), node("DFT", ["s", "", "axis"], ["y"], onesided=1, inverse=1)],
        [value("x", [4, 96, 5, 1])],
        [value("y", None)],
        [scalar("axis", 1)],
        opset=20,
    )
    x = noise(4, 96, 5, 1)
    (y,) = check(engraft, made, {"x": x}, ["DFT"])
    np.testing.assert_allclose(y, x, atol=1e-5)


@pytest.mark.parametrize("window", ["constant", "operator", "input"])
def test_spectrograms(engraft: Engraft, window: str) -> None:
    """Log mel features of a signal of any length, as speech models compute them."""
    nodes = [
        node("STFT", ["x", "step", "w"], ["s"]),
        node("Mul", ["s", "s"], ["squares"]),
        node("ReduceSum", ["squares", "last"], ["power"], keepdims=0),
        node("MelWeightMatrix", ["bands", "points", "rate", "low", "high"], ["mel"]),
        node("MatMul", ["power", "mel"], ["energy"]),
        node("Clip", ["energy", "floor"], ["clipped"]),
        node("Log", ["clipped"], ["y"]),
    ]
    inputs = [value("x", [1, "samples", 1])]
    initializers = [
        scalar("step", 160), constant("last", np.array([-1])), scalar("bands", 80), scalar("points", 512),
        scalar("rate", 16000), scalar("low", 0.0, np.float32), scalar("high", 8000.0, np.float32),
        scalar("floor", 1e-6, np.float32),
    ]
    weights = np.hanning(513)[:-1].astype(np.float32)
    feeds = {}
    if window == "constant":
        initializers.append(constant("w", weights))
    elif window == "operator":
        nodes.insert(0, node("HannWindow", ["points"], ["w"]))
    else:
        inputs.append(value("w", [512]))
        feeds["w"] = weights
    made = model(nodes, inputs, [value("y", None)], initializers)
    session, report = engraft.placed(made)
    assert "STFT" in taken(report) and not refused(report)
    for samples in (512, 1600, 16000):
        engraft.agree(session, made, {"x": noise(1, samples, 1), **feeds})


def test_lengths_of_the_run(engraft: Engraft) -> None:
    made = model([node("DFT", ["x"], ["y"])], [value("x", ["B", "N", 2])], [value("y", None)])
    session, report = engraft.placed(made)
    assert taken(report) == ["DFT"], refused(report)
    for length in (1, 30, 64, 1000, 1024, 97):
        x = noise(2, length, 2)
        (y,) = session.run(None, {"x": x})
        # Closer to the exact result than ONNX Runtime's own transform of such lengths.
        want = np.fft.fft(x[..., 0].astype(np.float64) + 1j * x[..., 1])
        assert np.abs(y[..., 0] + 1j * y[..., 1] - want).max() <= 1e-6 * np.abs(want).max()


def test_double_precision_of_unknown_length_is_refused(engraft: Engraft) -> None:
    made = model(
        [node("DFT", ["x"], ["y"])], [value("x", [1, "N", 1], TensorProto.DOUBLE)], [value("y", None, TensorProto.DOUBLE)]
    )
    session, report = engraft.placed(made)
    assert taken(report) == [] and "run time" in refused(report)["DFT"]
    engraft.agree(session, made, {"x": noise(1, 30, 1).astype(np.float64)})


def suppression(center: int, operands: list[str]) -> onnx.ModelProto:
    initializers = {"limit": scalar("limit", 20), "overlap": scalar("overlap", 0.4, np.float32)}
    inputs = [value("boxes", ["B", "N", 4]), value("scores", ["B", "C", "N"])]
    if "least" in operands:
        inputs.append(value("least", [1]))
    return model(
        [node("NonMaxSuppression", operands, ["y"], center_point_box=center)],
        inputs,
        [value("y", ["M", 3], INT64)],
        [initializers[name] for name in operands if name in initializers],
    )


@pytest.mark.parametrize("center", [0, 1])
def test_suppression(engraft: Engraft, center: int) -> None:
    made = suppression(center, ["boxes", "scores", "limit", "overlap", "least"])
    session, report = engraft.placed(made)
    assert taken(report) == ["NonMaxSuppression"], refused(report)
    rng = np.random.default_rng(1)
    for boxes in (1, 17, 900):
        places = rng.random((2, boxes, 4), np.float32)
        # Few different scores: ties go to the lower index.
        scores = (rng.integers(0, 50, (2, 7, boxes)) / 50).astype(np.float32)
        for least in (0.3, 2.0):
            engraft.agree(session, made, {"boxes": places, "scores": scores, "least": np.float32([least])})


def test_suppression_by_default_keeps_nothing(engraft: Engraft) -> None:
    made = suppression(0, ["boxes", "scores"])
    (y,) = check(engraft, made, {"boxes": noise(1, 5, 4), "scores": noise(1, 2, 5)}, ["NonMaxSuppression"])
    assert y.shape == (0, 3)


def test_what_follows_a_suppression_is_taken(engraft: Engraft) -> None:
    """The usual end of a detector: the kept boxes are gathered and scaled."""
    made = model(
        [
            node("NonMaxSuppression", ["boxes", "scores", "limit", "overlap"], ["kept"]),
            node("Reshape", ["boxes", "four"], ["flat"]),
            node("Gather", ["kept", "two"], ["index"], axis=1),
            node("Gather", ["flat", "index"], ["picked"], axis=0),
            node("Mul", ["picked", "scale"], ["y"]),
        ],
        [value("boxes", [1, "N", 4]), value("scores", [1, 3, "N"])],
        [value("y", ["M", 4]), value("kept", ["M", 3], INT64)],
        [
            scalar("limit", 5), scalar("overlap", 0.5, np.float32), scalar("two", 2),
            scalar("scale", 640.0, np.float32), constant("four", np.array([-1, 4])),
        ],
    )
    session, report = engraft.placed(made)
    assert not refused(report)
    rng = np.random.default_rng(2)
    for count in (4, 60):
        feeds = {"boxes": rng.random((1, count, 4), np.float32), "scores": rng.random((1, 3, count), np.float32)}
        engraft.agree(session, made, feeds)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_unique(engraft: Engraft, ordered: int, axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    for dtype in (np.float32, np.int64):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        made = model(
            [node("Unique", ["x"], ["y", "first", "inverse", "counts"], sorted=ordered, **attributes)],
            [value("x", ["N", 3], kind)],
            [value("y", None, kind), *(value(name, ["M"], INT64) for name in ("first", "inverse", "counts"))],
        )
        session, report = engraft.placed(made)
        assert taken(report) == ["Unique"], refused(report)
        for rows in (1, 40):
            x = np.random.default_rng(rows).integers(-2, 2, (rows, 3)).astype(dtype)
            engraft.agree(session, made, {"x": x})


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_losses(engraft: Engraft, reduction: str) -> None:
    made = model(
        [
            node(
                "SoftmaxCrossEntropyLoss", ["x", "target", "w"], ["y", "log"], reduction=reduction, ignore_index=-1
            )
        ],
        [value("x", ["N", 5, 6]), value("target", ["N", 6], INT64)],
        [value("y", None), value("log", ["N", 5, 6])],
        [constant("w", np.float32([0.5, 1, 2, 3, 0.25]))],
    )
    target = np.random.default_rng(0).integers(-1, 5, (3, 6))
    check(engraft, made, {"x": noise(3, 5, 6), "target": target}, ["SoftmaxCrossEntropyLoss"])
