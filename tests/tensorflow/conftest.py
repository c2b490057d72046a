"""TensorFlow with Engraft's operator loaded, and what the tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow as tf

import engraft.tensorflow
from engraft.tensorflow import _library


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(7)
    tf.random.set_seed(7)


@pytest.fixture
def counted() -> Callable[[], dict[str, int]]:
    """What happened since the last call of this function."""
    before = _library.counts()

    def since() -> dict[str, int]:
        nonlocal before
        now = _library.counts()
        difference = {key: now[key] - before[key] for key in now}
        before = now
        return difference

    return since


@pytest.fixture
def enabled() -> Iterator[Callable[..., bool]]:
    """`engraft.tensorflow.enable` until the end of the test."""
    yield engraft.tensorflow.enable
    engraft.tensorflow.disable()


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., str]:
    """Runs a program in a process of its own, and returns what it printed."""

    def run(program: str, expect: int = 0, **environment: str) -> str:
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(program))
        variables = {**os.environ, **environment}
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=variables, timeout=300)
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    return run
