"""Programs without a line of Engraft's: the command line, the environment, TensorFlow's own folder of plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import engraft.tensorflow

PROGRAM = """
import sys
assert "tensorflow" not in sys.modules
import numpy as np
import tensorflow as tf

random = np.random.default_rng(1)
w, v, x = (random.standard_normal(shape).astype("f4") for shape in ((512, 512), (512, 512), (64, 512)))
f = tf.function(lambda x: tf.nn.relu(tf.matmul(tf.nn.relu(tf.matmul(x, w)), v)))
y = f(tf.constant(x)).numpy()
reference = np.maximum(np.maximum(x @ w, 0) @ v, 0)
assert np.abs(y - reference).max() < 1e-4 * np.abs(reference).max()
if "engraft.tensorflow" in sys.modules:
    from engraft.tensorflow import _library
    print("calls of engines:", _library.counts()["engine"])
"""

USED, PLAIN = "calls of engines: 1\n", ""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    return path


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if key != "ENGRAFT_ENABLE"}
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(arguments, capture_output=True, text=True, env=plain | environment, timeout=300, check=False)


def test_the_command_line(program: Path) -> None:
    done = run("-m", "engraft", "--option", "min_subgraph_size=2", program)
    assert (done.returncode, done.stdout) == (0, USED), done.stderr


def test_options_of_the_command_line_are_checked(program: Path) -> None:
    done = run("-m", "engraft", "--option", "colour=red", program)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "unknown option 'colour'" in done.stderr


@pytest.mark.parametrize(
    ("value", "printed", "words"),
    [
        ("1", USED, ""),
        (json.dumps({"min_subgraph_size": "2"}), USED, ""),
        (json.dumps({"tensorflow": {"min_subgraph_size": "2"}}), USED, ""),
        (json.dumps({"onnxruntime": {}}), PLAIN, ""),
        ("0", PLAIN, ""),
        (json.dumps({"colour": "red"}), "calls of engines: 0\n", "unknown option 'colour'"),
    ],
)
def test_the_variable(program: Path, value: str, printed: str, words: str) -> None:
    done = run(program, ENGRAFT_ENABLE=value)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr
    assert words in done.stderr


def test_children_do_as_their_parent(program: Path) -> None:
    code = f"""
import subprocess, sys
import engraft.tensorflow
engraft.tensorflow.enable(min_subgraph_size=2)
child = [sys.executable, {str(program)!r}]
print("enabled:", subprocess.check_output(child, text=True))
engraft.tensorflow.disable()
print("disabled:", subprocess.check_output(child, text=True))
"""
    done = run("-c", code)
    assert done.stdout == f"enabled: {USED}\ndisabled: {PLAIN}\n", done.stderr


def test_looking_for_tensorflow_is_not_importing_it(program: Path) -> None:
    """Libraries ask whether it is installed before they import it."""
    code = f"import importlib.util, runpy; importlib.util.find_spec('tensorflow'); runpy.run_path({str(program)!r})"
    done = run("-c", code, ENGRAFT_ENABLE="1")
    assert done.stdout == USED, done.stderr


def test_a_program_that_imports_engraft_itself(program: Path) -> None:
    """Importing `engraft.tensorflow` imports TensorFlow, which enables Engraft, which is being imported."""
    program.write_text("import engraft.tensorflow\n" + PROGRAM.replace("assert", "#", 1))
    done = run(program, ENGRAFT_ENABLE="1")
    assert done.stdout == USED, done.stderr


def test_importing_engraft_imports_no_host() -> None:
    code = "import sys, engraft, engraft.onnxruntime; print('tensorflow' in sys.modules, 'onnxruntime' in sys.modules)"
    for environment in ({}, {"ENGRAFT_ENABLE": "1"}):
        assert run("-c", code, **environment).stdout == "False False\n"


def test_the_folder_of_plugins(program: Path, tmp_path: Path) -> None:
    """TensorFlow looks for it in every folder of packages."""
    packages = tmp_path / "site-packages"
    plugins = packages / "tensorflow-plugins"
    plugins.mkdir(parents=True)
    (plugins / "libengraft_tensorflow.so").symlink_to(engraft.tensorflow.get_library_path())
    program.write_text(PROGRAM.replace('if "engraft.tensorflow" in sys.modules:', "if True:"))
    done = run(program, PYTHONPATH=str(packages))
    assert (done.returncode, done.stdout) == (0, USED), done.stderr
