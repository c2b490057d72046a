"""Every operator of the dialect, over its attributes, with shapes that the graph knows and with such that it does not:
the standalone engine gives what TensorFlow gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import operators
import pytest
import tensorflow as tf

FAMILIES = operators.families()


def engraft(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = os.environ.get("ENGRAFT_CLI", "engraft")
    environment = os.environ | {"XDG_CACHE_HOME": str(folder)}
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, check=False)


def results(case: operators.Case, placeholders: list[tf.Tensor]) -> list[tf.Tensor]:
    computed = case.compute(*placeholders)
    if isinstance(computed, tf.Tensor):
        return [computed]
    return list(computed)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_tensorflow(family: str, dynamic: bool, tmp_path: Path) -> None:
    graph, feeds, read, wanted = tf.Graph(), {}, {}, []
    with graph.as_default():
        for case in FAMILIES[family]:
            if dynamic and case.unknown == "none":
                continue
            placeholders = []
            for index, operand in enumerate(case.operands):
                shape = case.known_shape(operand) if dynamic else operand.shape
                placeholder = tf.compat.v1.placeholder(operand.dtype, shape, f"{case.name}_{index}")
                feeds[placeholder] = operand
                if dynamic or not case.only_shapes:
                    read[placeholder.name] = operand
                placeholders.append(placeholder)
            for index, result in enumerate(results(case, placeholders)):
                wanted.append((case, tf.identity(result, f"{case.name}_result_{index}")))
    with tf.compat.v1.Session(graph=graph) as session:
        expected = session.run([tensor for _, tensor in wanted], feeds)

    model = tmp_path / "graph.pb"
    model.write_bytes(graph.as_graph_def().SerializeToString())
    np.savez(tmp_path / "inputs.npz", **read)
    ran = engraft("run", str(model), "--input", str(tmp_path / "inputs.npz"), "-o", str(tmp_path / "outputs.npz"), folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    outputs = np.load(tmp_path / "outputs.npz")
    faults = []
    for (case, tensor), reference in zip(wanted, expected, strict=True):
        got = outputs[tensor.name]
        if got.shape != reference.shape or got.dtype != reference.dtype:
            faults.append(f"{tensor.name}: {got.dtype}{got.shape}, not {reference.dtype}{reference.shape}")
        elif not np.issubdtype(reference.dtype, np.floating):
            if not np.array_equal(got, reference):
                faults.append(f"{tensor.name}: {np.sum(got != reference)} of {reference.size} differ")
        else:
            scale = max(1e-6, float(np.max(np.abs(reference[np.isfinite(reference)]), initial=0)))
            close = np.isclose(got, reference, rtol=case.tolerance, atol=case.tolerance * scale, equal_nan=True)
            if not close.all():
                distance = float(np.max(np.abs(got.astype(np.float64) - reference)[~close]))
                faults.append(f"{tensor.name}: off by {distance:.3e} of {scale:.3e}")
    assert not faults, "\n".join(faults)
