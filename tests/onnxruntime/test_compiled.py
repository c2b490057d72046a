"""Models compiled ahead of time: `EPContext` nodes, written and read back in every way that ONNX Runtime has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import EP_NAME, Engraft, assert_same, library_path, reference
from models import branches, convnet, mlp
from onnx import helper
from onnxruntime.capi import _pybind_state as host

RANDOM = np.random.default_rng(0)
LEVELS = ort.GraphOptimizationLevel


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def split() -> onnx.ModelProto:
    """Two segments with a node between them that stays with the host."""
    made = mlp()
    made.graph.node[-1].output[0] = "p"
    made.graph.node.extend(
        [
            helper.make_node("RandomUniformLike", ["p"], ["r"], low=0.0, high=0.0, seed=1.0),
            helper.make_node("Add", ["p", "r"], ["q"]),
            helper.make_node("MatMul", ["q", "w3"], ["t"]),
            helper.make_node("Tanh", ["t"], ["y"]),
        ]
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(normal(8, 8), "w3"))
    return made


def conditional() -> onnx.ModelProto:
    """An `If` whose branches read nothing but a value around them."""
    made = branches()
    (choice,) = (node for node in made.graph.node if node.op_type == "If")
    for attribute, op_type in zip(choice.attribute, ["Relu", "Neg"], strict=True):
        body = attribute.g
        result = body.output[0].name
        del body.node[:], body.initializer[:]
        body.node.append(helper.make_node(op_type, ["x"], [result]))
    return made


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, np.ndarray]]] = {
    "mlp": (mlp, {"x": normal(5, 16)}),
    "convnet": (convnet, {"x": normal(2, 3, 16, 16)}),
    "conditional": (conditional, {"condition": np.array(True), "x0": normal(3, 16)}),
    "split": (split, {"x": normal(5, 16)}),
}


def write_by_options(engraft: Engraft, model: Path, compiled: Path, embed: bool) -> ort.InferenceSession:
    config = {
        "ep.context_enable": "1",
        "ep.context_embed_mode": str(int(embed)),
        "ep.context_file_path": str(compiled),
    }
    return engraft.session(model, {"partition_policy": "maximal"}, config=config)


def write_by_compiler(engraft: Engraft, model: Path, compiled: Path, embed: bool) -> None:
    options = engraft.options({"partition_policy": "maximal"})
    ort.ModelCompiler(options, str(model), embed_compiled_data_into_model=embed).compile_to_file(str(compiled))


def compiled_nodes(path: Path) -> list[dict[str, Any]]:
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "EPContext"]
    return [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in nodes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.mark.parametrize("embed", [True, False], ids=["embedded", "beside"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip_by_session_options(engraft: Engraft, folder: Path, name: str, embed: bool) -> None:
    make, inputs = MODELS[name]
    onnx.save(make(), folder / "m.onnx")
    first = write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", embed)
    expected = first.run(None, inputs)
    assert_same(expected, reference(folder / "m.onnx").run(None, inputs))
    nodes = compiled_nodes(folder / "c.onnx")
    assert len(nodes) == (2 if name in ("conditional", "split") else 1)
    plans = sorted(path.name for path in folder.iterdir() if path.suffix == ".plan")
    assert plans == ([] if embed else sorted(node["ep_cache_context"].decode() for node in nodes))
    # Elsewhere, without the original and without a cache.
    moved = folder.parent / "moved"
    moved.mkdir()
    for file in folder.iterdir():
        if file.name != "m.onnx":
            shutil.copy(file, moved)
    session, report = engraft.placed(moved / "c.onnx", {"engine_cache_enable": "0"})
    assert sum(node["segment"] is not None for node in report["nodes"] if node["op_type"] == "EPContext") == len(nodes)
    assert all(np.array_equal(a, e) for a, e in zip(session.run(None, inputs), expected, strict=True))


@pytest.mark.parametrize("embed", [True, False], ids=["embedded", "beside"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip_by_model_compiler(engraft: Engraft, folder: Path, name: str, embed: bool) -> None:
    make, inputs = MODELS[name]
    onnx.save(make(), folder / "m.onnx")
    write_by_compiler(engraft, folder / "m.onnx", folder / "c.onnx", embed)
    assert compiled_nodes(folder / "c.onnx")
    # The compiler hands over the graph as it is.
    same = engraft.session(folder / "m.onnx", {"partition_policy": "maximal"}, level=LEVELS.ORT_DISABLE_ALL)
    expected = same.run(None, inputs)
    assert_same(expected, reference(folder / "m.onnx").run(None, inputs))
    for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):
        session = engraft.session(folder / "c.onnx", {"engine_cache_enable": "0"}, level=level)
        assert all(np.array_equal(a, e) for a, e in zip(session.run(None, inputs), expected, strict=True))


def test_what_the_host_cannot_write_is_said(engraft: Engraft, folder: Path) -> None:
    """ONNX Runtime loses the constants of bodies when it writes a compiled model."""
    onnx.save(branches(), folder / "m.onnx")
    for write in (write_by_options, write_by_compiler):
        with pytest.raises(Exception, match="compiled models whose control flow reads constants.*If"):
            write(engraft, folder / "m.onnx", folder / "c.onnx", True)


def filtered() -> onnx.ModelProto:
    """A layer whose filters are several times larger packed than raw."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64, 28, 28]) for name in "xy")
    weights = onnx.numpy_helper.from_array(normal(64, 64, 3, 3), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "filtered", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_embedded_plans_hold_weights_once(engraft: Engraft, folder: Path) -> None:
    onnx.save(filtered(), folder / "m.onnx")
    first = write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    assert (folder / "c.onnx").stat().st_size < 2 * (folder / "m.onnx").stat().st_size
    inputs = {"x": normal(1, 64, 28, 28)}
    loaded = engraft.session(folder / "c.onnx", {"engine_cache_enable": "0"})
    assert np.array_equal(loaded.run(None, inputs)[0], first.run(None, inputs)[0])


def test_embedded_plans_are_read_from_the_models_file_where_it_is_what_was_loaded(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    compiled = (folder / "c.onnx").read_bytes()
    (node,) = compiled_nodes(folder / "c.onnx")
    plan = node["ep_cache_context"]
    at = compiled.index(plan)
    inputs = {"x": normal(4, 16)}
    # The host has the bytes, the file is damaged, another model, gone: what the host has counts.
    for content in (compiled, compiled[: at + 5000] + bytes([compiled[at + 5000] ^ 1]) + compiled[at + 5001 :], b"other", None):
        if content is None:
            (folder / "c.onnx").unlink()
        else:
            (folder / "c.onnx").write_bytes(content)
        options = engraft.options(config={"ep.context_file_path": str(folder / "c.onnx")})
        engraft.agree(ort.InferenceSession(compiled, options, enable_fallback=0), mlp(), inputs)
    # The host has damaged bytes.
    (folder / "d.onnx").write_bytes(compiled[: at + 5000] + bytes([compiled[at + 5000] ^ 1]) + compiled[at + 5001 :])
    with pytest.raises(Exception, match="damaged"):
        engraft.session(folder / "d.onnx")


def test_bytes_to_bytes(engraft: Engraft) -> None:
    options = engraft.options({"partition_policy": "maximal"})
    compiler = ort.ModelCompiler(options, mlp().SerializeToString(), embed_compiled_data_into_model=True)
    compiled = compiler.compile_to_bytes()
    session = ort.InferenceSession(compiled, engraft.options(), enable_fallback=0)
    engraft.agree(session, mlp(), {"x": normal(4, 16)})


def test_plans_of_a_model_given_as_bytes_are_found_by_the_context_path(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_compiler(engraft, folder / "m.onnx", folder / "c.onnx", False)
    compiled = (folder / "c.onnx").read_bytes()
    with pytest.raises(Exception, match="ep.context_file_path"):
        ort.InferenceSession(compiled, engraft.options(), enable_fallback=0)
    options = engraft.options(config={"ep.context_file_path": str(folder / "c.onnx")})
    engraft.agree(ort.InferenceSession(compiled, options, enable_fallback=0), mlp(), {"x": normal(4, 16)})


def test_a_compiled_model_is_compiled_again(engraft: Engraft, folder: Path) -> None:
    """Plans that lie beside a model move into it."""
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", False)
    write_by_options(engraft, folder / "c.onnx", folder / "d.onnx", True)
    assert compiled_nodes(folder / "d.onnx" if (folder / "d.onnx").exists() else folder / "c.onnx")


def test_strict_mode_counts_compiled_segments(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    _, report = engraft.placed(folder / "c.onnx", {"min_accelerated_flops": "0.99"})
    (node,) = report["nodes"]
    assert node["op_type"] == "EPContext" and node["flops"] > 0 and report["accelerated_flops"] == 1


def test_option_sets_are_compared(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    # What the session does not say is as it was compiled.
    engraft.session(folder / "c.onnx")
    engraft.session(folder / "c.onnx", {"partition_policy": "maximal", "builder_optimization_level": "3"})
    for options, field in [
        ({"op_types_to_exclude": "Softmax"}, "op_types_to_exclude"),
        ({"partition_policy": "profit"}, "partition_policy"),
    ]:
        with pytest.raises(Exception, match=f"compiled for {field}"):
            engraft.session(folder / "c.onnx", options)
    # Segments that stay what they are can be built again while the original is there.
    inputs = {"x": normal(4, 16)}
    (folder / "moved").mkdir()
    for options, field in [
        ({"builder_optimization_level": "0"}, "builder_optimization_level"),
        ({"profile_opt_shapes": "x:4x16"}, "profile_opt_shapes"),
    ]:
        engraft.agree(engraft.session(folder / "c.onnx", options), mlp(), inputs)
        (folder / "m.onnx").rename(folder / "moved" / "m.onnx")
        with pytest.raises(Exception, match=f"compiled for {field}.*m.onnx is not at hand"):
            engraft.session(folder / "c.onnx", options)
        (folder / "moved" / "m.onnx").rename(folder / "m.onnx")
    onnx.save(mlp(seed=7), folder / "m.onnx")
    with pytest.raises(Exception, match="compiled for builder_optimization_level.*not the model that was compiled any more"):
        engraft.session(folder / "c.onnx", {"builder_optimization_level": "0"})


LOAD = """
import sys, numpy as np, onnxruntime as ort
ort.register_execution_provider_library("engraft", sys.argv[1])
devices = [d for d in ort.get_ep_devices() if d.ep_name == "EngraftExecutionProvider"]
options = ort.SessionOptions()
options.add_provider_for_devices(devices[:1], {"engine_cache_enable": "0"})
session = ort.InferenceSession(sys.argv[2], options, enable_fallback=0)
inputs = dict(np.load(sys.argv[3]))
np.savez(sys.argv[4], *session.run(None, inputs))
"""


@pytest.mark.parametrize("embed", [True, False], ids=["embedded", "beside"])
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_for_other_instructions_is_built_again_or_refused_by_field(
    engraft: Engraft, folder: Path, name: str, embed: bool
) -> None:
    make, inputs = MODELS[name]
    onnx.save(make(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", embed)
    np.savez(folder / "inputs.npz", **inputs)
    files = [str(folder / name) for name in ("c.onnx", "inputs.npz", "outputs.npz")]
    command = [sys.executable, "-c", LOAD, library_path(), *files]

    def load(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    for variables, warnings in [({}, 0), ({"ENGRAFT_ISA": "portable"}, len(compiled_nodes(folder / "c.onnx")))]:
        done = load(**variables)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("was compiled for isa ") == warnings, done.stderr
        assert done.stderr.count("this is portable: it is built again from ") == warnings, done.stderr
        results = np.load(folder / "outputs.npz")
        assert_same(list(results.values()), reference(folder / "m.onnx").run(None, inputs))
    (folder / "m.onnx").unlink()
    done = load(ENGRAFT_ISA="portable")
    assert done.returncode == 1
    assert "it was compiled for isa " in done.stderr and "this is portable" in done.stderr, done.stderr


def test_damaged_plans_are_refused(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", False)
    (plan,) = folder.glob("*.plan")
    whole = plan.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content, words in [
        (b"", "compiled node"),
        (b"no plan", "compiled node"),
        (whole[:-7], "compiled node"),
        (bytes(flipped), "damaged"),
    ]:
        plan.write_bytes(content)
        with pytest.raises(Exception, match=words):
            engraft.session(folder / "c.onnx")
    plan.unlink()
    with pytest.raises(Exception, match=plan.name):
        engraft.session(folder / "c.onnx")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", ""])
def test_plans_outside_the_models_folder_are_refused(engraft: Engraft, folder: Path, name: str) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", False)
    model = onnx.load(folder / "c.onnx")
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == "ep_cache_context")
    attribute.s = name.encode()
    onnx.save(model, folder / "c.onnx")
    with pytest.raises(Exception, match="not below the model's folder"):
        engraft.session(folder / "c.onnx")


def test_a_plan_that_does_not_fit_its_node_is_refused(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    model = onnx.load(folder / "c.onnx")
    model.graph.node[0].input.append("x2")
    model.graph.input.append(helper.make_tensor_value_info("x2", onnx.TensorProto.FLOAT, [2]))
    onnx.save(model, folder / "c.onnx")
    with pytest.raises(Exception, match="has 2 inputs and 1 outputs, its plan 1 and 1"):
        engraft.session(folder / "c.onnx")


def test_nodes_without_a_record_are_refused(engraft: Engraft) -> None:
    attributes = {"source": EP_NAME, "embed_mode": 1, "main_context": 1, "ep_cache_context": b"blob"}
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", name="n", **attributes)
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "compiled", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(Exception, match="compiled node 'n': it has no attribute 'notes'"):
        engraft.session(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_hosts_can_ask_whether_a_compiled_model_runs_here(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_compiler(engraft, folder / "m.onnx", folder / "c.onnx", True)
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "c.onnx").metadata_props}
    (line,) = (value for key, value in metadata.items() if key.endswith(EP_NAME))
    assert line.startswith("engraft;isa=")
    verdict = [
        host.get_model_compatibility_for_ep_devices([engraft.device], text).name
        for text in (line, line.replace(";cpu=", ";cpu=x"), line.replace(";library=", ";library=x"), "other")
    ]
    assert verdict == ["EP_SUPPORTED_OPTIMAL", "EP_SUPPORTED_PREFER_RECOMPILATION", "EP_UNSUPPORTED", "EP_NOT_APPLICABLE"]


def test_the_record_is_readable(engraft: Engraft, folder: Path) -> None:
    onnx.save(mlp(), folder / "m.onnx")
    write_by_options(engraft, folder / "m.onnx", folder / "c.onnx", True)
    (node,) = compiled_nodes(folder / "c.onnx")
    notes = json.loads(node["notes"])
    assert notes["nodes"] == 8 and notes["options"]["precision"] == "tf32" and node["source"].decode() == EP_NAME
