"""Runs ocr.py plainly and with Engraft, interleaved, and compares. The other half of `cargo xtask demo`."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "benches"))

import page
import tables
from placement import Placement

LEAST_SHARE = 0.95
LEAST_LIKENESS = 0.9
"""How like the rendered lines the texts must be for the comparison to mean something (difflib's ratio)."""


class Program:
    """ocr.py in a process of its own, stopped while it is not its turn."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.texts: list[str] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )

    def read(self, image: Path, *, timed: bool) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(f"{image}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"error: the program {self.name} ended with status {self._process.wait()}")
        self._process.send_signal(signal.SIGSTOP)
        result: dict[str, Any] = json.loads(answer)
        self.texts = result["texts"]
        if timed:
            self.seconds.append(result["seconds"])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def placement_table(reports: Path) -> tuple[list[str], float]:
    """The table of all sessions, and the least share of FLOPs among them."""
    rows, shares = [], []
    for path in sorted(reports.glob("*.json")):
        if placement := Placement.read(path):
            shares.append(placement.share)
            reasons = "; ".join(f"{count} x {reason}" for reason, count in list(placement.refused.items())[:3])
            rows.append([path.stem.split("-", 1)[1], f"{placement.share:.2%}", str(placement.segments), reasons])
    header = ["model", "FLOPs on Engraft", "segments", "left to ONNX Runtime"]
    return tables.aligned([header, *rows]), min(shares, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="cargo xtask demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed readings of each side (7)")
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/demo"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    image, reports = scratch / "page.png", scratch / "reports"
    page.render(image)

    program = [str(HERE / "ocr.py")]
    with_engraft = ["-m", "engraft", "--option", f"placement_report_path={reports}/", *program]
    plain = Program("without Engraft", [sys.executable, *program], {})
    engraft = Program("with Engraft", [sys.executable, *with_engraft], {"ENGRAFT_CACHE_DIR": str(scratch / "cache")})
    sides = (plain, engraft)
    try:
        print(f"reading {image} ...", flush=True)
        for side in sides:
            for _ in range(2):
                side.read(image, timed=False)
        for turn in range(arguments.rounds):
            for side in sides[:: -1 if turn % 2 else 1]:
                side.read(image, timed=True)
    finally:
        for side in sides:
            side.end()

    print("\nrecognised:")
    print("\n".join(f"  {text}" for text in engraft.texts))
    likeness = difflib.SequenceMatcher(None, "".join(page.LINES), "".join(plain.texts), autojunk=False).ratio()
    equal = plain.texts == engraft.texts
    print(f"\n{len(plain.texts)} texts, {likeness:.1%} like the rendered lines")
    print(f"texts with and without Engraft: {'equal' if equal else 'DIFFERENT'}")
    for without, with_ in zip(plain.texts, engraft.texts) if not equal else ():
        if without != with_:
            print(f"  without: {without}\n  with:    {with_}")

    rows = [["side", "median ms", "least ms", "greatest ms"]]
    for side in sides:
        figures = (statistics.median(side.seconds), min(side.seconds), max(side.seconds))
        rows.append([side.name, *(f"{figure * 1e3:.1f}" for figure in figures)])
    ratio = statistics.median(plain.seconds) / statistics.median(engraft.seconds)
    print(f"\nlatency of a page, {arguments.rounds} readings of each side in turns:\n")
    print("\n".join(tables.aligned(rows)))
    print(f"\n{ratio:.2f}x as fast with Engraft (the whole program, its image processing included)\n")
    lines, share = placement_table(reports)
    print("\n".join(lines))

    faults = []
    if not equal:
        faults.append("the texts differ")
    if likeness < LEAST_LIKENESS:
        faults.append(f"the texts are only {likeness:.1%} like the page")
    if share < LEAST_SHARE:
        faults.append(f"Engraft ran {share:.2%} of a model's FLOPs, at least {LEAST_SHARE:.0%} are asked")
    print("\n" + (f"FAILED: {'; '.join(faults)}" if faults else "passed"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
