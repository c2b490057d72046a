"""What child processes inherit: the environment variable ENGRAFT_ENABLE, and what becomes of it when one starts.

`enable` sets the variable, so that processes that are spawned (multiprocessing's, a server's workers) do as their parent.
`engraft.pth` of the wheel imports this module in every interpreter that starts with the variable: onnxruntime, once the
program imports it, has Engraft enabled.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType

VARIABLE = "ENGRAFT_ENABLE"
"""`1`, or the options as a JSON object of texts; anything else that says no (empty, `0`) is as if it were not there."""


def announce(options: Mapping[str, str]) -> None:
    """Children start with Engraft and these options."""
    os.environ[VARIABLE] = json.dumps(options) if options else "1"


def withdraw() -> None:
    """Children start plainly."""
    os.environ.pop(VARIABLE, None)


def inherited() -> dict[str, str] | None:
    """The options that this process starts with; None if it starts plainly. Raises ValueError if they make no sense."""
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "0"):
        return None
    if text == "1":
        return {}
    options = json.loads(text)
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError("expected 1, or a JSON object of texts")
    return options


class _Finder(importlib.abc.MetaPathFinder):
    """Stands before the others until onnxruntime is imported."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "onnxruntime":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._options)
        return spec


class _Loader(importlib.abc.Loader):
    """Enables Engraft as soon as the module is there."""

    def __init__(self, loader: importlib.abc.Loader, options: dict[str, str]) -> None:
        self._loader = loader
        self._options = options

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        import engraft.onnxruntime

        try:
            engraft.onnxruntime.enable(**self._options)
        except engraft.onnxruntime.OptionError as error:
            warnings.warn(
                f"running without Engraft: {VARIABLE}: {error}", engraft.onnxruntime.EngraftWarning, stacklevel=2
            )


def _start() -> None:
    try:
        options = inherited()
    except ValueError as error:
        warnings.warn(f"running without Engraft: {VARIABLE}: {error}", RuntimeWarning, stacklevel=2)
        return
    if options is not None:
        sys.meta_path.insert(0, _Finder(options))


if "onnxruntime" not in sys.modules:
    _start()
