"""Registration with ONNX Runtime, and adding the provider to session options."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any

from engraft.onnxruntime._library import get_ep_name, get_library_path
from engraft._options import to_strings

if TYPE_CHECKING:
    import onnxruntime

LEAST_VERSION = (1, 24)
"""The first ONNX Runtime whose plugin interface the library speaks."""

_lock = threading.Lock()


class UnavailableError(RuntimeError):
    """This process's ONNX Runtime cannot use Engraft."""


def register() -> list[onnxruntime.OrtEpDevice]:
    """Makes Engraft known to ONNX Runtime, once per process, and returns the devices it offers.

    Calling it again, or after somebody else registered the library, does nothing more. Raises `UnavailableError`
    where onnxruntime is missing, too old, or refuses the library.
    """
    ort = _onnxruntime()
    with _lock:
        if devices := _devices(ort):
            return devices
        path = get_library_path()
        if not os.path.exists(path):
            raise UnavailableError(f"{path} is missing: engraft must be installed, as in `pip install ./python`")
        try:
            ort.register_execution_provider_library("engraft", path)
        except Exception as error:
            raise UnavailableError(f"ONNX Runtime {ort.__version__} refused {path}: {error}") from error
        if devices := _devices(ort):
            return devices
        raise UnavailableError(f"{path} offers no device on this machine")


def add_to(session_options: onnxruntime.SessionOptions, **options: Any) -> None:
    """Puts Engraft first in line for sessions created with `session_options`; the CPU provider takes the rest.

    The options are checked when a session is created. A `providers` argument of InferenceSession overrules this.
    """
    session_options.add_provider_for_devices(register()[:1], to_strings(options))


def _devices(ort: Any) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == get_ep_name()]


def _onnxruntime() -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UnavailableError(f"onnxruntime cannot be imported ({error}); `pip install onnxruntime`") from error
    version = tuple(int(number) for number in re.findall(r"\d+", ort.__version__)[:2])
    if version < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise UnavailableError(f"Engraft needs onnxruntime {least} or later, this is {ort.__version__}")
    return ort
