"""Times Keras models with Engraft against the same without: same process, same threads, in turns.

    python benches/measure_tensorflow.py --models resnet50,mobilenet_v2 --batches 1,8 --threads 2

`--how signature` takes converted SavedModels, `function` a `tf.function` under `engraft.tensorflow.enable`, `predict` Keras's `predict` under it. Needs
TensorFlow and the wheel. Prints, for each model and batch, the medians and their ratio, the largest error relative to the largest value, and of signatures
the share of the FLOPs on Engraft, the number of segments, and how long the first call after loading takes, against that of the original.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


@dataclass
class Contest:
    """Two functions of the same inputs, as dictionaries of arrays."""

    host: Callable[[dict[str, Any]], dict[str, Any]]
    ours: Callable[[dict[str, Any]], dict[str, Any]]
    notes: str = ""


def first_call(directory: str, inputs: dict[str, Any]) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], float]:
    """A signature as a function of the inputs, which it may know by other names, and the seconds of its first call."""
    import tensorflow as tf

    signature = tf.saved_model.load(directory).signatures["serving_default"]
    names = list(signature.structured_input_signature[1])
    start = time.perf_counter()
    signature(**dict(zip(names, inputs.values(), strict=True)))
    seconds = time.perf_counter() - start
    return lambda x: signature(**dict(zip(names, x.values(), strict=True))), seconds


def signatures(model: Any, name: str, inputs: dict[str, Any], arguments: argparse.Namespace, scratch: Path) -> Contest:
    import engraft.tensorflow

    before, after = scratch / name, scratch / f"{name}-{arguments.precision or 'default'}"
    report_path = scratch / f"{after.name}.json"
    if not report_path.exists():
        model.export(str(before), verbose=False)
        converter = engraft.tensorflow.Converter(str(before), precision_mode=arguments.precision, progress=False)
        converter.convert()
        converter.save(after)
        report_path.write_text(json.dumps(converter.report.signatures["serving_default"]))
    report = json.loads(report_path.read_text())
    ours, ours_first = first_call(str(after), inputs)
    host, host_first = first_call(str(before), inputs)
    notes = f"{report['accelerated_flops']:6.1%} {len(report['segments']):8} {ours_first / host_first:6.2f}"
    return Contest(host, ours, notes)


def functions(model: Any, inputs: dict[str, Any], options: dict[str, str]) -> Contest:
    import engraft.tensorflow
    import tensorflow as tf

    def traced() -> Callable[[dict[str, Any]], dict[str, Any]]:
        function = tf.function(lambda *values: as_dictionary(model(list(values) if len(values) > 1 else values[0], training=False)))
        run = lambda x: function(*x.values())  # noqa: E731
        run(inputs)
        return run

    host = traced()
    engraft.tensorflow.enable(**options)
    ours = traced()
    engraft.tensorflow.disable()
    return Contest(host, ours)


def predictions(model: Any, inputs: dict[str, Any], options: dict[str, str]) -> Contest:
    import engraft.tensorflow

    values = [np.asarray(value) for value in inputs.values()]

    def predicting() -> Callable[[dict[str, Any]], dict[str, Any]]:
        model.make_predict_function(force=True)
        function = model.predict_function

        def run(_: dict[str, Any]) -> dict[str, Any]:
            model.predict_function = function
            return as_dictionary(model.predict(values if len(values) > 1 else values[0], batch_size=len(values[0]), verbose=0))

        run(inputs)
        return run

    host = predicting()
    engraft.tensorflow.enable(**options)
    ours = predicting()
    engraft.tensorflow.disable()
    return Contest(host, ours)


def as_dictionary(outputs: Any) -> dict[str, Any]:
    return outputs if isinstance(outputs, dict) else {"output": outputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="names, separated by commas; all without it")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round and contestant")
    parser.add_argument("--precision", help="precision_mode of the converter")
    parser.add_argument("--scratch", help="keeps exported and converted models in this folder for the next time")
    parser.add_argument("--how", choices=["signature", "function", "predict"], default="signature")
    arguments = parser.parse_args()

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    import engraft.tensorflow  # noqa: F401
    import tensorflow_models as models

    scratch = Path(arguments.scratch or tempfile.mkdtemp(prefix="engraft-bench-"))
    scratch.mkdir(parents=True, exist_ok=True)
    names = arguments.models.split(",") if arguments.models else list(models.MODELS)
    options = {"precision": arguments.precision.lower()} if arguments.precision else {}
    ratios: dict[int, list[float]] = {}
    heading = f"{'FLOPs':>6} {'segments':>8} {'first':>6}" if arguments.how == "signature" else ""
    print(f"{'model':18} {'batch':>5} {'TensorFlow':>11} {'Engraft':>9} {'ratio':>6} {'error':>8} {heading}")
    for name in names:
        model, sample = models.build(name)
        for batch in (int(text) for text in arguments.batches.split(",")):
            inputs = {key: tf.constant(value) for key, value in sample(batch).items()}
            if arguments.how == "signature":
                contest = signatures(model, name, inputs, arguments, scratch)
            else:
                contest = {"function": functions, "predict": predictions}[arguments.how](model, inputs, options)
            expected, given = contest.host(inputs), contest.ours(inputs)
            error = max(
                float(np.abs(expected[key] - given[key]).max() / max(np.abs(expected[key]).max(), 1e-30)) for key in expected
            )
            host, ours = medians(
                [lambda: contest.host(inputs), lambda: contest.ours(inputs)], arguments.rounds, arguments.seconds
            )
            ratios.setdefault(batch, []).append(host / ours)
            print(
                f"{name:18} {batch:5} {host * 1e3:8.2f} ms {ours * 1e3:6.2f} ms {host / ours:6.2f} {error:8.1e} {contest.notes}",
                flush=True,
            )
    for batch, all_ratios in ratios.items():
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in all_ratios))
        print(f"batch {batch}: geometric mean {mean:.2f}, least {min(all_ratios):.2f}")


if __name__ == "__main__":
    main()
