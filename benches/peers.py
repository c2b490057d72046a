"""The contenders of a measurement: ways to create a session for the same model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One way to run a model. A session has `run(None, inputs)`, which returns the outputs in the model's order."""

    name: str
    runtime: str = "ort"
    """Who runs the model: a key of `RUNTIMES`."""
    options: dict[str, str] = field(default_factory=dict)
    """Engraft's options, OpenVINO's properties, or entries of ONNX Runtime's session configuration."""

    @property
    def engraft(self) -> bool:
        return self.runtime == "engraft"

    def prepare(self) -> None:
        """What a program does once before its first session: nobody's session creation."""
        IMPORTS[self.runtime]()

    def session(self, model: Path, threads: int, report: Path | None = None) -> Any:
        """A session with `threads` threads and all optimizations. Engraft's placement report goes to `report`."""
        return RUNTIMES[self.runtime](self, model, threads, report)


def _session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _ort(peer: Peer, model: Path, threads: int, report: Path | None) -> Any:
    import onnxruntime

    options = _session_options(threads)
    for key, value in peer.options.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _engraft(peer: Peer, model: Path, threads: int, report: Path | None) -> Any:
    import engraft.onnxruntime
    import onnxruntime

    options = _session_options(threads)
    extra = {"placement_report_path": str(report)} if report else {}
    engraft.onnxruntime.add_to(options, **peer.options, **extra)
    return _with_provider(onnxruntime, model, options, engraft.onnxruntime.get_ep_name())


def _with_provider(onnxruntime: Any, model: Path, options: Any, name: str) -> Any:
    session = onnxruntime.InferenceSession(model, options)
    if name not in session.get_providers():
        raise RuntimeError(f"{model}: ONNX Runtime created the session without {name}")
    return session


def _openvino_provider(peer: Peer, model: Path, threads: int, report: Path | None) -> Any:
    import onnxruntime
    import onnxruntime_ep_openvino

    name = onnxruntime_ep_openvino.get_ep_name()
    options = _session_options(threads)
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == name and d.device.type.name == "CPU"]
    options.add_provider_for_devices(devices, {"num_of_threads": str(threads), **peer.options})
    return _with_provider(onnxruntime, model, options, name)


def _openvino(peer: Peer, model: Path, threads: int, report: Path | None) -> Any:
    import openvino

    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return _OpenVinoSession(openvino.Core().compile_model(model, "CPU", properties | peer.options))


class _OpenVinoSession:
    """OpenVINO's own API in the form of an `InferenceSession`. Inputs are shared, outputs belong to the request."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = list(compiled.outputs)

    def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[output] for output in self._outputs]


def _import_ort() -> None:
    import onnxruntime  # noqa: F401


def _import_engraft() -> None:
    import engraft.onnxruntime

    engraft.onnxruntime.register()


def _import_openvino() -> None:
    import openvino  # noqa: F401


def _import_openvino_provider() -> None:
    import onnxruntime
    import onnxruntime_ep_openvino

    name = onnxruntime_ep_openvino.get_ep_name()
    onnxruntime.register_execution_provider_library(name, onnxruntime_ep_openvino.get_library_path())


RUNTIMES: dict[str, Callable[[Peer, Path, int, Path | None], Any]] = {
    "ort": _ort,
    "engraft": _engraft,
    "openvino": _openvino,
    "openvino-ep": _openvino_provider,
}

IMPORTS: dict[str, Callable[[], None]] = {
    "ort": _import_ort,
    "engraft": _import_engraft,
    "openvino": _import_openvino,
    "openvino-ep": _import_openvino_provider,
}

PRECISIONS = ("fp32", "tf32", "bf16")


def standard_peers() -> dict[str, Peer]:
    """The peers that measurements know by name; the first is what the others are compared with."""
    peers = [
        Peer("ort"),
        Peer("ort-daz", options={"session.set_denormal_as_zero": "1"}),
        Peer("engraft", "engraft"),
        *(Peer(f"engraft-{precision}", "engraft", {"precision": precision}) for precision in PRECISIONS),
        Peer("openvino", "openvino"),
        Peer("openvino-f32", "openvino", {"INFERENCE_PRECISION_HINT": "f32"}),
        Peer("openvino-ep", "openvino-ep"),
    ]
    return {peer.name: peer for peer in peers}


def parse_peer(text: str) -> Peer:
    """The name of a standard peer, or `name:key=value:key=value` for that peer with options."""
    name, *pairs = text.split(":")
    peers = standard_peers()
    if name not in peers:
        raise ValueError(f"unknown peer {name!r}; there are {', '.join(peers)}")
    if not pairs:
        return peers[name]
    options = dict(pair.split("=", 1) for pair in pairs)
    return replace(peers[name], name=text, options=peers[name].options | options)
