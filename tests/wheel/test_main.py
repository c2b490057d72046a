"""`python -m engraft`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import engraft
import pytest

PROGRAM = """
import sys
import neighbour
import onnxruntime
print(sys.argv[1:], __name__)
print(onnxruntime.InferenceSession(neighbour.MODEL).get_providers()[0])
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path: Path, model: Path) -> Path:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "neighbour.py").write_text(f"MODEL = {str(model)!r}\n")
    path = folder / "app.py"
    path.write_text(PROGRAM)
    return path


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engraft", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_a_script(program: Path) -> None:
    done = run("--option", "min_subgraph_size=2", str(program), "--flag", "-o", "x=y")
    assert done.stdout == "['--flag', '-o', 'x=y'] __main__\nEngraftExecutionProvider\n", done.stderr
    assert done.returncode == 7


def test_a_module(program: Path) -> None:
    done = run("-m", "app", "-m", "x", cwd=program.parent)
    assert done.stdout == "['-m', 'x'] __main__\nEngraftExecutionProvider\n", done.stderr
    assert done.returncode == 7


def test_what_is_wrong_is_said(program: Path) -> None:
    for arguments, words in [
        (("--option", "colour=red", str(program)), "unknown option 'colour'"),
        (("--option", "colour", str(program)), "expected KEY=VALUE"),
        ((str(program) + "x",), "there is no file"),
        ((), "program"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2, done
        assert words in done.stderr and not done.stdout, done.stderr


def test_help_and_version() -> None:
    assert "app.py | -m module" in run("--help").stdout
    assert run("--version").stdout == f"engraft {engraft.__version__}\n"


def test_a_program_without_onnxruntime_runs_plainly(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "plain.py").write_text("print('ran')\n")
    done = run("-m", "plain", cwd=tmp_path)
    assert done.stdout == "ran\n"
    assert "running without Engraft: onnxruntime cannot be imported" in done.stderr
