"""ONNX Runtime as a backend of ONNX's own test suite, with and without Engraft."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import values
from onnx.backend.base import Backend, BackendRep

EP_NAME = "EngraftExecutionProvider"

# Takes whatever can be taken, one node or many, and leaves nothing behind.
OPTIONS = {
    "min_subgraph_size": "1",
    "partition_policy": "maximal",
    "builder_optimization_level": "0",
    "engine_cache_enable": "0",
}


def engraft_device() -> ort.OrtEpDevice:
    """The device of the library named by `ENGRAFT_ORT_LIBRARY`, else of the installed wheel's."""
    if not any(d.ep_name == EP_NAME for d in ort.get_ep_devices()):
        if path := os.environ.get("ENGRAFT_ORT_LIBRARY"):
            path = str(Path(path).resolve())
        else:
            import engraft.onnxruntime

            path = engraft.onnxruntime.get_library_path()
        ort.register_execution_provider_library("engraft", path)
    return next(d for d in ort.get_ep_devices() if d.ep_name == EP_NAME)


@dataclass(frozen=True)
class Assignment:
    """Numbers of nodes by who runs them, as ONNX Runtime recorded it; constants that it folded are not among them."""

    engraft: int
    others: int

    @property
    def whole(self) -> bool:
        """Engraft computes the model, the host nothing."""
        return self.engraft > 0 and self.others == 0


class Prepared(BackendRep):
    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        feeds = {i.name: values.to_host(v) for i, v in zip(self.session.get_inputs(), inputs)}
        if any(values.is_foreign_type(output.type) for output in self.session.get_outputs()):
            feeds = {name: values.to_ort(value) for name, value in feeds.items()}
            names = [output.name for output in self.session.get_outputs()]
            return tuple(values.from_ort(value) for value in self.session.run_with_ort_values(names, feeds))
        return tuple(self.session.run(None, feeds))


class Host(Backend):
    """ONNX Runtime's CPU provider, behind Engraft where `device` is set."""

    device: ort.OrtEpDevice | None = None
    assignment: Assignment | None = None

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> Prepared:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        if cls.device is not None:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            options.add_provider_for_devices([cls.device], OPTIONS)
            session = ort.InferenceSession(model.SerializeToString(), options, enable_fallback=0)
            parts = session.get_provider_graph_assignment_info()
            nodes = [(part.ep_name, len(part.get_nodes())) for part in parts]
            cls.assignment = Assignment(
                engraft=sum(count for name, count in nodes if name == EP_NAME),
                others=sum(count for name, count in nodes if name != EP_NAME),
            )
        else:
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        return Prepared(session)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"
