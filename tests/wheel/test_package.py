"""What the wheel contains."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import engraft
import engraft.onnxruntime
import onnxruntime_ep_engraft

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_library_is_inside_the_package() -> None:
    path = engraft.onnxruntime.get_library_path()
    assert os.path.isabs(path)
    assert Path(path).read_bytes()[:4] == b"\x7fELF"
    assert Path(path).name == "libonnxruntime_providers_engraft.so"


def test_tensorflows_library_is_beside_it() -> None:
    library = Path(engraft.onnxruntime.get_library_path()).with_name("libengraft_tensorflow.so")
    assert library.read_bytes()[:4] == b"\x7fELF"


def test_the_plugin_convention_is_met() -> None:
    assert onnxruntime_ep_engraft.get_library_path() == engraft.onnxruntime.get_library_path()
    assert onnxruntime_ep_engraft.get_ep_name() == "EngraftExecutionProvider"
    assert onnxruntime_ep_engraft.get_ep_names() == ["EngraftExecutionProvider"]


def test_the_version_is_the_workspaces() -> None:
    manifest = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'\[workspace\.package\]\s+version = "(.+?)"', manifest)
    assert version and engraft.__version__ == version[1]


def test_licences_and_types_are_shipped() -> None:
    files = {str(file) for file in importlib.metadata.files("engraft") or []}
    assert {"engraft/py.typed", "onnxruntime_ep_engraft/py.typed"} <= files
    assert sum(file.endswith(("LICENSE-MIT", "LICENSE-APACHE")) for file in files) == 2


def test_it_does_not_pull_in_an_onnxruntime() -> None:
    assert not importlib.metadata.requires("engraft")
