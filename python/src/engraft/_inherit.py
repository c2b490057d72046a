"""What child processes inherit, and what programs get without a line of their own: the environment variable ENGRAFT_ENABLE.

`enable` sets the variable, so that processes that are spawned (multiprocessing's, a server's workers) do as their parent.
`engraft.pth` of the wheel imports this module in every interpreter that starts with the variable: onnxruntime and TensorFlow,
once the program imports them, have Engraft enabled. Neither is imported before the program does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from engraft._options import OptionError

VARIABLE = "ENGRAFT_ENABLE"
"""`1`, or the options as a JSON object of texts; or a JSON object that holds such an object for each host that is meant.
Anything else that says no (empty, `0`) is as if it were not there."""

HOSTS = {"onnxruntime": "engraft.onnxruntime", "tensorflow": "engraft.tensorflow"}
"""The packages that Engraft is enabled in, and its own modules for them."""


def announce(host: str, options: Mapping[str, str]) -> None:
    """Children start with Engraft in this host, and these options."""
    _write(_other_hosts(host) | {host: dict(options)})


def withdraw(host: str) -> None:
    """Children start plainly, as far as this host is concerned."""
    _write(_other_hosts(host))


def inherited() -> dict[str, dict[str, str]]:
    """The hosts that this process starts with, and the options of each. Raises ValueError if they make no sense."""
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "0"):
        return {}
    given = {} if text == "1" else json.loads(text)
    if _is_texts(given):
        return {host: dict(given) for host in HOSTS}
    if isinstance(given, dict) and given.keys() <= HOSTS.keys() and all(map(_is_texts, given.values())):
        return given
    raise ValueError(f"expected 1, a JSON object of texts, or one of them for each of {', '.join(HOSTS)}")


def enable(host: str, options: Mapping[str, str]) -> None:
    """Enables Engraft in a host that has been imported. Raises the OptionError of its module; where Engraft cannot be used, a
    warning says why."""
    try:
        bridge = importlib.import_module(HOSTS[host])
    except ImportError as error:
        warnings.warn(f"running without Engraft: {error}", RuntimeWarning, stacklevel=2)
        return
    bridge.enable(**options)


def when_imported(host: str, action: Callable[[], Any]) -> None:
    """Calls `action` as soon as the package is there: now, or once the program has imported it."""
    if host in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(host, action))


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _other_hosts(host: str) -> dict[str, dict[str, str]]:
    try:
        return {name: options for name, options in inherited().items() if name != host}
    except ValueError:
        return {}


def _write(hosts: dict[str, dict[str, str]]) -> None:
    if hosts:
        os.environ[VARIABLE] = json.dumps(hosts)
    else:
        os.environ.pop(VARIABLE, None)


class _Finder(importlib.abc.MetaPathFinder):
    """Stands before the others until the package has been imported. Programs may look for it before, and often."""

    def __init__(self, host: str, action: Callable[[], Any]) -> None:
        self._host = host
        self._action = action
        self._others = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._host or getattr(self._others, "asked", False):
            return None
        self._others.asked = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._others.asked = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def imported(self) -> None:
        """Steps aside and acts."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._action()


class _Loader(importlib.abc.Loader):
    """Tells its finder when the module is there."""

    def __init__(self, loader: importlib.abc.Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.imported()


def _enable_inherited(host: str, options: dict[str, str]) -> None:
    try:
        enable(host, options)
    except OptionError as error:
        warnings.warn(f"running without Engraft: {VARIABLE}: {error}", RuntimeWarning, stacklevel=2)


def _start() -> None:
    try:
        hosts = inherited()
    except ValueError as error:
        warnings.warn(f"running without Engraft: {VARIABLE}: {error}", RuntimeWarning, stacklevel=2)
        return
    for host, options in hosts.items():
        if host not in sys.modules:
            when_imported(host, functools.partial(_enable_inherited, host, options))


_start()
