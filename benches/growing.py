#!/usr/bin/env python3
"""What new shapes cost: gpt2_decode, whose cache grows by one token with every run, against steps of a fixed length.

Every run of the growing sequence has a shape that the session never saw; a fixed-length step at the same length is run
several times. The figure is the mean growing step over the mean fixed step, each over all runs at the lengths that were
sampled, and the bar is 1.05. A growing step can be timed once only, so that a mean of medians on the other side would
charge every disturbance of the machine to growing. Run it as `cargo xtask growing`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "zoo")]

import numpy as np
import tables
import zoo
from peers import Peer, parse_peer
from worker import distinct_cpus

MODEL, CASE = "gpt2_decode", "p64"
FIRST, LAST = 64, 576
BAR = 1.05


def step_inputs(length: int) -> dict[str, np.ndarray]:
    """The inputs of a step whose cache holds `length` tokens."""
    inputs = zoo.inputs(MODEL, CASE)
    random = np.random.default_rng(length)
    for name, values in inputs.items():
        if name.startswith("past."):
            shape = (*values.shape[:2], length, values.shape[3])
            inputs[name] = (random.standard_normal(shape) * 0.1).astype(values.dtype)
        elif name == "position_ids":
            inputs[name] = np.full_like(values, length)
    return inputs


def seconds(session: Any, inputs: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


def measure(peer: Peer, model: Path, threads: int, stride: int) -> tuple[float, float, int]:
    """Mean growing step and mean fixed step in seconds, over every `stride`-th length, and how many those are."""
    session = peer.session(model, threads)
    seconds(session, step_inputs(FIRST - 1))
    growing, fixed = [], []
    for length in range(FIRST, LAST + 1):
        inputs = step_inputs(length)
        first = seconds(session, inputs)
        if (length - FIRST) % stride == 0:
            growing.append(first)
            # Each after the same pause for making inputs, in which threads fall asleep and caches go cold.
            fixed.extend(seconds(session, step_inputs(length)) for _ in range(5))
    return statistics.fmean(growing), statistics.fmean(fixed), len(growing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="ort,engraft", help="comma separated, as for measure.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stride", type=int, default=4, help="every how many tokens a fixed step is timed (4)")
    parser.add_argument("--zoo", type=Path, default=Path("target/zoo"))
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/growing"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, distinct_cpus(arguments.threads))
    os.environ["ENGRAFT_CACHE_DIR"] = str(arguments.scratch.resolve() / "cache")
    model = zoo.materialize(MODEL, arguments.zoo.resolve())
    rows = [["peer", "growing ms", "fixed ms", "ratio", "lengths"]]
    failed = False
    for peer in map(parse_peer, arguments.peers.split(",")):
        growing, fixed, count = measure(peer, model, arguments.threads, arguments.stride)
        rows.append([peer.name, f"{growing * 1e3:.3f}", f"{fixed * 1e3:.3f}", f"{growing / fixed:.3f}", str(count)])
        failed |= peer.engraft and growing / fixed > BAR
    print("\n".join(tables.aligned(rows)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
