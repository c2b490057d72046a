"""Many threads, many sessions, both execution modes, and memory that the caller provides."""

from __future__ import annotations

import threading

import numpy as np
import onnxruntime as ort
import pytest
from conftest import Engraft, assert_same, reference, refused
from models import convnet, mlp


def run_everywhere(count: int, work: object) -> None:
    """Runs `work(index)` on `count` threads; the first failure fails the test."""
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_one_session(engraft: Engraft, threads: int) -> None:
    made = mlp()
    session, report = engraft.placed(made, threads=threads)
    assert refused(report) == {}
    plain = reference(made)

    def work(index: int) -> None:
        random = np.random.default_rng(index)
        for _ in range(100):
            x = random.standard_normal((random.integers(0, 24), 16)).astype(np.float32)
            assert_same(session.run(None, {"x": x}), plain.run(None, {"x": x}))

    run_everywhere(8, work)


def test_sessions_created_and_used_at_once(engraft: Engraft) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)

    def work(index: int) -> None:
        made = convnet(seed=10 * (index % 2))
        session = engraft.session(made, {"partition_policy": "maximal"})
        assert_same(session.run(None, {"x": x}), reference(made).run(None, {"x": x}))

    run_everywhere(6, work)


def test_two_models_of_equal_names_differ_in_weights(engraft: Engraft) -> None:
    """The cache must not mix them up, in either order, in this process or from disk."""
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    for seed in (0, 50, 0, 50):
        made = mlp(seed=seed)
        session, _ = engraft.placed(made)
        engraft.agree(session, made, {"x": x})


def test_a_session_survives_another_ones_end(engraft: Engraft) -> None:
    made = mlp()
    first, _ = engraft.placed(made)
    second, _ = engraft.placed(made)
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    engraft.agree(first, made, {"x": x})
    del first
    engraft.agree(second, made, {"x": x})


def test_parallel_execution_mode(engraft: Engraft) -> None:
    made = mlp()
    options = engraft.options({"partition_policy": "maximal"})
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.inter_op_num_threads = 2
    session = ort.InferenceSession(made.SerializeToString(), options, enable_fallback=0)
    for count in (3, 1):
        engraft.agree(session, made, {"x": np.ones((count, 16), np.float32)})


def test_outputs_are_written_in_place(engraft: Engraft) -> None:
    made = mlp()
    session, report = engraft.placed(made)
    assert refused(report) == {}
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    y = np.zeros((4, 8), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    bound = ort.OrtValue.ortvalue_from_numpy(y)
    binding.bind_ortvalue_output("y", bound)
    for _ in range(3):
        session.run_with_iobinding(binding)
    assert_same([bound.numpy()], reference(made).run(None, {"x": x}))


def test_unaligned_inputs(engraft: Engraft) -> None:
    made = mlp()
    session, _ = engraft.placed(made)
    for offset in (4, 20, 60):
        raw = np.zeros(4 * 16 * 4 + 64, np.uint8)
        x = raw[offset : offset + 4 * 16 * 4].view(np.float32).reshape(4, 16)
        x[:] = np.random.default_rng(offset).standard_normal(x.shape)
        engraft.agree(session, made, {"x": x})
