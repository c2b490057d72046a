"""A picture of a measurement: every peer's speed-up over the first one, and its error, model by model, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bars

if TYPE_CHECKING:
    from measure import Case

COLOURS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#a61e4d", "#868e96", "#1864ab", "#846358")

ROW, BAR, LEFT, PANEL, GAP, TOP = 6, 9, 170, 430, 60, 78
"""Pixels: space between cases, height of a bar, room for names, width of a panel, space between panels, header."""


def write(path: Path, cases: Sequence[Case], peers: Sequence[str], machine: dict[str, Any]) -> None:
    """The chart of the cases at the highest thread count among them."""
    threads = max(case.threads for case in cases)
    shown = [case for case in cases if case.threads == threads and not case.failure]
    others = list(peers[1:])
    height = BAR * len(others) + ROW
    total = TOP + height * (len(shown) + 1) + 30
    width = LEFT + 2 * PANEL + GAP + 40
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        f'<text x="12" y="20" font-size="14" font-weight="bold">Speed-up over {escape(peers[0])} and error, '
        f"{threads} thread{'s' * (threads > 1)}</text>",
        f'<text x="12" y="36" fill="#495057">{escape(", ".join(f"{k} {v}" for k, v in machine.items()))}</text>',
    ]
    for index, name in enumerate(others):
        x = 12 + 150 * index
        text.append(f'<rect x="{x}" y="46" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>')
        text.append(f'<text x="{x + 14}" y="55">{escape(name)}</text>')

    speed = {case.label: [bars.ratio(case, peers[0], name) for name in others] for case in shown}
    means = [bars.geometric_mean([speed[case.label][i] for case in shown]) for i in range(len(others))]
    rows = [("geometric mean", means, None), *((c.label, speed[c.label], c) for c in shown)]
    most = max(max(values) for _, values, _ in rows)
    errors = [case.errors[name] for case in shown for name in others if case.errors.get(name)]
    low, high = (math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))) if errors else (-8, 0)

    def speed_width(value: float) -> float:
        return PANEL * value / most

    def error_width(value: float) -> float:
        return max(1.0, PANEL * (math.log10(max(value, 10.0**low)) - low) / max(high - low, 1))

    second = LEFT + PANEL + GAP
    bottom = TOP + height * len(rows)
    text += _axis(LEFT, bottom, [(value, f"{value}x") for value in _ticks(most)], speed_width)
    text += _axis(second, bottom, [(10.0**e, f"1e{e}") for e in range(low, high + 1)], error_width)
    for row, (label, values, case) in enumerate(rows):
        y = TOP + row * height
        weight = ' font-weight="bold"' * (case is None)
        text.append(f'<text x="{LEFT - 8}" y="{y + height / 2 + 2}" text-anchor="end"{weight}>{escape(label)}</text>')
        for index, (name, value) in enumerate(zip(others, values, strict=True)):
            at, colour = y + index * BAR, COLOURS[index % len(COLOURS)]
            text += _bar(LEFT, at, speed_width(value), colour, f"{label} {name}: {value:.2f}x")
            if case is not None and (error := case.errors.get(name)):
                text += _bar(second, at, error_width(error), colour, f"{label} {name}: {error:.1e}")
    text.append("</svg>")
    path.write_text("\n".join(text) + "\n")


def _bar(x: float, y: float, width: float, colour: str, title: str) -> list[str]:
    return [
        f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{colour}"><title>{escape(title)}</title></rect>'
    ]


def _axis(x: float, bottom: float, ticks: list[tuple[float, str]], scale: Callable[[float], float]) -> list[str]:
    lines = []
    for value, label in ticks:
        at = x + scale(value)
        lines.append(f'<line x1="{at:.1f}" y1="{TOP - 4}" x2="{at:.1f}" y2="{bottom}" stroke="#dee2e6"/>')
        lines.append(f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle" fill="#495057">{label}</text>')
    return lines


def _ticks(most: float) -> list[int]:
    step = max(1, round(most / 6))
    return list(range(1, int(most) + 1, step))
