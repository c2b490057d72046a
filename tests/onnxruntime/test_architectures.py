"""Models that nothing was tuned on: floating point is taken nearly whole, everything is right."""

from __future__ import annotations

from collections.abc import Callable

import architectures
import numpy as np
import onnx
import pytest
from conftest import Engraft, reference, refused


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


FLOATING = [
    (architectures.swin, [{"x": random(1, 256, 96)}]),
    (architectures.conformer, [{"x": random(1, 50, 128)}, {"x": random(2, 23, 128)}]),
    (architectures.unet, [{"x": random(n, 4, 16, 16), "time": np.float32([3, 400][:n])} for n in (1, 2)]),
    (architectures.detector, [{"image": random(1, 3, 64, 64)}]),
]


@pytest.mark.parametrize("make, runs", FLOATING, ids=lambda item: getattr(item, "__name__", ""))
def test_floating_point_is_taken(
    engraft: Engraft, make: Callable[[], onnx.ModelProto], runs: list[dict[str, np.ndarray]]
) -> None:
    made = make()
    # The policy that users get.
    session, report = engraft.placed(made, {"partition_policy": "profit"})
    share = report["accelerated_flops"]
    assert share >= 0.95, f"{share:.1%} of the FLOPs are taken; with the host: {refused(report)}"
    for inputs in runs:
        engraft.agree(session, made, inputs)


@pytest.mark.parametrize("policy", ["profit", "maximal"])
def test_quantized_models_are_right(engraft: Engraft, policy: str) -> None:
    made = architectures.quantized()
    session, _ = engraft.placed(made, {"partition_policy": policy})
    x = random(2, 3, 16, 16)
    (expected,) = reference(made).run(None, {"x": x})
    # Sums of another order may round to the neighbouring step of a quantization.
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=0.02)


@pytest.mark.parametrize("policy", ["profit", "maximal"])
def test_loops_with_branches_are_right(engraft: Engraft, policy: str) -> None:
    made = architectures.decoder()
    session, _ = engraft.placed(made, {"partition_policy": policy})
    for count in (0, 1, 7):
        engraft.agree(session, made, {"x": random(1, 64), "count": np.array(count, np.int64)})
