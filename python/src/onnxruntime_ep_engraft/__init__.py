"""Engraft under the plugin convention's name: what ONNX Runtime's tools look for in an execution provider's package."""

from engraft.onnxruntime import get_ep_name, get_ep_names, get_library_path

__all__ = ["get_ep_name", "get_ep_names", "get_library_path"]
