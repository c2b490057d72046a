"""Options in Python's types, turned into the strings that Engraft takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any


class OptionError(ValueError):
    """An option that Engraft does not have, or a value that it does not take."""


def to_strings(options: Mapping[str, Any]) -> dict[str, str]:
    """The options as strings; those that are None are left to their defaults."""
    return {key: _to_string(key, value) for key, value in options.items() if value is not None}


def _to_string(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in value.items())
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return ",".join(map(str, value))
    raise OptionError(f"option '{key}': cannot make text of a {type(value).__name__}")
