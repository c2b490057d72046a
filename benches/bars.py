"""What the project asks of its releases, and whether measurements meet it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import compare

if TYPE_CHECKING:
    from measure import Case
    from placement import Placement

CONTROL_FLOW = {"silero_vad"}
"""Models whose work lies in branches that the host runs: no share of FLOPs is asked of them."""

SINGLE_SEGMENT = {
    "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "googlenet", "convnext_tiny", "vit_b_16",
    "unet", "bert_base", "distilbert", "minilm_l6",
}  # fmt: skip

LEAST_SHARE = 0.99
MOST_SEGMENTS = 3

BASE, DENORMALS_AS_ZERO, ENGRAFT, BFLOAT16, OPENVINO = "ort", "ort-daz", "engraft", "engraft-bf16", "openvino"

SPEECH_AND_TEXT_IN_IMAGES = ("ppocr", "silero")
"""Models where ONNX Runtime loses most: a mean over the zoo must not rest on them alone."""


@dataclass(frozen=True)
class SpeedBar:
    """A demand on the ratios base / peer over the zoo's cases."""

    peer: str
    statistic: str
    least: float
    base: str = BASE
    threads: tuple[int, ...] = (1, 2)
    usual_only: bool = False
    """Without the models of `SPEECH_AND_TEXT_IN_IMAGES`."""


SPEED_BARS = (
    SpeedBar(ENGRAFT, "geometric mean", 1.2),
    SpeedBar(ENGRAFT, "median", 1.05),
    SpeedBar(ENGRAFT, "least", 0.8),
    SpeedBar(ENGRAFT, "geometric mean", 1.05, base=DENORMALS_AS_ZERO),
    SpeedBar("engraft-fp32", "geometric mean", 1.5),
    SpeedBar("engraft-fp32", "geometric mean", 1.2, usual_only=True),
    SpeedBar("engraft-fp32", "least", 0.95),
    SpeedBar("engraft-tf32", "geometric mean", 2.8, threads=(2,)),
    SpeedBar("engraft-tf32", "least", 0.95, threads=(2,)),
    SpeedBar(BFLOAT16, "geometric mean", 3.8, threads=(2,)),
    SpeedBar(BFLOAT16, "geometric mean", 1.25, base=OPENVINO, threads=(2,)),
    SpeedBar(BFLOAT16, "least", 0.85, base=OPENVINO, threads=(2,)),
)
"""Bars of the `tf32` and `bf16` modes are asked of machines with AMX."""

TF32_ERROR, TF32_ERROR_OVER_FP32 = 2e-4, 50.0
"""Largest relative error of the `tf32` mode, and the largest multiple of ONNX Runtime's own."""


@dataclass(frozen=True)
class Bar:
    """A demand, and the figure that meets it or does not."""

    demand: str
    figure: str
    met: bool


def placement_faults(model: str, placement: Placement) -> list[str]:
    """What is wrong with a model's placement under the default policy."""
    if model in CONTROL_FLOW:
        return []
    reasons = "; ".join(f"{count} x {reason}" for reason, count in list(placement.refused.items())[:5])
    most = 1 if model in SINGLE_SEGMENT else MOST_SEGMENTS
    faults = []
    if placement.share < LEAST_SHARE:
        faults.append(f"only {placement.share:.2%} of the FLOPs run on Engraft: {reasons}")
    if placement.segments > most:
        faults.append(f"{placement.segments} segments, at most {most} asked: {reasons}")
    return faults


