"""How far two runs of a model are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-4
"""Largest |a - b|, relative to the largest |reference| of the same output, for floating-point outputs."""

WIDE_TOLERANCES = {"ppocr4_det": 1e-3, "ppocr6_det": 1e-3}
"""Detectors fed with random input: their sharp sigmoids magnify rounding."""


@dataclass(frozen=True)
class Difference:
    """The worst output's difference: 0 for equal, infinite where shape, type, an integer or a NaN differs."""

    relative: float
    where: str

    def within(self, model: str) -> bool:
        return self.relative <= tolerance(model)


def tolerance(model: str) -> float:
    """The largest relative difference that the model's outputs may have."""
    return WIDE_TOLERANCES.get(model, TOLERANCE)


def difference(names: list[str], reference: list[np.ndarray], outputs: list[np.ndarray]) -> Difference:
    """The largest difference of corresponding outputs."""
    if len(reference) != len(outputs):
        return Difference(np.inf, f"{len(outputs)} outputs for {len(reference)}")
    differences = [_difference(*triple) for triple in zip(names, reference, outputs, strict=True)]
    return max(differences, key=lambda d: d.relative, default=Difference(0.0, "no outputs"))


def _difference(name: str, reference: np.ndarray, output: np.ndarray) -> Difference:
    a, b = np.asarray(reference), np.asarray(output)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(np.inf, f"{name}: {b.dtype}{list(b.shape)} for {a.dtype}{list(a.shape)}")
    if a.dtype.kind not in "fc":
        wrong = int(np.count_nonzero(a != b))
        return Difference(np.inf if wrong else 0.0, f"{name}: {wrong} of {a.size} elements differ")
    if not a.size:
        return Difference(0.0, f"{name}: empty")
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return Difference(np.inf, f"{name}: NaN or infinity in different places")
    if not finite.any():
        return Difference(0.0, name)
    a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
    largest = np.abs(a).max()
    apart = np.abs(a - b).max()
    return Difference(float(apart / largest) if largest else float(apart), name)
