#!/usr/bin/env python3
"""Models that nothing was tuned on: whether they are right, how much of them is taken, and whether any is slower.

The networks of benches/recipes/networks.py (floating point, int8, with control flow), or, with --operators, one
operator at a time; all with random weights, made here; with --fresh those that take any size at sizes that nothing was tuned
on, drawn by that seed. Each runs in ONNX Runtime alone and with Engraft under the
default policy, in processes of their own that take turns. The bars: the same results; 95% of the FLOPs of
floating-point networks taken; never slower than 0.9 of ONNX Runtime alone.

Run it as `cargo xtask unseen [options]`, which builds and installs the wheel of this tree first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE / "zoo", HERE / "recipes", HERE.parent / "tests/onnxruntime")]

import compare
import networks
import onnx
import operators
import tables
from peers import parse_peer
from placement import Placement
from worker import Setting, Worker, WorkerError, distinct_cpus

SHARE = 0.95
SLOWEST = 0.9
TOLERANCES = {"int8": 0.02}
"""Sums of another order round to the neighbouring step of a quantization."""


@dataclass
class Result:
    """What one model showed on a number of threads."""

    model: str
    kind: str
    threads: int
    milliseconds: float = 0.0
    ratio: float = 0.0
    share: float = 0.0
    segments: int = 0
    difference: float = 0.0
    faults: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        figures = f"{self.milliseconds:.3f}", f"{self.ratio:.2f}", f"{self.share:.1%}", f"{self.segments}"
        return [self.model, self.kind, f"{self.threads}", *figures, f"{self.difference:.0e}", "; ".join(self.faults) or "ok"]


HEAD = ["model", "kind", "threads", "ONNX Runtime ms", "times as fast", "FLOPs", "segments", "difference", "verdict"]


def examine(name: str, kind: str, made: networks.Made, threads: int, arguments: argparse.Namespace) -> Result:
    result = Result(name, kind, threads)
    model, inputs = made
    path = arguments.scratch / "model.onnx"
    onnx.save(model, path)
    report = arguments.scratch / "placement.json"
    report.unlink(missing_ok=True)
    cpus, cache = distinct_cpus(threads), arguments.scratch / "cache"
    try:
        # With several threads ONNX Runtime scatters and adds without order: now and then it loses a term.
        with Worker(Setting(parse_peer("ort"), path, inputs, cpus[:1], cache)) as single:
            expected = single.outputs()
        with (
            Worker(Setting(parse_peer("ort"), path, inputs, cpus, cache)) as host,
            Worker(Setting(parse_peer(arguments.peer), path, inputs, cpus, cache, report)) as ours,
        ):
            given = ours.outputs()
            ratios, times = [], []
            for worker in (host, ours):
                worker.run(arguments.seconds)
            for turn in range(arguments.rounds):
                order = [host, ours][:: -1 if turn % 2 else 1]
                taken = {worker: statistics.median(worker.run(arguments.seconds)) for worker in order}
                times.append(taken[host])
                ratios.append(taken[host] / taken[ours])
    except WorkerError as error:
        result.faults.append(str(error))
        return result
    result.milliseconds, result.ratio = statistics.median(times) * 1e3, statistics.median(ratios)
    if kind == "operator" and name in operators.EXACT:
        expected = operators.EXACT[name](inputs)
    names = [str(index) for index in range(len(expected))]
    result.difference = compare.difference(names, expected, given).relative
    if result.difference > TOLERANCES.get(kind, compare.TOLERANCE):
        result.faults.append("outputs differ")
    if placement := Placement.read(report):
        result.share, result.segments = placement.share, placement.segments
        if kind == "float" and placement.share < SHARE:
            result.faults.append(f"taken is {placement.share:.1%}: {placement.refused}")
    if result.ratio < SLOWEST:
        result.faults.append("slower")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", action="store_true", help="one operator at a time instead of networks")
    parser.add_argument("--fresh", type=int, metavar="SEED", help="other, odd sizes, drawn by this seed")
    parser.add_argument("--models", help="comma separated names, or parts of them")
    parser.add_argument("--peer", default="engraft", help="engraft, or engraft:key=value:... with options")
    parser.add_argument("--threads", default="1,2", help="comma separated (1,2)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each round and contender (0.05)")
    parser.add_argument("--zoo", help="not used: the models are made here")
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/unseen"), help="folder for models and caches")
    arguments = parser.parse_args()
    arguments.scratch = arguments.scratch.resolve()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    if arguments.operators:
        makers = [(name, "operator", make) for name, make in operators.OPERATORS.items()]
    else:
        makers = [(make.__name__, kind, make) for kind, list_ in networks.NETWORKS.items() for make in list_]
    if arguments.models:
        wanted = arguments.models.split(",")
        makers = [maker for maker in makers if any(part in maker[0] for part in wanted)]
    results = []
    for name, kind, make in makers:
        made = make()
        if arguments.fresh is not None and not (made := networks.resized(name, made, arguments.fresh)):
            continue
        for threads in map(int, arguments.threads.split(",")):
            results.append(examine(name, kind, made, threads, arguments))
            print(", ".join(results[-1].cells()), flush=True)
    print("\n" + "\n".join(tables.aligned([HEAD, *(result.cells() for result in results)])))
    failed = [result for result in results if result.faults]
    print(f"\n{len(results) - len(failed)} of {len(results)} hold")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
