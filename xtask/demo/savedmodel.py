"""Converts an unmodified Keras ResNet50, saved as a SavedModel, and compares results and times with TensorFlow's own."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches"))

import numpy as np
import tensorflow as tf
import tensorflow_models
from measure_tensorflow import medians

import engraft.tensorflow

TOLERANCE = 1e-4
"""Of the largest value, at single precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--model", default="resnet50", choices=tensorflow_models.MODELS)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of the three rounds")
    arguments = parser.parse_args()

    model, sample = tensorflow_models.build(arguments.model)
    before, after = str(arguments.scratch / "model"), str(arguments.scratch / "converted")
    model.export(before, verbose=False)
    print(f"{arguments.model}: {model.count_params() / 1e6:.1f} million weights, drawn at random")

    start = time.perf_counter()
    converter = engraft.tensorflow.Converter(before)
    converter.convert()
    converter.save(after)
    print(f"converted in {time.perf_counter() - start:.1f} s\n")
    converter.summary(line_length=120, detailed=False)

    original = tf.saved_model.load(before).signatures["serving_default"]
    converted = tf.saved_model.load(after).signatures["serving_default"]
    for batch in (1, 8):
        inputs = {name: tf.constant(value) for name, value in sample(batch).items()}
        want, got = original(**inputs), converted(**inputs)
        error = max(float(np.abs(want[key] - got[key]).max() / np.abs(want[key]).max()) for key in want)
        if error > TOLERANCE:
            raise SystemExit(f"error: the results differ by {error:.1e} of the largest value")
        host, ours = medians([lambda: original(**inputs), lambda: converted(**inputs)], 3, arguments.seconds)
        print(
            f"batch {batch}: results equal within {error:.0e}; TensorFlow {host * 1e3:.1f} ms, with Engraft {ours * 1e3:.1f} ms:"
            f" {host / ours:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
