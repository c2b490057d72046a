"""The operator `EngraftSegment` by itself: shapes, threads, places where TensorFlow runs it, and the way back to TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from values import assert_same

import engraft.tensorflow
from engraft.tensorflow import Converter, _freeze
from engraft.tensorflow._library import OPERATOR

OPERATORS = tf.load_op_library(engraft.tensorflow.get_library_path())
WEIGHT = np.linspace(-1, 1, 6, dtype=np.float32)


@tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, "x")])
def original(x: Any) -> Any:
    return tf.exp(tf.nn.relu(x * WEIGHT + 0.5) * 0.1) - tf.sqrt(tf.abs(x))


@pytest.fixture(scope="module")
def segment() -> bytes:
    """What a node carries that runs `original`."""
    converter = Converter(model=original, partition_policy="maximal", minimum_segment_size=1)
    graph = converter.convert().graph.as_graph_def()
    nodes = [node for node in _freeze._nodes(graph) if node.op == OPERATOR]
    assert len(nodes) == 1
    return bytes(nodes[0].attr["segment"].s)


NATIVE = tf.function(lambda x: tf.nn.relu(x * 3.0)).get_concrete_function(tf.TensorSpec(None, tf.float32))
"""Other results than the segment's, so that they can be told apart."""


def run(x: Any, segment: bytes, **attributes: Any) -> Any:
    return OPERATORS.engraft_segment(inputs=[x], Tout=[tf.float32], segment=segment, **attributes)[0]


def sample(*shape: int) -> np.ndarray:
    return np.random.randn(*shape).astype(np.float32)


@pytest.mark.parametrize("batch", [0, 1, 3, 8, 64])
def test_any_batch(segment: bytes, batch: int) -> None:
    x = sample(batch, 6)
    assert_same({"y": original(x)}, {"y": run(x, segment)})


def test_inputs_are_read_where_they_are(segment: bytes) -> None:
    """A slice begins at no multiple of a cache line."""
    sliced = tf.function(lambda x: run(x[1:], segment))
    x = sample(4, 6)
    assert_same({"y": original(x[1:])}, {"y": sliced(x)})


def test_a_refused_shape_runs_natively(segment: bytes, counted: Callable[[], dict[str, int]]) -> None:
    x = sample(2, 5)
    assert_same({"y": NATIVE(x)}, {"y": run(x, segment, native=[NATIVE])})
    assert counted() == {"engine": 0, "native": 1, "segments": 0}
    graph = tf.function(lambda x: run(x, segment, native=[NATIVE]))
    assert_same({"y": NATIVE(x)}, {"y": graph(x)})


