"""Models written by `engraft convert`, in an ONNX Runtime without the plugin interface: only the custom operator serves it.

ENGRAFT_CLI names the command, ENGRAFT_ORT_LIBRARY the library if it is not the installed wheel's.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

RELEASE = tuple(map(int, ort.__version__.split(".")[:2]))
CLI = os.environ.get("ENGRAFT_CLI", "target/debug/engraft")


def library_path() -> str:
    if path := os.environ.get("ENGRAFT_ORT_LIBRARY"):
        return str(Path(path).resolve())
    import engraft.onnxruntime

    return engraft.onnxruntime.get_library_path()


def value(name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((np.random.default_rng(len(name)).standard_normal(shape) / 4).astype(np.float32), name)


def made(nodes: list[onnx.NodeProto], inputs: list, outputs: list, weights: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def whole() -> onnx.ModelProto:
    node = helper.make_node
    return made(
        [
            node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ],
        [value("x", ["N", 3, 8, 8])],
        [value("y", ["N", 16])],
        [weight("w", 16, 3, 3, 3), weight("b", 16)],
    )


def parted() -> onnx.ModelProto:
    """Segments around a node that stays, with a weight that all read, an integer output and unsorted nodes."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("RandomUniformLike", ["b"], ["noise"], low=0.0, high=0.0),
        node("Add", ["b", "noise"], ["c"]),
        node("MatMul", ["c", "w"], ["d"]),
        node("Tanh", ["d"], ["y"]),
        node("ArgMax", ["y"], ["i"], axis=-1, keepdims=0),
    ]
    outputs = [value("y", ["N", 16]), value("i", ["N"], TensorProto.INT64), value("b", ["N", 16])]
    return made(nodes, [value("x", ["N", 16])], outputs, [weight("w", 16, 16)])


def bodies() -> onnx.ModelProto:
    """An `If` whose branches read a segment's result and a weight that a segment reads as well."""
    node = helper.make_node
    then = helper.make_graph([node("MatMul", ["h", "w"], ["t"])], "then", [], [value("t", ["N", 16])])
    other = helper.make_graph([node("Neg", ["h"], ["e"])], "else", [], [value("e", ["N", 16])])
    return made(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Sigmoid", ["m"], ["h"]),
            node("If", ["go"], ["z"], then_branch=then, else_branch=other),
            node("Add", ["z", "h"], ["y"]),
        ],
        [value("go", [], TensorProto.BOOL), value("x", ["N", 16])],
        [value("y", ["N", 16])],
        [weight("w", 16, 16)],
    )


RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((5, 16)).astype(np.float32)
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, np.ndarray], int]] = {
    "whole": (whole, {"x": RANDOM.standard_normal((3, 3, 8, 8)).astype(np.float32)}, 1),
    "parted": (parted, {"x": ROWS}, 2),
    "bodies": (bodies, {"go": np.array(True), "x": ROWS}, 1),
}


def convert(model: Path, target: Path, *options: str) -> dict:
    command = [CLI, "--json", "convert", str(model), str(target), "--option", "partition_policy=maximal"]
    command += [part for option in options for part in ("--option", option)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def session(model: Path, *, threads: int = 2, library: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(library_path())
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def agree(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray], int]:
    make, inputs, segments = MODELS[request.param]
    model, target = tmp_path / "model.onnx", tmp_path / "converted.onnx"
    onnx.save(make(), model)
    return model, target, inputs, segments


@pytest.mark.parametrize("threads", [1, 2])
def test_converted_models_agree(case: tuple[Path, Path, dict[str, np.ndarray], int], threads: int) -> None:
    model, target, inputs, segments = case
    report = convert(model, target)
    converted = onnx.load(target)
    nodes = [node for node in converted.graph.node if node.domain == "ai.engraft"]
    assert len(nodes) == len(report["segments"]) == segments and not report["kept"]
    expected = session(model, library=False).run(None, inputs)
    serving = session(target, threads=threads)
    for _ in range(3):
        agree(serving.run(None, inputs), expected)


def test_the_original_nodes_are_kept(case: tuple[Path, Path, dict[str, np.ndarray], int]) -> None:
    """Each node's model is one that ONNX's checker takes and ONNX Runtime runs."""
    model, target, _, _ = case
    convert(model, target)
    for node in onnx.load(target).graph.node:
        if node.domain == "ai.engraft":
            text = next(a.s for a in node.attribute if a.name == "model")
            kept = onnx.load_from_string(text)
            onnx.checker.check_model(kept)
            assert [i.name for i in kept.graph.input] == list(node.input)
            assert [o.name for o in kept.graph.output] == list(node.output)
            ort.InferenceSession(text, providers=["CPUExecutionProvider"])


def test_the_host_runs_what_cannot_be_built(case: tuple[Path, Path, dict[str, np.ndarray], int]) -> None:
    model, target, inputs, _ = case
    convert(model, target)
    converted = onnx.load(target)
    for node in converted.graph.node:
        for attribute in node.attribute:
            if attribute.name == "options":
                attribute.s = b'{"colour": "red"}'
    onnx.save(converted, target)
    if RELEASE < (1, 24):
        # Before that, Python's own environment keeps sessions inside of operators from being made.
        with pytest.raises(Exception, match="unknown option 'colour'.*nor run by the host's kernels"):
            session(target)
        return
    agree(session(target).run(None, inputs), session(model, library=False).run(None, inputs))


def test_eight_threads(tmp_path: Path) -> None:
    onnx.save(parted(), tmp_path / "model.onnx")
    convert(tmp_path / "model.onnx", tmp_path / "converted.onnx")
    serving, plain = session(tmp_path / "converted.onnx"), session(tmp_path / "model.onnx", library=False)
    failures: list[BaseException] = []

    def work(index: int) -> None:
        random = np.random.default_rng(index)
        try:
            for _ in range(50):
                x = random.standard_normal((random.integers(1, 9), 16)).astype(np.float32)
                agree(serving.run(None, {"x": x}), plain.run(None, {"x": x}))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_external_data_moves_into_the_model(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    onnx.save(
        bodies(), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    convert(tmp_path / "in" / "m.onnx", tmp_path / "converted.onnx")
    inputs = {"go": np.array(True), "x": ROWS}
    expected = session(tmp_path / "in" / "m.onnx", library=False).run(None, inputs)
    agree(session(tmp_path / "converted.onnx").run(None, inputs), expected)


def test_models_without_segments_are_unchanged_in_meaning(tmp_path: Path) -> None:
    onnx.save(parted(), tmp_path / "m.onnx")
    report = convert(tmp_path / "m.onnx", tmp_path / "c.onnx", "op_types_to_exclude=MatMul,Relu,Add,Tanh,ArgMax")
    assert report["segments"] == [] and report["flops_share"] == 0
    agree(
        session(tmp_path / "c.onnx", library=False).run(None, {"x": ROWS}),
        session(tmp_path / "m.onnx", library=False).run(None, {"x": ROWS}),
    )


def test_a_session_without_the_library_says_what_is_missing(tmp_path: Path) -> None:
    onnx.save(whole(), tmp_path / "m.onnx")
    convert(tmp_path / "m.onnx", tmp_path / "c.onnx")
    with pytest.raises(Exception, match="ai.engraft"):
        session(tmp_path / "c.onnx", library=False)
