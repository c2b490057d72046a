"""Making every graph of a process use Engraft."""

from __future__ import annotations

import threading
import warnings
from typing import Any

from engraft import _inherit
from engraft._options import to_strings
from engraft.tensorflow import _library

_lock = threading.Lock()
_plugged = False


def enable(**options: Any) -> bool:
    """Lets later calls of `tf.function`s, Keras models and loaded SavedModels run on Engraft where it pays.

    Functions that were traced before, but not called yet, are included; such as have been called keep what they have.
    Weights that are variables are packed when they are first used, and again when they have changed. Graphs that write such
    weights, as training does, are left alone, and so is what runs eagerly.

    Processes that this one starts do the same (see `engraft._inherit`).

    Options that Engraft does not take raise `OptionError`. Where Engraft cannot be used, an `EngraftWarning` says why, and the
    result is False.
    """
    global _plugged
    texts = to_strings(options)
    try:
        with _lock:
            _library.configure(True, texts)
            if not _plugged:
                _plug_in()
                _plugged = True
            _inherit.announce("tensorflow", texts)
    except _library.UnavailableError as error:
        warnings.warn(f"running without Engraft: {error}", _library.EngraftWarning, stacklevel=2)
        return False
    return True


def disable() -> None:
    """Leaves graphs alone from now on; what has been rewritten stays."""
    with _lock:
        _library.configure(False, {})
        _inherit.withdraw("tensorflow")


def _plug_in() -> None:
    from tensorflow.python.framework import load_library

    try:
        load_library.load_pluggable_device_library(_library.get_library_path())
    except Exception as error:
        raise _library.UnavailableError(f"TensorFlow refused the optimizer: {error}") from error
