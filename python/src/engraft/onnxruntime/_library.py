"""The plugin library and the names that it registers: the plugin convention's three functions."""

from __future__ import annotations

from pathlib import Path

_EP_NAME = "EngraftExecutionProvider"
_LIBRARY = "libonnxruntime_providers_engraft.so"


def get_library_path() -> str:
    """Absolute path of the plugin library (ONNX Runtime resolves relative paths against its own folder)."""
    return str(Path(__file__).resolve().parent.parent / _LIBRARY)


def get_ep_name() -> str:
    """Name of the execution provider."""
    return _EP_NAME


def get_ep_names() -> list[str]:
    """Names of all execution providers in the library: one."""
    return [_EP_NAME]
