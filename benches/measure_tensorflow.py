"""Times converted SavedModels against the originals: same process, same threads, signature by signature, in turns.

    python benches/measure_tensorflow.py --models resnet50,mobilenet_v2 --batches 1,8 --threads 2

Needs TensorFlow and the wheel. Prints, for each model and batch, the medians and their ratio, the largest error relative to the largest value, the share of
the FLOPs on Engraft, and how long the first call after loading takes.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def medians(functions: list[Callable[[], Any]], rounds: int, seconds: float) -> list[float]:
    """Median seconds of each, in rounds that take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        for _ in range(3):
            function()
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                function()
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def first_call(directory: str, inputs: dict[str, Any]) -> tuple[Any, float]:
    import tensorflow as tf

    signature = tf.saved_model.load(directory).signatures["serving_default"]
    start = time.perf_counter()
    signature(**inputs)
    return signature, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="names, separated by commas; all without it")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round and contestant")
    parser.add_argument("--precision", help="precision_mode of the converter")
    parser.add_argument("--scratch", help="keeps exported and converted models in this folder for the next time")
    arguments = parser.parse_args()

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    import engraft.tensorflow

    import tensorflow_models as models

    scratch = Path(arguments.scratch or tempfile.mkdtemp(prefix="engraft-bench-"))
    names = arguments.models.split(",") if arguments.models else list(models.MODELS)
    ratios: dict[int, list[float]] = {}
    print(f"{'model':16} {'batch':>5} {'TensorFlow':>11} {'Engraft':>9} {'ratio':>6} {'error':>8} {'FLOPs':>6} {'segments':>8} {'first':>6}")
    for name in names:
        model, sample = models.build(name)
        before, after = scratch / name, scratch / f"{name}-{arguments.precision or 'default'}"
        model.export(str(before), verbose=False)
        converter = engraft.tensorflow.Converter(str(before), precision_mode=arguments.precision, progress=False)
        converter.convert()
        converter.save(after)
        report = converter.report.signatures["serving_default"]
        for batch in (int(text) for text in arguments.batches.split(",")):
            inputs = {key: tf.constant(value) for key, value in sample(batch).items()}
            engraft_call, engraft_first = first_call(str(after), inputs)
            host_call, host_first = first_call(str(before), inputs)
            expected, given = host_call(**inputs), engraft_call(**inputs)
            error = max(
                float(np.abs(expected[key] - given[key]).max() / max(np.abs(expected[key]).max(), 1e-30)) for key in expected
            )
            host, ours = medians(
                [lambda: host_call(**inputs), lambda: engraft_call(**inputs)], arguments.rounds, arguments.seconds
            )
            ratios.setdefault(batch, []).append(host / ours)
            print(
                f"{name:16} {batch:5} {host * 1e3:8.2f} ms {ours * 1e3:6.2f} ms {host / ours:6.2f} {error:8.1e}"
                f" {report['accelerated_flops']:6.1%} {len(report['segments']):8} {engraft_first / host_first:6.2f}",
                flush=True,
            )
    for batch, all_ratios in ratios.items():
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in all_ratios))
        print(f"batch {batch}: geometric mean {mean:.2f}, least {min(all_ratios):.2f}")


if __name__ == "__main__":
    main()
