#!/usr/bin/env python3
"""Times Engraft against ONNX Runtime's own CPU provider and other peers on the model zoo, and measures their errors.

Contenders run interleaved, A B C A B C..., each in a process of its own that is pinned to the same processors and
stopped while others run. A contender's figure is the median over the rounds of the median of a round's runs. Session
creation (without and with a filled plan cache) and peak memory come from fresh processes. Outputs are compared with
the first contender's, and with what the operators' definitions give in double precision.

    measure.py --models resnet50,bert_base --threads 1,2 --peers ort,engraft,openvino-f32

Run it as `cargo xtask bench [options]`, which builds and installs the wheel of this tree first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "zoo")]

import chart
import compare
import exact
import tables
import zoo
from peers import Peer, parse_peer, standard_peers
from placement import Placement
from worker import Setting, Worker, WorkerError, distinct_cpus


@dataclass
class Timing:
    """One contender in one case. Seconds."""

    median: float
    spread: float
    """Half the distance of the quartiles of the rounds' medians, relative to the median."""
    runs: int


@dataclass
class Creation:
    """Creating a session in a fresh process and running it once. Seconds and bytes."""

    cold: float
    warm: float
    peak_cold: int
    peak_warm: int
    baseline: int


@dataclass
class Case:
    """Everything measured for one case of one model at one thread count."""

    model: str
    case: str
    threads: int
    timings: dict[str, Timing] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    """Largest |a - b| / max|reference| to the first contender's outputs, by contender."""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative Frobenius error to exact outputs, by contender; empty where there are none."""
    creation: dict[str, Creation] = field(default_factory=dict)
    placement: dict[str, Any] | None = None
    failure: str | None = None

    @property
    def label(self) -> str:
        return f"{self.model}/{self.case}"


@dataclass(frozen=True)
class Plan:
    """What is measured and how long."""

    peers: list[Peer]
    rounds: int
    seconds: float
    creation: bool
    errors: bool
    zoo: Path
    scratch: Path


def measure(case: Case, plan: Plan) -> None:
    """Fills `case`."""
    model = zoo.materialize(case.model, plan.zoo)
    inputs = zoo.inputs(case.model, case.case)
    cpus = distinct_cpus(case.threads)
    cache = _empty(plan.scratch / "cache")
    report = plan.scratch / "placement.json"

    def setting(peer: Peer) -> Setting:
        return Setting(peer, model, inputs, cpus, cache, report if peer.engraft else None)

    if plan.creation:
        for peer in plan.peers:
            case.creation[peer.name] = _creation(setting(peer))
    report.unlink(missing_ok=True)
    workers: dict[str, Worker] = {}
    try:
        for peer in plan.peers:
            workers[peer.name] = Worker(setting(peer))
        _compare(case, plan, workers, model)
        _time(case, plan, workers)
    finally:
        for worker in workers.values():
            worker.close()
    if placement := Placement.read(report):
        case.placement = asdict(placement)


def _creation(setting: Setting) -> Creation:
    """Once with an empty plan cache, then, with what that left there, the median of three."""
    _empty(setting.cache)
    created, peaks = [], []
    for _ in range(4):
        with Worker(setting) as worker:
            worker.outputs()
            created.append(worker.created)
            peaks.append(worker.peak_memory())
    return Creation(
        cold=created[0].seconds,
        warm=statistics.median(c.seconds for c in created[1:]),
        peak_cold=peaks[0],
        peak_warm=max(peaks[1:]),
        baseline=created[0].resident_before,
    )


def _compare(case: Case, plan: Plan, workers: dict[str, Worker], model: Path) -> None:
    outputs = {name: worker.outputs() for name, worker in workers.items()}
    (first, reference), *others = outputs.items()
    names = _output_names(model)
    case.differences = {name: compare.difference(names, reference, each).relative for name, each in others}
    truth = exact.outputs(case.model, case.case, plan.zoo) if plan.errors else None
    if truth is not None:
        case.errors = {
            peer: exact.error(truth, dict(zip(names, each, strict=True))) for peer, each in outputs.items()
        }


def _output_names(model: Path) -> list[str]:
    import onnx

    return [output.name for output in onnx.load(model, load_external_data=False).graph.output]


def _time(case: Case, plan: Plan, workers: dict[str, Worker]) -> None:
    medians: dict[str, list[float]] = {name: [] for name in workers}
    runs = dict.fromkeys(workers, 0)
    for worker in workers.values():
        worker.run(min(plan.seconds, 0.2))
    for turn in range(plan.rounds):
        # Every second round goes backwards, so that nobody always follows the same contender.
        for name in list(workers)[:: -1 if turn % 2 else 1]:
            times = workers[name].run(plan.seconds)
            medians[name].append(statistics.median(times))
            runs[name] += len(times)
    for name, values in medians.items():
        median = statistics.median(values)
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [median] * 3
        case.timings[name] = Timing(median, (quartiles[2] - quartiles[0]) / 2 / median, runs[name])


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _cases(models: list[str], cases: list[str] | None, threads: list[int]) -> Iterator[Case]:
    for name, entry in zoo.load().items():
        for case in entry["cases"]:
            if name in models and (not cases or case in cases or f"{name}/{case}" in cases):
                yield from (Case(name, case, count) for count in threads)


def machine() -> dict[str, Any]:
    """The facts about this machine that a reader of the figures needs."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {name: _version(name) for name in ("onnxruntime", "openvino", "onnxruntime-ep-openvino")}
    return {
        "cpu": f"{model} ({', '.join(_features()) or 'no AVX2'})",
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _features() -> list[str]:
    """The instruction sets that matter for speed, as the kernel names them."""
    flags = next((l for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("flags")), "").split()
    return [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16") if name in flags]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(zoo.load())
    parser.add_argument("--models", default=",".join(known), help="comma separated; the whole zoo without it")
    parser.add_argument("--cases", help="comma separated cases, as in `b1` or `resnet50/b1`; all without it")
    parser.add_argument("--threads", default="1,2", help="comma separated thread counts (1,2)")
    parser.add_argument(
        "--peers",
        default="ort,ort-daz,engraft",
        help="comma separated, each with options as in engraft:key=value:...; the first is the base of the ratios. "
        f"There are {', '.join(standard_peers())}",
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender in a case (7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn (0.5)")
    parser.add_argument("--no-creation", action="store_true", help="leave out session creation and memory")
    parser.add_argument("--no-errors", action="store_true", help="leave out the comparison with exact outputs")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", type=Path, help="replace the tables in this document (docs/benchmarks.md)")
    parser.add_argument("--chart", type=Path, help="draw speed-ups and errors to this SVG file")
    parser.add_argument("--zoo", type=Path, default=Path("target/zoo"), help="folder of the models (target/zoo)")
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/measure"), help="folder for caches")
    arguments = parser.parse_args()
    arguments.models = arguments.models.split(",")
    if unknown := [name for name in arguments.models if name not in known]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        arguments.peers = [parse_peer(text) for text in arguments.peers.split(",")]
        arguments.threads = [int(text) for text in arguments.threads.split(",")]
        distinct_cpus(max(arguments.threads))
    except ValueError as error:
        parser.error(str(error))
    arguments.cases = arguments.cases.split(",") if arguments.cases else None
    return arguments


def main() -> int:
    arguments = _arguments()
    plan = Plan(
        peers=arguments.peers,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        creation=not arguments.no_creation,
        errors=not arguments.no_errors,
        zoo=arguments.zoo.resolve(),
        scratch=arguments.scratch.resolve(),
    )
    cases = list(_cases(arguments.models, arguments.cases, arguments.threads))
    if not cases:
        print("no case is left by --models and --cases", file=sys.stderr)
        return 2
    names = [peer.name for peer in plan.peers]
    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    for number, case in enumerate(cases, 1):
        try:
            measure(case, plan)
        except WorkerError as error:
            case.failure = str(error)
        print(f"[{number}/{len(cases)}] {tables.line(case, names)}", flush=True)
    print()
    for title, lines in tables.all_tables(cases, names):
        print(f"{title}\n\n" + "\n".join(lines) + "\n")
    if arguments.json:
        record = {"machine": about, "peers": names, "cases": [asdict(case) for case in cases]}
        arguments.json.write_text(json.dumps(record, indent=1))
    if arguments.chart and not all(case.failure for case in cases):
        chart.write(arguments.chart, cases, names, about)
    if arguments.markdown:
        tables.replace_section(arguments.markdown, about, tables.all_tables(cases, names))
    return 1 if any(case.failure for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
