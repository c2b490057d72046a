"""Sessions with Engraft in a stock ONNX Runtime, and what its CPU provider says to the same model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

EP_NAME = "EngraftExecutionProvider"


RELEASE = tuple(map(int, ort.__version__.split(".")[:2]))
"""The host's version, without its last part."""


def since(major: int, minor: int, reason: str) -> pytest.MarkDecorator:
    """Skips a test on hosts before this version, which cannot run it for the reason given."""
    return pytest.mark.skipif(RELEASE < (major, minor), reason=f"ONNX Runtime before {major}.{minor}: {reason}")


def library_path() -> str:
    """The library under test: `ENGRAFT_ORT_LIBRARY`, else that of the installed wheel."""
    if path := os.environ.get("ENGRAFT_ORT_LIBRARY"):
        return str(Path(path).resolve())
    import engraft.onnxruntime

    return engraft.onnxruntime.get_library_path()


@dataclass
class Engraft:
    """Creates sessions whose cache and reports lie in `folder`."""

    device: ort.OrtEpDevice
    folder: Path

    def options(
        self,
        options: dict[str, Any] | None = None,
        *,
        config: dict[str, str] | None = None,
        level: ort.GraphOptimizationLevel | None = None,
        threads: int = 2,
    ) -> ort.SessionOptions:
        session_options = ort.SessionOptions()
        session_options.log_severity_level = 3
        session_options.intra_op_num_threads = threads
        if level is not None:
            session_options.graph_optimization_level = level
        for key, value in (config or {}).items():
            session_options.add_session_config_entry(key, value)
        texts = {key: str(value) for key, value in (options or {}).items()}
        texts.setdefault("engine_cache_path", str(self.folder / "cache"))
        session_options.add_provider_for_devices([self.device], texts)
        return session_options

    def session(
        self, model: onnx.ModelProto | str | Path, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> ort.InferenceSession:
        """A session that fails rather than run without Engraft."""
        return ort.InferenceSession(_source(model), self.options(options, **kwargs), enable_fallback=0)

    def placed(
        self, model: onnx.ModelProto | str | Path, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple[ort.InferenceSession, dict[str, Any]]:
        """A session that takes all that can be taken, and its placement report."""
        report = self.folder / "placement.json"
        report.unlink(missing_ok=True)
        chosen = {"partition_policy": "maximal", "placement_report_path": report, **(options or {})}
        session = self.session(model, chosen, **kwargs)
        return session, json.loads(report.read_text())

    def agree(
        self, session: ort.InferenceSession, model: onnx.ModelProto | str | Path, inputs: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Runs `inputs` on `session` and on the CPU provider; fails unless all outputs agree."""
        expected = reference(model).run(None, inputs)
        actual = session.run(None, inputs)
        assert_same(actual, expected)
        return actual


def assert_same(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Equal shapes and types, equal integers, floats within 1e-4 of the largest magnitude."""
    assert len(actual) == len(expected)
    for index, (a, e) in enumerate(zip(actual, expected)):
        assert a.dtype == e.dtype and a.shape == e.shape, f"output {index}: {a.dtype}{a.shape}, not {e.dtype}{e.shape}"
        if a.size == 0:
            continue
        if np.issubdtype(a.dtype, np.floating):
            scale = max(float(np.abs(e).max()), 1e-30)
            difference = float(np.abs(a.astype(np.float64) - e.astype(np.float64)).max())
            assert difference <= 1e-4 * scale, f"output {index} differs by {difference / scale:.2e}"
        else:
            assert np.array_equal(a, e), f"output {index} differs"


def reference(model: onnx.ModelProto | str | Path) -> ort.InferenceSession:
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 3
    return ort.InferenceSession(_source(model), session_options, providers=["CPUExecutionProvider"])


def taken(report: dict[str, Any]) -> list[str]:
    """Operator types of the nodes that run on Engraft."""
    return [node["op_type"] for node in report["nodes"] if node["segment"] is not None]


def refused(report: dict[str, Any]) -> dict[str, str]:
    """Reasons by operator type of the nodes that stay with the host."""
    return {node["op_type"]: node["reason"] for node in report["nodes"] if node["segment"] is None}


def _source(model: onnx.ModelProto | str | Path) -> str | bytes:
    return model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)


@pytest.fixture(scope="session")
def device() -> ort.OrtEpDevice:
    if not any(d.ep_name == EP_NAME for d in ort.get_ep_devices()):
        ort.register_execution_provider_library("engraft", library_path())
    return next(d for d in ort.get_ep_devices() if d.ep_name == EP_NAME)


@pytest.fixture
def engraft(device: ort.OrtEpDevice, tmp_path: Path) -> Engraft:
    return Engraft(device, tmp_path)
