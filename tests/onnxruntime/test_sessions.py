"""What sessions offer beside plain runs: run options, bound memory, dynamic options, profiles, large models."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import EP_NAME, Engraft, assert_same, reference, taken
from models import convnet, mlp, model, value
from onnx import TensorProto, helper

X = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)


def test_profiles_contain_segments(engraft: Engraft) -> None:
    options = engraft.options({"partition_policy": "maximal"})
    options.enable_profiling = True
    options.profile_file_prefix = str(engraft.folder / "profile")
    session = ort.InferenceSession(mlp().SerializeToString(), options, enable_fallback=0)
    session.run(None, {"x": X})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    assert [e["args"]["provider"] for e in kernels] == [EP_NAME]


def test_terminated_runs_end_and_later_ones_work(engraft: Engraft) -> None:
    session, _ = engraft.placed(mlp())
    terminated = ort.RunOptions()
    terminated.terminate = True
    with pytest.raises(Exception, match="terminate"):
        session.run(None, {"x": X}, terminated)
    engraft.agree(session, mlp(), {"x": X})


def test_termination_from_another_thread(engraft: Engraft) -> None:
    session, _ = engraft.placed(mlp())
    options = ort.RunOptions()
    timer = threading.Timer(0.05, lambda: setattr(options, "terminate", True))
    timer.start()
    with pytest.raises(Exception, match="terminate"):
        while timer.is_alive() or not options.terminate:
            session.run(None, {"x": X}, options)
        session.run(None, {"x": X}, options)
    engraft.agree(session, mlp(), {"x": X})


def test_run_options(engraft: Engraft) -> None:
    session, _ = engraft.placed(mlp())
    options = ort.RunOptions()
    options.log_severity_level = 3
    options.only_execute_path_to_fetches = True
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    assert_same(session.run(None, {"x": X}, options), reference(mlp()).run(None, {"x": X}))


def test_bound_outputs_of_unknown_shape(engraft: Engraft) -> None:
    session, _ = engraft.placed(mlp())
    binding = session.io_binding()
    for rows in (3, 7, 1):
        x = np.full((rows, 16), rows, np.float32)
        binding.bind_cpu_input("x", x)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        assert_same(binding.copy_outputs_to_cpu(), reference(mlp()).run(None, {"x": x}))
        binding.clear_binding_outputs()


@pytest.mark.skipif(not hasattr(ort.InferenceSession, "set_ep_dynamic_options"), reason="not in this onnxruntime")
def test_dynamic_options(engraft: Engraft) -> None:
    session, _ = engraft.placed(convnet())
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    for kind in ("Efficient", "Default", "Efficient"):
        session.set_ep_dynamic_options({"ep.dynamic.workload_type": kind})
        engraft.agree(session, convnet(), {"x": x})
    with pytest.raises(Exception, match="workload_type|Invalid value"):
        session.set_ep_dynamic_options({"ep.dynamic.workload_type": "Greedy"})
    engraft.agree(session, convnet(), {"x": x})


def test_assignment_is_recorded_by_the_host(engraft: Engraft) -> None:
    config = {"session.record_ep_graph_assignment_info": "1"}
    session = engraft.session(mlp(), {"partition_policy": "maximal"}, config=config)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime cannot be asked from Python")
    parts = session.get_provider_graph_assignment_info()
    assert [part.ep_name for part in parts] == [EP_NAME]
    types = {node.op_type for node in parts[0].get_nodes()}
    assert types >= {"Gemm", "Erf", "Softmax"}


def test_sessions_that_must_not_fall_back(engraft: Engraft) -> None:
    config = {"session.disable_cpu_ep_fallback": "1"}
    session = engraft.session(mlp(), {"partition_policy": "maximal"}, config=config)
    engraft.agree(session, mlp(), {"x": X})
    with pytest.raises(Exception, match="fallback"):
        engraft.session(mlp(), {"op_types_to_exclude": "Softmax", "partition_policy": "maximal"}, config=config)


def test_a_model_of_more_than_two_gigabytes(engraft: Engraft) -> None:
    """External data of 2.2 GB in a sparse file; the part that Engraft takes lies behind the 2 GB mark."""
    rows, columns = 1100, 1 << 19
    data = engraft.folder / "weights.bin"
    tail = (np.random.default_rng(0).standard_normal((16, 64)) / 4).astype(np.float32)
    large = rows * columns * 4
    with data.open("wb") as file:
        file.truncate(large)
        file.seek(large - columns * 4)
        file.write(np.full(columns, 0.5, np.float32).tobytes())
        file.write(tail.tobytes())

    def external(name: str, shape: list[int], offset: int) -> onnx.TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        length = 4 * int(np.prod(shape))
        for key, text in [("location", data.name), ("offset", str(offset)), ("length", str(length))]:
            tensor.external_data.add(key=key, value=text)
        return tensor

    made = model(
        [
            helper.make_node("Gather", ["table", "i"], ["row"]),
            helper.make_node("ReduceMean", ["row"], ["m"], axes=[-1], keepdims=1),
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Add", ["r", "m"], ["y"]),
        ],
        [value("i", [1], TensorProto.INT64), value("x", [1, 16])],
        [value("y", [1, 64])],
        [external("table", [rows, columns], 0), external("w", [16, 64], large)],
        check=False,
    )
    path = engraft.folder / "large.onnx"
    onnx.save(made, path)
    session, report = engraft.placed(path, {"op_types_to_exclude": "Gather", "engine_cache_enable": "0"})
    assert "MatMul" in taken(report) and "Gather" not in taken(report)
    x = X[:1]
    for index, added in [(0, 0.0), (rows - 1, 0.5)]:
        (y,) = session.run(None, {"i": np.array([index]), "x": x})
        assert_same([y], [np.maximum(x @ tail, 0) + np.float32(added)])
