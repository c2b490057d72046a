"""Programs without Python: the examples for C and for Rust (the ort crate), on the shared library of the installed onnxruntime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "onnxruntime"))
from conftest import assert_same, library_path, reference  # noqa: E402
from models import mlp  # noqa: E402


def run(*command: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | variables, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's library under the names that linker and loader look for."""
    (library,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("runtime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    return folder


def check(output: str, model: Path, report: Path) -> None:
    """What a program printed is what ONNX Runtime's own provider computes, and Engraft computed it."""
    x = ((np.arange(64) % 7) * 0.25 - 0.5).astype(np.float32).reshape(4, 16)
    (expected,) = reference(model).run(None, {"x": x})
    actual = np.array([float(line) for line in output.split()], np.float32).reshape(expected.shape)
    assert_same([actual], [expected])
    assert json.loads(report.read_text())["accelerated_flops"] == 1


def test_c(runtime: Path, tmp_path: Path) -> None:
    program, model, report = (tmp_path / name for name in ("engraft_host", "m.onnx", "report.json"))
    onnx.save(mlp(), model)
    source = ROOT / "examples" / "c" / "engraft_host.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "tests" / "programs" / "include"]
    run(os.environ.get("CC", "cc"), *flags, source, "-L", runtime, "-lonnxruntime", "-o", program)
    output = run(program, library_path(), model, report, LD_LIBRARY_PATH=str(runtime))
    check(output, model, report)
    failed = subprocess.run([program, model, model, report], env=os.environ | {"LD_LIBRARY_PATH": str(runtime)}, check=False)
    assert failed.returncode == 1


def test_rust(runtime: Path, tmp_path: Path) -> None:
    model, report = tmp_path / "m.onnx", tmp_path / "report.json"
    onnx.save(mlp(), model)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "examples-rust"
    manifest = ROOT / "examples" / "rust" / "Cargo.toml"
    run("cargo", "build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", target)
    output = run(target / "debug" / "engraft-host", runtime / "libonnxruntime.so", library_path(), model, report)
    check(output, model, report)
