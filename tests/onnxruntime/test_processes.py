"""Many processes at once, one cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Engraft, assert_same, library_path, reference
from models import convnet

PROCESSES = 8

CREATE = """
import sys, threading, numpy as np, onnxruntime as ort
library, model, cache, inputs, outputs = sys.argv[1:]
ort.register_execution_provider_library("engraft", library)
devices = [d for d in ort.get_ep_devices() if d.ep_name == "EngraftExecutionProvider"][:1]
x = np.load(inputs)
results, failures = [], []

def create():
    try:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 1
        options.add_provider_for_devices(
            devices, {"engine_cache_path": cache, "partition_policy": "maximal", "log_level": "info"}
        )
        results.append(ort.InferenceSession(model, options, enable_fallback=0).run(None, {"x": x})[0])
    except BaseException as error:
        failures.append(repr(error))

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=create) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failures, failures
np.save(outputs, np.stack(results))
"""


def test_eight_processes_of_four_threads_build_once(engraft: Engraft, tmp_path: Path) -> None:
    model, cache, x = tmp_path / "m.onnx", tmp_path / "cache", tmp_path / "x.npy"
    onnx.save(convnet(), model)
    np.save(x, np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32))
    processes = []
    for index in range(PROCESSES):
        arguments = [library_path(), model, cache, x, tmp_path / f"y{index}.npy"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", CREATE, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    logs = ""
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        logs += stderr
    assert logs.count("building a plan") == 1, [line for line in logs.splitlines() if "engraft" in line]
    assert len(list((cache / "plans").glob("*.plan"))) == 1
    expected = reference(model).run(None, {"x": np.load(x)})
    for index in range(PROCESSES):
        results = np.load(tmp_path / f"y{index}.npy")
        assert len(results) == 4
        for result in results:
            assert_same([result], expected)


def _variant(which: str) -> onnx.ModelProto:
    made = convnet(batch=2, size=16)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    if which == "weight":
        array = onnx.numpy_helper.to_array(weights["w2"]).copy()
        array[3, 5, 1, 1] += 1e-3
        weights["w2"].CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    elif which == "shape":
        made = convnet(batch=2, size=24)
    elif which == "attribute":
        made.graph.node[3].attribute[0].ints[:] = [0, 0, 2, 2]
    return made


@pytest.mark.parametrize("which", ["weight", "shape", "attribute", "option"])
def test_models_of_equal_names_that_differ_in_one_thing_share_no_plan(engraft: Engraft, which: str) -> None:
    plans = engraft.folder / "cache" / "plans"
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    first, second = _variant("none"), _variant(which)
    options = {"builder_optimization_level": 2} if which == "option" else {}
    for made, chosen in [(first, {}), (second, options), (first, {}), (second, options)]:
        session, report = engraft.placed(made, chosen)
        assert all(node["segment"] for node in report["nodes"]), json.dumps(report["nodes"])
        size = session.get_inputs()[0].shape[2]
        engraft.agree(session, made, {"x": x if size == 16 else np.tile(x, (1, 1, 2, 2))[:, :, :size, :size]})
    assert len(list(plans.glob("*.plan"))) == 2
