"""Sessions of two plugin providers, Engraft and OpenVINO's: whoever comes first takes first, the other takes of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import engraft.onnxruntime
import numpy as np
import onnxruntime as ort
import onnxruntime_ep_openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

ENGRAFT = engraft.onnxruntime.get_ep_name()
OPENVINO = onnxruntime_ep_openvino.get_ep_name()


@pytest.fixture(scope="module")
def devices() -> dict[str, ort.OrtEpDevice]:
    engraft.onnxruntime.register()
    ort.register_execution_provider_library("openvino", onnxruntime_ep_openvino.get_library_path())
    found = {}
    for device in ort.get_ep_devices():
        if device.device.type == ort.OrtHardwareDeviceType.CPU:
            found.setdefault(device.ep_name, device)
    return found


def model() -> bytes:
    """MatMul, Relu, Softmax, MatMul."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in [("w1", (64, 64)), ("w2", (64, 32))]
    ]
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Softmax", ["b"], ["c"], axis=-1),
        node("MatMul", ["c", "w2"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, [4, 64]), info("y", TensorProto.FLOAT, [4, 32])
    graph = helper.make_graph(nodes, "shared", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("first", [ENGRAFT, OPENVINO])
@pytest.mark.parametrize("excluded", ["", "Softmax", "MatMul,Relu"])
def test_both_in_one_session(
    devices: dict[str, ort.OrtEpDevice], tmp_path: Path, first: str, excluded: str
) -> None:
    report = tmp_path / "report.json"
    options = ort.SessionOptions()
    options.log_severity_level = 3
    own = {
        "partition_policy": "maximal",
        "placement_report_path": str(report),
        "op_types_to_exclude": excluded,
        "engine_cache_path": str(tmp_path / "cache"),
    }
    for name in [first, *({ENGRAFT, OPENVINO} - {first})]:
        options.add_provider_for_devices([devices[name]], own if name == ENGRAFT else {})
    session = ort.InferenceSession(model(), options, enable_fallback=0)
    assert session.get_providers()[0] == first
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    (expected,) = ort.InferenceSession(model(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    for _ in range(3):
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)
    if first == ENGRAFT:
        taken = {n["op_type"] for n in json.loads(report.read_text())["nodes"] if n["segment"] is not None}
        assert taken == {"MatMul", "Relu", "Softmax"} - set(excluded.split(","))
    elif report.exists():
        # What the other took is none of ours, and the report says whose it is.
        for node in json.loads(report.read_text())["nodes"]:
            assert node["segment"] is not None or node["reason"]


def test_enable_leaves_sessions_of_the_other_alone(devices: dict[str, ort.OrtEpDevice]) -> None:
    engraft.onnxruntime.enable()
    try:
        options = ort.SessionOptions()
        options.add_provider_for_devices([devices[OPENVINO]], {})
        session = ort.InferenceSession(model(), options)
        assert ENGRAFT not in session.get_providers()
        assert ort.InferenceSession(model()).get_providers()[0] == ENGRAFT
    finally:
        engraft.onnxruntime.disable()
