"""Engraft as an execution provider of ONNX Runtime.

    import engraft.onnxruntime

    engraft.onnxruntime.enable()                       # every later onnxruntime.InferenceSession of the process
    engraft.onnxruntime.add_to(session_options)        # or one session only

`register()` makes the provider known to ONNX Runtime and is called by both. Options are keyword arguments; their names
and values are those of the documentation (docs/options.md). Beside strings, numbers, booleans, paths, lists (of
operator types) and mappings (of input names to shapes) are understood.
"""

from engraft.onnxruntime._enable import EngraftWarning, disable, enable
from engraft.onnxruntime._library import get_ep_name, get_ep_names, get_library_path
from engraft._options import OptionError
from engraft.onnxruntime._provider import UnavailableError, add_to, register

__all__ = [
    "EngraftWarning",
    "OptionError",
    "UnavailableError",
    "add_to",
    "disable",
    "enable",
    "get_ep_name",
    "get_ep_names",
    "get_library_path",
    "register",
]
