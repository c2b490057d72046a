#!/usr/bin/env python3
"""Runs the zoo through stock ONNX Runtime with Engraft first in line, and compares with its CPU provider.

For every case of every model: outputs must agree within the model's tolerance (integers exactly), Engraft must take
the share of the FLOPs and stay within the number of segments that the zoo asks for. Both sides run in processes of
their own: a crash is a finding, not an end.

Run it as `cargo xtask check-models [options]`, which builds and installs the wheel of this tree first.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "zoo")]

import bars
import compare
import tables
import zoo
from peers import Peer, parse_peer
from placement import Placement
from worker import Setting, Worker, WorkerError, distinct_cpus

@dataclass
class Result:
    """What one case showed; `faults` is empty where everything is as asked."""

    label: str
    difference: str = ""
    share: str = ""
    segments: str = ""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def check(model: str, case: str, peer: Peer, arguments: argparse.Namespace) -> Result:
    """Compares one case of `peer` with ONNX Runtime's CPU provider."""
    result = Result(f"{model}/{case}")
    path = zoo.materialize(model, arguments.zoo)
    inputs = zoo.inputs(model, case)
    report = arguments.scratch / "placement.json"
    report.unlink(missing_ok=True)
    cpus = distinct_cpus(arguments.threads)
    cache = arguments.scratch / "cache"
    outputs = []
    start = time.perf_counter()
    try:
        for each, file in ((parse_peer("ort"), None), (peer, report)):
            with Worker(Setting(each, path, inputs, cpus, cache, file)) as worker:
                # Twice: a second run finds what a first one left behind.
                worker.outputs()
                outputs.append(worker.outputs())
    except WorkerError as error:
        result.faults.append(str(error))
        return result
    finally:
        result.seconds = time.perf_counter() - start
    difference = compare.difference([str(index) for index in range(len(outputs[0]))], *outputs)
    result.difference = f"{difference.relative:.1e}"
    if not difference.within(model):
        result.faults.append(f"outputs differ by {difference.relative:.2e} (output {difference.where})")
    _check_placement(model, Placement.read(report), arguments.bars, result)
    return result


def _check_placement(model: str, placement: Placement | None, enforced: bool, result: Result) -> None:
    if placement is None:
        result.faults.append("no placement report was written")
        return
    result.share, result.segments = f"{placement.share:.2%}", str(placement.segments)
    if enforced:
        result.faults += bars.placement_faults(model, placement)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = zoo.load()
    parser.add_argument("--models", default=",".join(models), help="comma separated; the whole zoo without it")
    parser.add_argument("--peer", default="engraft", help="engraft, or engraft:key=value:... with options")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-bars", dest="bars", action="store_false", help="compare outputs, only show placement")
    parser.add_argument("--zoo", type=Path, default=Path("target/zoo"), help="folder of the models (target/zoo)")
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/check_models"), help="folder for caches")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := [name for name in names if name not in models]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(models)}")
    try:
        peer = parse_peer(arguments.peer)
    except ValueError as error:
        parser.error(str(error))
    arguments.zoo, arguments.scratch = arguments.zoo.resolve(), arguments.scratch.resolve()
    arguments.scratch.mkdir(parents=True, exist_ok=True)

    results = []
    for name in names:
        for case in models[name]["cases"]:
            result = check(name, case, peer, arguments)
            verdict = "; ".join(result.faults) or "ok"
            print(f"{result.label} ({result.seconds:.1f} s): {verdict}", flush=True)
            results.append(result)
    print()
    rows = [[r.label, r.difference, r.share, r.segments, "FAILED" if r.faults else "ok"] for r in results]
    print("\n".join(tables.aligned([["case", "difference", "FLOPs", "segments", "verdict"], *rows])))
    failed = [result.label for result in results if result.faults]
    print(f"\n{len(results) - len(failed)} of {len(results)} cases passed" + (f"; failed: {', '.join(failed)}" * bool(failed)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
