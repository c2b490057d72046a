"""Runs ONNX's backend test suite in worker processes: a case that takes its process down is an outcome like any other."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from backend import Assignment

# Forked, so that the cases, which take seconds to generate, are there in every worker.
CONTEXT = multiprocessing.get_context("fork")

# Seconds after which a case without an outcome counts as crashed.
PATIENCE = 120.0

HOST, ENGRAFT = "host", "engraft"


@dataclass
class Outcome:
    """How a case went with one provider: `error` is empty where it passed."""

    error: str = ""
    crashed: bool = False
    assignment: Assignment | None = None


@dataclass
class Case:
    """A case of the suite by category (`NodeModel`, ...) and name, and its outcome with the host alone and with Engraft."""

    category: str
    name: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.category}.{self.name}"

    @property
    def host(self) -> Outcome:
        return self.outcomes[HOST]

    @property
    def engraft(self) -> Outcome:
        return self.outcomes[ENGRAFT]

    @property
    def computed(self) -> bool:
        """The case passes, and Engraft runs a part of it at least."""
        assignment = self.engraft.assignment
        return not self.engraft.error and assignment is not None and assignment.engraft > 0

    @property
    def computed_whole(self) -> bool:
        """The case passes, and Engraft runs all of it."""
        return self.computed and self.engraft.assignment.whole


class Suite:
    """All cases whose models the `onnx` package generates or ships."""

    def __init__(self, models: str) -> None:
        """Models that the suite prepares for itself go to the folder `models`."""
        os.environ["ONNX_MODELS"] = models
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from onnx.backend.base import Backend
            from onnx.backend.test.runner import Runner

            class Late(Backend):
                """Stands for the backend that each worker makes: this process must not load ONNX Runtime."""

                @classmethod
                def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Any:
                    from backend import Host

                    return Host.prepare(model, device, **kwargs)

                @classmethod
                def supports_device(cls, device: str) -> bool:
                    return device == "CPU"

            with _double_transforms():
                self._classes = Runner(Late).test_cases
        self.cases = [
            Case(category.removeprefix("OnnxBackend").removesuffix("Test"), name.removesuffix("_cpu"))
            for category, functions in sorted(self._classes.items())
            for name in sorted(vars(functions))
            if name.startswith("test_") and name.endswith("_cpu")
        ]

    def run(self, processes: int) -> None:
        """Runs every case and fills its outcomes; each of the `processes` takes every n-th case."""
        workers = [_Worker(self, range(shard, len(self.cases), processes)) for shard in range(processes)]
        while running := {worker.pipe: worker for worker in workers if worker.todo}:
            ready = wait(list(running), timeout=PATIENCE)
            # Where none has news for so long, all hang.
            for pipe in ready or running:
                running[pipe].step(hangs=not ready)

    def try_case(self, index: int, provider: str) -> Outcome:
        """Runs a case in this process."""
        from backend import Host, engraft_device

        case = self.cases[index]
        Host.device = engraft_device() if provider == ENGRAFT else None
        Host.assignment = None
        functions = self._classes[f"OnnxBackend{case.category}Test"]
        error = ""
        try:
            getattr(functions(f"{case.name}_cpu"), f"{case.name}_cpu")()
        except Exception as caught:
            text = " ".join(str(caught).split())
            error = f"{type(caught).__name__}: {text[:400]}"
        return Outcome(error, assignment=Host.assignment)


class _Worker:
    """A process at work on the cases `todo`, one after the other with either provider; a new one where it dies."""

    def __init__(self, suite: Suite, indices: range) -> None:
        self.suite = suite
        self.todo = [(index, provider) for index in reversed(indices) for provider in (ENGRAFT, HOST)]
        self._start()

    def _start(self) -> None:
        self.pipe, theirs = CONTEXT.Pipe(duplex=False)
        arguments = (self.suite, list(reversed(self.todo)), theirs)
        self.process = CONTEXT.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def step(self, hangs: bool) -> None:
        """Takes one outcome from the process, or its death for one."""
        try:
            if hangs:
                raise TimeoutError(f"no outcome after {PATIENCE:.0f} s")
            outcome = self.pipe.recv()
        except (EOFError, TimeoutError) as caught:
            if hangs:
                self.process.kill()
            self.process.join()
            outcome = Outcome(str(caught) or f"exit status {self.process.exitcode}", crashed=True)
            if len(self.todo) > 1:
                # The case itself is taken from the list below.
                last = self.todo.pop()
                self._start()
                self.todo.append(last)
        index, provider = self.todo.pop()
        self.suite.cases[index].outcomes[provider] = outcome
        if not self.todo:
            self.process.join()


def _work(suite: Suite, todo: list[tuple[int, str]], pipe: Connection) -> None:
    with _quiet():
        for index, provider in todo:
            pipe.send(suite.try_case(index, provider))
        pipe.close()
        # Without the interpreter's farewell: what sessions hold ends with the process.
        os._exit(0)


@contextmanager
def _double_transforms() -> Iterator[None]:
    """Expected Fourier transforms are made in double precision, as numpy 1 made all; numpy 2 makes those of f32 in f32, which
    leaves 2e-7 where the truth is 0: more than a case allows."""
    kept = {name: getattr(np.fft, name) for name in ("fft", "ifft", "rfft", "irfft")}

    def widened(transform: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda x, *args, **kwargs: transform(x + np.float64(0), *args, **kwargs)

    try:
        for name, transform in kept.items():
            setattr(np.fft, name, widened(transform))
        yield
    finally:
        for name, transform in kept.items():
            setattr(np.fft, name, transform)


@contextmanager
def _quiet() -> Iterator[None]:
    """Cases print; a suite of thousands had better not."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout = nowhere
        yield
