"""A process that holds one session and runs it on command, so that contenders can be interleaved.

The other side, `Worker`, keeps its process stopped (SIGSTOP) whenever it is not its turn: the spinning threads of an
idle contender would otherwise take the processor from the one that is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from peers import Peer


class WorkerError(RuntimeError):
    """What a worker could not do, with its own traceback."""


@dataclass(frozen=True)
class Setting:
    """What a worker runs: a peer's session of `model` on the processors `cpus`, one thread on each."""

    peer: Peer
    model: Path
    inputs: dict[str, np.ndarray]
    cpus: tuple[int, ...]
    cache: Path
    report: Path | None = None


@dataclass(frozen=True)
class Created:
    """How a session came to be, in a process that did nothing else before."""

    seconds: float
    """Wall time of creating the session, the runtime being imported and plugins registered."""
    resident_before: int
    """Bytes of physical memory of the process before."""


class Worker:
    """The controlling side of a worker process."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, setting), daemon=True)
        self._process.start()
        other.close()
        self._name = f"{setting.peer.name} on {setting.model.stem}"
        self.created: Created = self._answer()

    def outputs(self) -> list[np.ndarray]:
        """The outputs of one run."""
        return self._ask("outputs")

    def run(self, seconds: float) -> list[float]:
        """Seconds of each of as many runs as fit into `seconds`, at least one."""
        return self._ask("run", seconds)

    def peak_memory(self) -> int:
        """The most bytes of physical memory that the process ever held."""
        return self._ask("peak_memory")

    def close(self) -> None:
        """Ends the process."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, *request: Any) -> Any:
        os.kill(self._process.pid, signal.SIGCONT)
        self._connection.send(request)
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(f"{self._name}: the process died, exit status {self._process.exitcode}") from None
        if kind == "error":
            raise WorkerError(f"{self._name}:\n{value}")
        os.kill(self._process.pid, signal.SIGSTOP)
        return value


def _serve(connection: Connection, setting: Setting) -> None:
    try:
        _Server(connection, setting).serve()
    except Exception:
        connection.send(("error", traceback.format_exc()))


class _Server:
    def __init__(self, connection: Connection, setting: Setting) -> None:
        os.sched_setaffinity(0, setting.cpus)
        os.environ["ENGRAFT_CACHE_DIR"] = str(setting.cache)
        setting.peer.prepare()
        self._connection = connection
        self._inputs = setting.inputs
        before = _memory("VmRSS")
        start = time.perf_counter()
        self._session = setting.peer.session(setting.model, len(setting.cpus), setting.report)
        connection.send(("done", Created(time.perf_counter() - start, before)))

    def serve(self) -> None:
        handlers = {
            "outputs": lambda: self._session.run(None, self._inputs),
            "run": self._run,
            "peak_memory": lambda: _memory("VmHWM"),
        }
        while True:
            try:
                name, *arguments = self._connection.recv()
            except EOFError:
                return
            self._connection.send(("done", handlers[name](*arguments)))

    def _run(self, seconds: float) -> list[float]:
        run, inputs, clock = self._session.run, self._inputs, time.perf_counter
        times = []
        end = clock() + seconds
        while not times or clock() < end:
            start = clock()
            run(None, inputs)
            times.append(clock() - start)
        return times


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def distinct_cpus(count: int) -> tuple[int, ...]:
    """`count` processors of this process's affinity, on different cores as long as there are some."""
    allowed = sorted(os.sched_getaffinity(0))
    first_of_core, others, seen = [], [], set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text() if siblings.exists() else str(cpu)
        (others if core in seen else first_of_core).append(cpu)
        seen.add(core)
    ordered = first_of_core + others
    if count > len(ordered):
        raise ValueError(f"{count} threads asked for, this process may use {len(ordered)} processors")
    return tuple(ordered[:count])
