"""Comparing results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-4
"""Of the largest value of the reference, at single precision."""


def assert_same(reference: Mapping[str, Any], given: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Equal names, shapes and types, integers and texts exactly, floats within the tolerance."""
    assert sorted(reference) == sorted(given)
    for name in reference:
        want, got = np.asarray(reference[name]), np.asarray(given[name])
        assert want.shape == got.shape and want.dtype == got.dtype, name
        if want.size == 0:
            continue
        if want.dtype.kind == "f":
            scale = max(float(np.abs(want.astype(np.float64)).max()), 1e-30)
            error = float(np.abs(want.astype(np.float64) - got.astype(np.float64)).max()) / scale
            assert error <= tolerance, f"{name}: {error}"
        else:
            assert (want == got).all(), name