def speed_and_costs(cases: Sequence[Case]) -> list[Bar]:
    """The bars on latency, session creation, memory and agreement that these cases have figures for."""
    bars = []
    done = [case for case in cases if not case.failure and BASE in case.timings]
    for threads in sorted({case.threads for case in done}):
        bars += _speed([case for case in done if case.threads == threads], threads)
    bars += _errors(done)
    created = [case for case in done if {BASE, ENGRAFT} <= case.creation.keys()]
    bars += _worst(created, "cold creation <= 2 x ONNX Runtime's + 0.5 s", lambda c: (
        c.creation[ENGRAFT].cold, 2 * c.creation[BASE].warm + 0.5))  # fmt: skip
    bars += _worst(created, "warm creation <= 1.1 x ONNX Runtime's + 20 ms", lambda c: (
        c.creation[ENGRAFT].warm, 1.1 * c.creation[BASE].warm + 0.02))  # fmt: skip
    bars += _worst(created, "peak memory cold <= 1.5 x ONNX Runtime's", lambda c: (
        c.creation[ENGRAFT].peak_cold, 1.5 * c.creation[BASE].peak_warm))  # fmt: skip
    bars += _worst(created, "peak memory warm <= 1.2 x ONNX Runtime's", lambda c: (
        c.creation[ENGRAFT].peak_warm, 1.2 * c.creation[BASE].peak_warm))  # fmt: skip
    compared = [case for case in done if "engraft-fp32" in case.differences]
    bars += _worst(compared, "outputs of fp32 agree within the tolerance", lambda c: (
        c.differences["engraft-fp32"], compare.tolerance(c.model)))  # fmt: skip
    return bars


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def ratio(case: Case, base: str, peer: str) -> float:
    """How many times as fast as `base` the peer is."""
    return case.timings[base].median / case.timings[peer].median


def _speed(cases: Sequence[Case], threads: int) -> list[Bar]:
    bars = []
    for bar in SPEED_BARS:
        some = [c for c in cases if {bar.base, bar.peer} <= c.timings.keys()]
        if bar.usual_only:
            some = [c for c in some if not c.model.startswith(SPEECH_AND_TEXT_IN_IMAGES)]
        if not some or threads not in bar.threads:
            continue
        ratios = [ratio(c, bar.base, bar.peer) for c in some]
        figure = STATISTICS[bar.statistic](ratios)
        text = f"{figure:.3f}"
        if bar.statistic == "least":
            text += f" ({min(some, key=lambda c: ratio(c, bar.base, bar.peer)).label})"
        without = ", OCR and VAD left out," * bar.usual_only
        demand = f"{bar.base} / {bar.peer}{without} at {threads} thread{'s' * (threads > 1)}: {bar.statistic} >= {bar.least}"
        bars.append(Bar(demand, text, figure >= bar.least))
    return bars


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "geometric mean": geometric_mean,
    "median": statistics.median,
    "least": min,
}


def _errors(cases: Sequence[Case]) -> list[Bar]:
    tf32 = [case for case in cases if {BASE, "engraft-tf32"} <= case.errors.keys()]
    bars = _worst(tf32, f"error of tf32 <= {TF32_ERROR:g}", lambda c: (c.errors["engraft-tf32"], TF32_ERROR))
    bars += _worst(tf32, f"error of tf32 <= {TF32_ERROR_OVER_FP32:g} x ONNX Runtime's", lambda c: (
        c.errors["engraft-tf32"], TF32_ERROR_OVER_FP32 * max(c.errors[BASE], 1e-12)))  # fmt: skip
    bf16 = [case for case in cases if {BFLOAT16, OPENVINO} <= case.errors.keys()]
    bars += _worst(bf16, "error of bf16 <= OpenVINO's", lambda c: (
        c.errors[BFLOAT16], max(c.errors[OPENVINO], 1e-12)))  # fmt: skip
    return bars


def _worst(cases: Sequence[Case], demand: str, of: Callable[[Case], tuple[float, float]]) -> list[Bar]:
    """The bar for the case that comes closest to its limit, or passes it by most."""
    if not cases:
        return []

    def relative(case: Case) -> float:
        figure, limit = of(case)
        return figure / limit

    worst = max(cases, key=relative)
    above = sum(relative(case) > 1 for case in cases)
    figure = f"{relative(worst):.0%} of it ({worst.label}, {worst.threads} threads)" + f", {above} above" * bool(above)
    return [Bar(demand, figure, not above)]
