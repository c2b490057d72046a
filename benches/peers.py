"""The contenders of a measurement: ways to create a session for the same model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One way to run a model with ONNX Runtime. Values of `options` are Engraft's, of `config` the session's."""

    name: str
    engraft: bool = False
    options: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)

    def session(self, model: Path, threads: int, report: Path | None = None) -> Any:
        """An `onnxruntime.InferenceSession` with all graph optimizations and `threads` intra-op threads.

        Engraft's placement report goes to `report`.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in self.config.items():
            options.add_session_config_entry(key, value)
        if not self.engraft:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        import engraft.onnxruntime

        extra = {"placement_report_path": str(report)} if report else {}
        engraft.onnxruntime.add_to(options, **self.options, **extra)
        session = onnxruntime.InferenceSession(model, options)
        if engraft.onnxruntime.get_ep_name() not in session.get_providers():
            raise RuntimeError(f"{model}: ONNX Runtime created the session without Engraft")
        return session


def standard_peers() -> dict[str, Peer]:
    """The peers that measurements know by name; the first is what the others are compared with."""
    peers = [
        Peer("ort"),
        Peer("ort-daz", config={"session.set_denormal_as_zero": "1"}),
        Peer("engraft", engraft=True),
    ]
    return {peer.name: peer for peer in peers}


def parse_peer(text: str) -> Peer:
    """`ort`, `ort-daz`, `engraft`, or `engraft:key=value:key=value` for Engraft with options."""
    name, *pairs = text.split(":")
    peers = standard_peers()
    if name not in peers:
        raise ValueError(f"unknown peer {name!r}; there are {', '.join(peers)}")
    if not pairs:
        return peers[name]
    options = dict(pair.split("=", 1) for pair in pairs)
    base = peers[name]
    if base.engraft:
        return Peer(text, engraft=True, options=options)
    return Peer(text, config=base.config | options)
