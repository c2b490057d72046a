"""Tables of measurements, as aligned Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bars

if TYPE_CHECKING:
    from measure import Case

BEGIN = "<!-- begin of the tables that `cargo xtask bench --markdown` writes -->"
END = "<!-- end of the tables -->"


def line(case: Case, peers: Sequence[str]) -> str:
    """One case in one line, for progress."""
    head = f"{case.label} {case.threads} thread{'s' * (case.threads > 1)}"
    if case.failure:
        return f"{head}: FAILED\n{case.failure}"
    figures = ", ".join(f"{name} {case.timings[name].median * 1e3:.3f} ms" for name in peers)
    ratios = ", ".join(f"{bars.ratio(case, peers[0], name):.3f}x" for name in peers[1:])
    return f"{head}: {figures}" + (f" ({ratios})" if ratios else "")


def all_tables(cases: Sequence[Case], peers: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Titles and lines of every table that the cases have figures for."""
    done = [case for case in cases if not case.failure]
    result = []
    for threads in sorted({case.threads for case in done}):
        of_threads = [case for case in done if case.threads == threads]
        title = f"### Latency at {threads} thread{'s' * (threads > 1)}"
        result.append((title, _latency(of_threads, peers)))
        if any(case.errors for case in of_threads):
            title = f"### Relative error at {threads} thread{'s' * (threads > 1)}"
            result.append((title, _errors([case for case in of_threads if case.errors], peers)))
        if any(case.creation for case in of_threads):
            title = f"### Session creation and peak memory at {threads} thread{'s' * (threads > 1)}"
            result.append((title, _creation([case for case in of_threads if case.creation], peers)))
    if demands := bars.speed_and_costs(cases):
        rows = [[bar.demand, bar.figure, "met" if bar.met else "MISSED"] for bar in demands]
        result.append(("### Bars", aligned([["demand", "figure", ""], *rows])))
    return result


def _latency(cases: Sequence[Case], peers: Sequence[str]) -> list[str]:
    base, *others = peers
    header = ["case", *(f"{name} ms" for name in peers)]
    header += [f"{base} / {name}" for name in others] + ["difference", "FLOPs", "segments"]
    rows = []
    for case in cases:
        row = [case.label]
        row += [f"{case.timings[name].median * 1e3:.3f} ±{case.timings[name].spread:.0%}" for name in peers]
        row += [f"{bars.ratio(case, base, name):.2f}" for name in others]
        row.append(f"{max(case.differences.values(), default=0.0):.1e}")
        placement = case.placement
        row += [f"{placement['share']:.1%}", str(placement["segments"])] if placement else ["", ""]
        rows.append(row)
    for title, statistic in (("geometric mean", bars.geometric_mean), ("median", statistics.median), ("least", min)):
        ratios = [f"{statistic([bars.ratio(case, base, name) for case in cases]):.2f}" for name in others]
        rows.append([title, *[""] * len(peers), *ratios, "", "", ""])
    return aligned([header, *rows])


def _errors(cases: Sequence[Case], peers: Sequence[str]) -> list[str]:
    """Frobenius error to evaluation in double precision."""
    rows = [[case.label, *(f"{case.errors[name]:.1e}" for name in peers)] for case in cases]
    return aligned([["case", *peers], *rows])


def _creation(cases: Sequence[Case], peers: Sequence[str]) -> list[str]:
    header = ["case", *(f"{name} {figure}" for name in peers for figure in ("cold ms", "warm ms", "cold MB", "warm MB"))]
    rows = []
    for case in cases:
        row = [case.label]
        for name in peers:
            c = case.creation[name]
            row += [f"{c.cold * 1e3:.0f}", f"{c.warm * 1e3:.0f}", f"{c.peak_cold / 1e6:.0f}", f"{c.peak_warm / 1e6:.0f}"]
        rows.append(row)
    return aligned([header, *rows])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table: the first row is its header, the first column text, the others figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def text(row: Sequence[str]) -> str:
        cells = [cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return [text(rows[0]), text(rule), *map(text, rows[1:])]


def replace_section(document: Path, machine: dict[str, Any], tables: list[tuple[str, list[str]]]) -> None:
    """Puts the tables between the two marks of a Markdown document."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the marks between which the tables belong")
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    body = "\n\n".join([f"Measured on {facts}.", *(f"{title}\n\n" + "\n".join(lines) for title, lines in tables)])
    document.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}")
