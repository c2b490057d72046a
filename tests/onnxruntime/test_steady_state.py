"""What a run costs beside the computing: nothing is allocated, locked, copied or asked of the system."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime as ort
import pytest
from calls import ALLOCATION, LOCKS, SYSTEM, Library
from conftest import Engraft, library_path, refused
from models import convnet, mlp

RUNS = 10_000
THREADS = 8
WARM_UPS = 4


@pytest.fixture
def library(device: ort.OrtEpDevice) -> Library:
    return Library(library_path())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_runs_neither_allocate_nor_lock_nor_enter_the_system(
    engraft: Engraft, library: Library, name: str, threads: int
) -> None:
    """10,000 runs from 8 threads of one session, counted at the library's border to libc."""
    shapes = {"mlp": (4, 16), "convnet": (1, 3, 16, 16)}
    session, report = engraft.placed({"mlp": mlp, "convnet": convnet}[name](), threads=threads)
    assert refused(report) == {}
    inputs = {"x": np.random.default_rng(0).standard_normal(shapes[name]).astype(np.float32)}
    expected = session.run(None, inputs)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(RUNS // THREADS):
            if not np.array_equal(session.run(None, inputs)[0], expected[0]):
                wrong.append(index)

    def run() -> None:
        workers = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    # As many runs at once as never before make one more execution context: that may happen in the second round too.
    for _ in range(WARM_UPS):
        run()
        with library.counted([*ALLOCATION, *LOCKS, *SYSTEM]) as calls:
            run()
        if not calls:
            break
    assert not wrong
    assert not calls, dict(calls)


def test_the_counter_counts(engraft: Engraft, library: Library) -> None:
    """A shape that was never seen is planned, which allocates: the counter above would have told."""
    assert {"malloc", "free"} <= library.imports
    session, _ = engraft.placed(mlp())
    session.run(None, {"x": np.ones((3, 16), np.float32)})
    with library.counted(ALLOCATION) as calls:
        session.run(None, {"x": np.ones((5, 16), np.float32)})
    assert sum(calls[name] for name in ("malloc", "posix_memalign", "calloc", "aligned_alloc")) > 0


def test_inputs_and_outputs_are_not_copied(engraft: Engraft, library: Library) -> None:
    """Runs on bound memory move no tensor. (Kernels may pack rows of an operand; those are smaller.)"""
    session, report = engraft.placed(mlp())
    assert refused(report) == {}
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    y = np.zeros((64, 8), np.float32)
    bound = ort.OrtValue.ortvalue_from_numpy(y)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", bound)
    session.run_with_iobinding(binding)
    with library.counted(["memcpy", "memmove"], least=min(x.nbytes, y.nbytes)) as calls:
        session.run_with_iobinding(binding)
    assert not calls, dict(calls)
    assert np.array_equal(bound.numpy(), session.run(None, {"x": x})[0])