def test_a_segment_that_cannot_be_read_runs_natively(segment: bytes) -> None:
    for damaged in (b"", segment[: len(segment) // 2], segment.replace(b"0.1.0", b"9.9.9", 1)[:60]):
        x = sample(2, 6)
        assert_same({"y": NATIVE(x)}, {"y": run(x, damaged, native=[NATIVE])})


def test_a_segment_of_another_build_is_built_from_its_original_nodes(
    segment: bytes, counted: Callable[[], dict[str, int]]
) -> None:
    other_build = segment.replace(b"0.1.0", b"9.9.9", 1)
    assert other_build != segment
    for batch in (2, 5, 0):
        x = sample(batch, 6)
        assert_same({"y": NATIVE(x)}, {"y": run(x, other_build, native=[NATIVE])})
    assert counted() == {"engine": 3, "native": 0, "segments": 0}


def test_original_nodes_that_have_become_strange_run_natively(segment: bytes, fresh: Callable[..., str], tmp_path: Any) -> None:
    """What this build would not take, whatever another did."""
    (tmp_path / "segment").write_bytes(segment.replace(b"0.1.0", b"9.9.9", 1))
    told = fresh(
        f"""
        import pathlib, tensorflow as tf, engraft.tensorflow
        from engraft.tensorflow import _library
        operators = tf.load_op_library(engraft.tensorflow.get_library_path())
        segment = pathlib.Path({str(tmp_path / "segment")!r}).read_bytes()
        native = tf.function(lambda x: tf.linalg.inv(x)).get_concrete_function(tf.TensorSpec(None, tf.float32))
        operators.engraft_segment(inputs=[tf.eye(3)], Tout=[tf.float32], segment=segment, native=[native])
        print(_library.counts())
        """
    )
    assert "'engine': 0, 'native': 1" in told and "written by Engraft 9.9.9" in told and "MatrixInverse" in told, told


def test_native_nodes_do_not_wait_for_threads(segment: bytes) -> None:
    """More nodes at once than TensorFlow has threads."""
    wide = tf.function(lambda x: tf.add_n([run(x + float(i), segment, native=[NATIVE]) for i in range(40)]))
    x = sample(2, 5)
    assert_same({"y": sum(NATIVE(x + float(i)) for i in range(40))}, {"y": wide(x)})


def test_the_reason_is_told_once(fresh: Callable[..., str]) -> None:
    told = fresh(
        """
        import numpy as np, tensorflow as tf, engraft.tensorflow
        operators = tf.load_op_library(engraft.tensorflow.get_library_path())
        native = tf.function(lambda x: x + 1.0).get_concrete_function(tf.TensorSpec(None, tf.float32))
        f = tf.function(lambda x: operators.engraft_segment(inputs=[x], Tout=[tf.float32], segment=b"?", native=[native])[0])
        for _ in range(5):
            assert f(tf.ones([2]))[0] == 2
        """
    )
    assert told.count("left to TensorFlow's own kernels") == 1, told


def test_without_a_way_back_the_error_names_the_segment(segment: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{OPERATOR} `.*`: .*axis 1 is 5, not 6"):
        run(sample(2, 5), segment)
    with pytest.raises(tf.errors.InvalidArgumentError, match="written by Engraft 9.9.9"):
        run(sample(2, 6), segment.replace(b"0.1.0", b"9.9.9", 1))


def test_xla_says_which_operator_it_lacks(segment: bytes) -> None:
    compiled = tf.function(lambda x: run(x, segment), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=OPERATOR):
        compiled(sample(2, 6))


def test_gradients_are_refused_in_words(segment: bytes) -> None:
    variable = tf.Variable(sample(2, 6))
    with pytest.raises(LookupError, match="train the original model"):
        with tf.GradientTape() as tape:
            y = run(variable, segment)
        tape.gradient(y, variable)


def test_in_data_pipelines(segment: bytes) -> None:
    x = sample(20, 2, 6)
    data = tf.data.Dataset.from_tensor_slices(x).map(lambda row: run(row, segment), num_parallel_calls=4)
    assert_same({"y": np.stack([original(row) for row in x])}, {"y": np.stack(list(data.as_numpy_iterator()))})
    refused = sample(20, 2, 5)
    data = tf.data.Dataset.from_tensor_slices(refused).map(lambda row: run(row, segment, native=[NATIVE]))
    assert_same({"y": NATIVE(refused)}, {"y": np.stack(list(data.as_numpy_iterator()))})


def test_many_threads_at_once(segment: bytes) -> None:
    graph = tf.function(lambda x: run(x, segment), input_signature=[tf.TensorSpec([None, 6], tf.float32)])
    samples = [sample(batch, 6) for batch in range(1, 9)]
    expected = [original(x).numpy() for x in samples]
    failures: list[BaseException] = []

    def serve(number: int) -> None:
        try:
            for call in range(200):
                index = (number + call) % len(samples)
                np.testing.assert_allclose(graph(samples[index]), expected[index], rtol=1e-5, atol=1e-5)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_follow_tensorflows_setting(segment: bytes, fresh: Callable[..., str], tmp_path: Any, threads: int) -> None:
    (tmp_path / "segment").write_bytes(segment)
    printed = fresh(
        f"""
        import pathlib, tensorflow as tf
        tf.config.threading.set_intra_op_parallelism_threads({threads})
        import engraft.tensorflow
        operators = tf.load_op_library(engraft.tensorflow.get_library_path())
        segment = pathlib.Path({str(tmp_path / "segment")!r}).read_bytes()
        operators.engraft_segment(inputs=[tf.ones([2, 6])], Tout=[tf.float32], segment=segment)
        names = [task.joinpath("comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
        print("own threads:", sum(name.startswith("engraft-") for name in names))
        """
    )
    # The calling thread is one of them.
    assert f"own threads: {threads - 1}" in printed


def test_engines_that_must_not_be_built_are_not(segment: bytes, fresh: Callable[..., str], tmp_path: Any) -> None:
    (tmp_path / "segment").write_bytes(segment)

    def served(build: bool) -> str:
        program = f"""
            import pathlib, tensorflow as tf, engraft.tensorflow
            from engraft.tensorflow import _library
            operators = tf.load_op_library(engraft.tensorflow.get_library_path())
            segment = pathlib.Path({str(tmp_path / "segment")!r}).read_bytes()
            native = tf.function(lambda x: x).get_concrete_function(tf.TensorSpec(None, tf.float32))
            operators.engraft_segment(
                inputs=[tf.ones([2, 6])], Tout=[tf.float32], segment=segment, native=[native], allow_build={build})
            print(_library.counts())
        """
        return fresh(program, ENGRAFT_CACHE_DIR=str(tmp_path / "cache"))

    assert "must not be built now" in served(build=False)
    assert "'engine': 1, 'native': 0" in served(build=True)
    assert "'engine': 1, 'native': 0" in served(build=False)
