"""Child processes of programs that use Engraft: forked, spawned, pre-forked servers' workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, os, sys
import numpy as np

MODEL, METHOD = sys.argv[1:3]

def work(rows):
    import onnxruntime
    session = onnxruntime.InferenceSession(MODEL)
    y = session.run(None, {"x": np.ones((rows, 64), np.float32)})[0]
    return session.get_providers()[0], y.shape

if __name__ == "__main__":
    if METHOD in ("fork", "used"):
        import onnxruntime  # what a server loads before it forks
    if METHOD == "used":
        print(*work(1))
    method = "spawn" if METHOD == "spawn" else "fork"
    with multiprocessing.get_context(method).Pool(2) as pool:
        for result in pool.map(work, [1, 2, 3]):
            print(*result)
"""

PREFORK = """
import os, sys
import engraft.onnxruntime
import numpy as np
import onnxruntime

engraft.onnxruntime.enable(min_subgraph_size=2)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
onnxruntime.InferenceSession(sys.argv[1], options).run(None, {"x": np.ones((2, 64), np.float32)})
workers = []
for index in range(4):
    if (pid := os.fork()) == 0:
        session = onnxruntime.InferenceSession(sys.argv[1], options)
        for rows in range(1, 20):
            session.run(None, {"x": np.ones((rows, 64), np.float32)})
        os._exit(0 if session.get_providers()[0] == "EngraftExecutionProvider" else 3)
    workers.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers))
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if key != "ENGRAFT_ENABLE"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, env=plain | environment, check=False
    )


@pytest.mark.parametrize("method", ["fork", "used", "spawn"])
def test_workers_of_a_program(tmp_path: Path, model: Path, method: str) -> None:
    program = tmp_path / "app.py"
    program.write_text(PROGRAM)
    done = run("-m", "engraft", "-o", "min_subgraph_size=2", str(program), str(model), method)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == (4 if method == "used" else 3), done.stdout
    assert all(line.startswith("EngraftExecutionProvider (") for line in lines), done.stdout + done.stderr


def test_workers_of_a_server_that_forks_after_its_first_run(tmp_path: Path, model: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(PREFORK)
    done = run(str(program), str(model))
    assert done.returncode == 0, done.stderr


SHOW = "import onnxruntime, sys; print(onnxruntime.InferenceSession(sys.argv[1]).get_providers()[0])"


@pytest.mark.parametrize(
    ("value", "provider", "words"),
    [
        ("1", "EngraftExecutionProvider", ""),
        (json.dumps({"min_subgraph_size": "2"}), "EngraftExecutionProvider", ""),
        ("0", "CPUExecutionProvider", ""),
        ("", "CPUExecutionProvider", ""),
        ("yes please", "CPUExecutionProvider", "running without Engraft: ENGRAFT_ENABLE"),
        (json.dumps({"colour": "red"}), "CPUExecutionProvider", "unknown option 'colour'"),
    ],
)
def test_the_variable_alone(model: Path, value: str, provider: str, words: str) -> None:
    # Without Engraft the provider that the plain session lists first is the CPU's, or the build's own first choice.
    done = run("-c", SHOW, str(model), ENGRAFT_ENABLE=value)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip() == "EngraftExecutionProvider") == (provider == "EngraftExecutionProvider"), done
    assert words in done.stderr if words else "Engraft" not in done.stderr


def test_programs_without_onnxruntime_do_not_load_it() -> None:
    done = run("-c", "import sys, json; print('onnxruntime' in sys.modules)", ENGRAFT_ENABLE="1")
    assert done.stdout == "False\n", done


def test_disable_is_inherited_too(model: Path) -> None:
    code = "import engraft.onnxruntime as e, subprocess, sys; e.enable(); e.disable(); "
    code += f"print(subprocess.check_output([sys.executable, '-c', {SHOW!r}, sys.argv[1]], text=True))"
    assert "Engraft" not in run("-c", code, str(model)).stdout
