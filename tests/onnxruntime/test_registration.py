"""What a host sees of the library before any session."""

from __future__ import annotations

import subprocess
import sys

import onnxruntime as ort
from conftest import EP_NAME, library_path


def test_one_cpu_device_is_offered(device: ort.OrtEpDevice) -> None:
    mine = [d for d in ort.get_ep_devices() if d.ep_name == EP_NAME]
    assert len(mine) == 1
    assert mine[0].ep_vendor == "Engraft"
    assert mine[0].device.type == ort.OrtHardwareDeviceType.CPU


def test_the_library_exports_the_entry_points_alone() -> None:
    import ctypes

    library = ctypes.CDLL(library_path())
    assert library.CreateEpFactories and library.ReleaseEpFactory and library.RegisterCustomOps


def test_register_use_unregister_and_again() -> None:
    """Twice through the whole life in one process, sessions and all; the process must also end well."""
    program = f"""
import numpy as np, onnx, onnxruntime as ort
from onnx import helper as h, TensorProto as T
m = h.make_model(h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g",
    [h.make_tensor_value_info("x", T.FLOAT, ["N"])], [h.make_tensor_value_info("y", T.FLOAT, ["N"])]),
    opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
for turn in range(2):
    ort.register_execution_provider_library("engraft", {library_path()!r})
    device = next(d for d in ort.get_ep_devices() if d.ep_name == {EP_NAME!r})
    options = ort.SessionOptions()
    options.add_provider_for_devices([device], {{"min_subgraph_size": "1", "engine_cache_enable": "0"}})
    session = ort.InferenceSession(m, options, enable_fallback=0)
    assert session.run(None, {{"x": np.float32([-1, 2])}})[0].tolist() == [0, 2]
    del session, options, device
    ort.unregister_execution_provider_library("engraft")
    assert not any(d.ep_name == {EP_NAME!r} for d in ort.get_ep_devices())
print("done")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"
