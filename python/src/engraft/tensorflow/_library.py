"""The library with the operator and the optimizer, and the functions that it exports."""

from __future__ import annotations

import ctypes
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engraft._options import OptionError

_LIBRARY = "libengraft_tensorflow.so"

LEAST_VERSION = (2, 18)
"""The first TensorFlow whose C interface the library speaks."""

OPERATOR = "EngraftSegment"

_RECEIVE = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)

_lock = threading.RLock()
_loaded: ctypes.CDLL | None = None


class UnavailableError(ImportError):
    """This process's TensorFlow cannot use Engraft."""


class EngraftWarning(RuntimeWarning):
    """Engraft does less than was asked for, and the program goes on."""


def get_library_path() -> str:
    """Absolute path of the library: what TF_PLUGGABLE_DEVICE_LIBRARY_PATH and `tensorflow-plugins` take."""
    return str(Path(__file__).resolve().parent.parent / _LIBRARY)


def load() -> ctypes.CDLL:
    """Registers the operator, once per process. Raises `UnavailableError` where TensorFlow is missing or too old."""
    global _loaded
    with _lock:
        # Importing TensorFlow may enable Engraft, which loads the library (`engraft._inherit`).
        tf = _tensorflow()
        if _loaded is None:
            path = get_library_path()
            if not os.path.exists(path):
                raise UnavailableError(f"{path} is missing: engraft must be installed, as in `pip install ./python`")
            try:
                tf.load_op_library(path)
            except Exception as error:
                raise UnavailableError(f"TensorFlow {tf.__version__} refused {path}: {error}") from error
            library = _declare(ctypes.CDLL(path))
            if error := library.engraft_tensorflow_error():
                raise UnavailableError(error.decode())
            _refuse_gradients(tf)
            _loaded = library
        return _loaded


def configure(enabled: bool, options: Mapping[str, str]) -> None:
    """Switches the graph optimizer on or off. Raises `OptionError`."""
    _call(load().engraft_tensorflow_configure, int(enabled), json.dumps(dict(options)).encode())


def accelerate(
    graph: bytes, feeds: Sequence[str], fetches: Sequence[str], options: Mapping[str, str], model: str
) -> tuple[bytes, dict[str, Any]]:
    """A serialized GraphDef with what Engraft takes of it replaced, and the placement report."""
    request = {"feeds": list(feeds), "fetches": list(fetches), "options": dict(options), "model": model}
    function = load().engraft_tensorflow_accelerate
    results = _call(function, graph, len(graph), json.dumps(request).encode())
    return results[1], json.loads(results[2])


def share(node: bytes) -> bytes:
    """A serialized NodeDef with `segment` and `native_library`, the weights that both hold stored once."""
    return _call(load().engraft_tensorflow_share, node, len(node))[3]


def counts() -> dict[str, int]:
    """What happened in this process: calls of segments by engines and by TensorFlow's own kernels, segments put into graphs."""
    count = load().engraft_tensorflow_count
    return {"engine": count(0), "native": count(1), "segments": count(2)}


def _call(function: Any, *arguments: Any) -> dict[int, bytes]:
    """Calls an exported function and returns what it sends, by kind."""
    results: dict[int, bytes] = {}

    def receive(kind: int, data: int | None, length: int) -> None:
        results[kind] = ctypes.string_at(data, length) if data else b""

    if function(*arguments, _RECEIVE(receive)) != 0:
        raise OptionError(results.get(0, b"unknown error").decode())
    return results


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "engraft_tensorflow_error": (ctypes.c_char_p, []),
        "engraft_tensorflow_count": (ctypes.c_uint64, [ctypes.c_int]),
        "engraft_tensorflow_configure": (ctypes.c_int, [ctypes.c_int, ctypes.c_char_p, _RECEIVE]),
        "engraft_tensorflow_accelerate": (
            ctypes.c_int,
            [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, _RECEIVE],
        ),
        "engraft_tensorflow_share": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_size_t, _RECEIVE]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UnavailableError(f"tensorflow cannot be imported ({error}); `pip install tensorflow`") from error
    version = tuple(int(number) for number in re.findall(r"\d+", tf.__version__)[:2])
    if version < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise UnavailableError(f"Engraft needs tensorflow {least} or later, this is {tf.__version__}")
    return tf


def _refuse_gradients(tf: Any) -> None:
    @tf.RegisterGradient(OPERATOR)
    def _gradient(operation: Any, *_: Any) -> Any:
        # Eagerly there is no operation with a name.
        name = getattr(operation, "name", OPERATOR)
        raise LookupError(
            f"'{name}' runs on Engraft, which has no gradients: train the original model, and convert the result"
        )
