"""What the project asks of its first release, and whether measurements meet it."""

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

BASE, DENORMALS_AS_ZERO, ENGRAFT = "ort", "ort-daz", "engraft"


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
    done = [case for case in cases if not case.failure and {BASE, ENGRAFT} <= case.timings.keys()]
    for threads in sorted({case.threads for case in done}):
        some = [case for case in done if case.threads == threads]
        suffix = f" at {threads} thread{'s' * (threads > 1)}"
        bars += _speed(some, suffix)
    created = [case for case in done if {BASE, ENGRAFT} <= case.creation.keys()]
    bars += _worst(created, "cold creation <= 2 x ONNX Runtime's + 0.5 s", lambda c: (
        c.creation[ENGRAFT].cold, 2 * c.creation[BASE].warm + 0.5))  # fmt: skip
    bars += _worst(created, "warm creation <= 1.1 x ONNX Runtime's + 20 ms", lambda c: (
        c.creation[ENGRAFT].warm, 1.1 * c.creation[BASE].warm + 0.02))  # fmt: skip
    bars += _worst(created, "peak memory cold <= 1.5 x ONNX Runtime's", lambda c: (
        c.creation[ENGRAFT].peak_cold, 1.5 * c.creation[BASE].peak_warm))  # fmt: skip
    bars += _worst(created, "peak memory warm <= 1.2 x ONNX Runtime's", lambda c: (
        c.creation[ENGRAFT].peak_warm, 1.2 * c.creation[BASE].peak_warm))  # fmt: skip
    bars += _worst(done, "outputs agree within the tolerance", lambda c: (
        c.differences[ENGRAFT], compare.tolerance(c.model)))  # fmt: skip
    return bars


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _speed(cases: Sequence[Case], suffix: str) -> list[Bar]:
    def ratios(base: str) -> list[float]:
        return [c.timings[base].median / c.timings[ENGRAFT].median for c in cases if base in c.timings]

    ratio = ratios(BASE)
    slowest = min(cases, key=lambda c: c.timings[BASE].median / c.timings[ENGRAFT].median)
    least = min(ratio)
    bars = [
        _least(f"geometric mean{suffix} >= 1.2", geometric_mean(ratio), 1.2),
        _least(f"median{suffix} >= 1.05", statistics.median(ratio), 1.05),
        Bar(f"no case{suffix} under 0.8", f"{least:.3f} ({slowest.label})", least >= 0.8),
    ]
    if against_daz := ratios(DENORMALS_AS_ZERO):
        demand = f"geometric mean{suffix} against denormals as zero >= 1.05"
        bars.append(_least(demand, geometric_mean(against_daz), 1.05))
    return bars


def _least(demand: str, figure: float, bar: float) -> Bar:
    return Bar(demand, f"{figure:.3f}", figure >= bar)


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
