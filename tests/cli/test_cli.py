"""The command `engraft`, run as a user runs it. ENGRAFT_CLI names the program (`cargo xtask test` builds it)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

CLI = os.environ.get("ENGRAFT_CLI", "target/debug/engraft")


class Cli:
    """Runs the command with a plan cache of its own."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def __call__(self, *arguments: object, status: int = 0) -> str:
        """Standard output; for a failure standard error."""
        environment = os.environ | {"ENGRAFT_CACHE_DIR": str(self.cache)}
        command = [CLI, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status else done.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self("--json", *arguments))


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two outputs: y = softmax(relu(x @ w + b)) of [n, 48], and its argmax of [n, 1]; x is [n, 32]."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((32, 48)).astype(np.float32),
        "b": random.standard_normal(48).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["active"]),
            helper.make_node("Softmax", ["active"], ["y"], axis=-1),
            helper.make_node("ArgMax", ["y"], ["best"], axis=-1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 48]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def arrays(tmp_path: Path, model: Path) -> tuple[Path, Path]:
    """An input and ONNX Runtime's outputs, as archives."""
    x = np.random.default_rng(1).standard_normal((5, 32)).astype(np.float32)
    y, best = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y", "best"], {"x": x})
    np.savez_compressed(tmp_path / "inputs.npz", x=x)
    np.savez(tmp_path / "reference.npz", y=y, best=best)
    return tmp_path / "inputs.npz", tmp_path / "reference.npz"


def test_a_model_and_its_plan_agree_with_onnxruntime(
    cli: Cli, model: Path, arrays: tuple[Path, Path], tmp_path: Path
) -> None:
    inputs, reference = arrays
    plan = tmp_path / "small.plan"
    assert cli.json("build", model, "-o", plan)["bytes"] == plan.stat().st_size
    for file in (model, plan):
        result = cli.json("run", file, "--input", inputs, "--reference", reference, "--output", tmp_path / "out.npz")
        assert result["comparison"]["within"] is True
        assert {d["name"] for d in result["comparison"]["differences"]} == {"y", "best"}
        stored = np.load(tmp_path / "out.npz")
        np.testing.assert_allclose(stored["y"], np.load(reference)["y"], atol=1e-6)
        np.testing.assert_array_equal(stored["best"], np.load(reference)["best"])


def test_evaluation_is_double_precision(cli: Cli, model: Path, arrays: tuple[Path, Path], tmp_path: Path) -> None:
    inputs, _ = arrays
    exact = tmp_path / "exact.npz"
    cli("evaluate", model, "--input", inputs, "--output", exact)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    active = np.maximum(np.load(inputs)["x"].astype(np.float64) @ tensors["w"] + tensors["b"], 0)
    power = np.exp(active - active.max(axis=-1, keepdims=True))
    y = np.load(exact)["y"]
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, power / power.sum(axis=-1, keepdims=True), rtol=1e-12)
    result = cli.json("run", model, "--input", inputs, "--reference", exact)
    assert 0 < max(d["relative"] for d in result["comparison"]["differences"]) < 1e-5


def test_a_wrong_output_has_a_status_of_its_own(
    cli: Cli, model: Path, arrays: tuple[Path, Path], tmp_path: Path
) -> None:
    inputs, reference = arrays
    wrong = dict(np.load(reference))
    wrong["best"] += 1
    np.savez(tmp_path / "wrong.npz", **wrong)
    error = cli("run", model, "--input", inputs, "--reference", tmp_path / "wrong.npz", status=3)
    assert "farther from the reference" in error


def test_inputs_may_be_generated(cli: Cli, model: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> np.ndarray:
        cli("run", model, "-o", tmp_path / "out.npz", *arguments)
        return np.load(tmp_path / "out.npz")["y"]

    assert run("--dim", "n=3").shape == (3, 48)
    np.testing.assert_array_equal(run("--dim", "n=3"), run("--shape", "x:3x32"))
    assert not np.array_equal(run("--dim", "n=3"), run("--dim", "n=3", "--seed", "1"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dim", "m=3"], "the model has no `m`; there are n"),
        (["--shape", "x:3x31"], "[n, 32]"),
        (["--shape", "x"], "expected NAME:1x3x224x224"),
        (["--option", "colour=red"], "unknown option 'colour'"),
        (["--option", "colour"], "expected KEY=VALUE"),
        (["--threads", "0"], "0"),
        (["--tolerance", "1"], "--reference"),
        (["--output", "y.npy"], "there are 2 outputs"),
    ],
)
def test_wrong_usage_is_named(cli: Cli, model: Path, arguments: list[str], words: str) -> None:
    assert words in cli("run", model, *arguments, status=2)


def test_bad_files_are_named(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert "cannot read the model" in cli("run", tmp_path / "missing.onnx", status=1)
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01noise")
    assert "not an ONNX model" in cli("inspect", tmp_path / "noise.onnx", status=1)
    cli("build", model, "-o", tmp_path / "small.plan")
    content = bytearray((tmp_path / "small.plan").read_bytes())
    (tmp_path / "short.plan").write_bytes(content[: len(content) // 2])
    assert "cannot read the plan" in cli("run", tmp_path / "short.plan", status=1)
    content[200] ^= 1
    (tmp_path / "flipped.plan").write_bytes(content)
    assert "plan" in cli("run", tmp_path / "flipped.plan", status=1)


def test_a_model_that_needs_a_host_is_refused_with_reasons(cli: Cli, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mystery", ["r"], ["y"], domain="org.example")],
        "partly",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "partly.onnx")
    error = cli("build", tmp_path / "partly.onnx", "-o", tmp_path / "x.plan", status=1)
    assert "cannot run without a host runtime" in error and "Mystery" in error
    assert not (tmp_path / "x.plan").exists()
    explanation = cli("explain", tmp_path / "partly.onnx")
    assert "Mystery" in explanation


def test_bench_reports_what_was_asked(cli: Cli, model: Path) -> None:
    arguments = ["--iterations", 20, "--warm-up", 0, "--percentiles", "50,99", "--threads", 1, "--profile"]
    figures = cli.json("bench", model, *arguments)
    assert figures["runs"] == 20 and figures["threads"] == 1
    assert [p["percent"] for p in figures["percentiles"]] == [50, 99]
    assert 0 < figures["least"] <= figures["percentiles"][0]["seconds"] <= figures["greatest"]
    assert sum(layer["share"] for layer in figures["layers"]) == pytest.approx(1)
    assert all(layer["tactic"] for layer in figures["layers"])
    assert "layers, on one thread" in cli("bench", model, *arguments)


def test_bench_names_the_best_batch(cli: Cli, model: Path) -> None:
    arguments = ["--iterations", 5, "--warm-up", 0, "--batch", "1,8,64", "--threads", 1]
    figures = cli.json("bench", model, *arguments)
    assert figures["dim"] == "n" and [row["batch"] for row in figures["batches"]] == [1, 8, 64]
    for row in figures["batches"]:
        assert row["throughput"] == pytest.approx(row["batch"] / row["latency"])
        assert row["latency"] <= row["latency_99"] and row["runs"] == 5
    assert figures["best"] in (1, 8, 64)
    assert "best throughput at batch" in cli("bench", model, *arguments)
    assert "and so does --dim" in cli("bench", model, "--batch", "2", "--dim", "n=3", status=2)


def test_inspect_models_and_plans(cli: Cli, model: Path, tmp_path: Path) -> None:
    summary = cli.json("inspect", model)
    assert summary["inputs"] == [{"name": "x", "type": "f32", "shape": ["n", 32]}]
    assert summary["operators"] == {"Add": 1, "ArgMax": 1, "MatMul": 1, "Relu": 1, "Softmax": 1}
    assert "MatMul" in cli("inspect", model)
    cli("build", model, "-o", tmp_path / "small.plan")
    plan = cli.json("inspect", tmp_path / "small.plan")
    assert plan["kind"] == "plan"
    assert {section["kind"] for section in plan["sections"]} == {"manifest", "weights", "device"}
    assert "manifest" in cli("inspect", tmp_path / "small.plan")


def test_explain_names_nodes_tactics_and_segments(cli: Cli, model: Path) -> None:
    (graph,) = cli.json("explain", model, "--option", "partition_policy=maximal")["graphs"]
    assert {node["op_type"] for node in graph["placement"]["nodes"]} >= {"MatMul", "Softmax"}
    assert any(layer["op"] == "matmul" for segment in graph["segments"] for layer in segment["layers"])
    assert "MatMul" in cli("explain", model, "--all", "--option", "op_types_to_exclude=MatMul")


def test_explain_says_what_would_have_to_change(cli: Cli, model: Path) -> None:
    options = ["--option", "partition_policy=maximal", "--option", "op_types_to_exclude=MatMul,Conv"]
    (graph,) = cli.json("explain", model, *options)["graphs"]
    remedies = {n["op_type"]: n.get("remedy") for n in graph["placement"]["nodes"]}
    assert remedies["MatMul"] == {"kind": "option", "key": "op_types_to_exclude", "value": "Conv"}
    assert remedies["Softmax"] is None
    for all_nodes in ([], ["--all"]):
        assert "set op_types_to_exclude=Conv" in cli("explain", model, *options, *all_nodes)


def test_operators_are_listed_with_their_types(cli: Cli) -> None:
    survey = cli.json("operators")
    taken = {(o["domain"], o["operator"]): o for o in survey["taken"]}
    assert "f32" in taken["", "Conv"]["types"] and taken["", "Softmax"]["since"][-1] == 13
    assert {o["operator"]: o["reason"] for o in survey["refused"]}["Loop"] == "control flow stays with the host"
    assert "| Conv |" in cli("operators", "--markdown") and "Conv" in cli("operators")


def test_the_vocabulary_is_that_of_onnx(cli: Cli) -> None:
    survey = cli.json("operators")
    taken = {domain: {o["operator"] for o in survey["taken"] if o["domain"] == domain} for domain in ("", "com.microsoft")}
    named = taken[""] | {o["operator"] for o in survey["refused"]}
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    # ONNX Runtime writes some operators of its own without their domain.
    assert standard <= named and named - standard <= taken["com.microsoft"]


def test_the_cache_is_listed_and_emptied(cli: Cli, model: Path) -> None:
    assert cli.json("cache", "ls")["plans"] == []
    cli("run", model)
    (plan,) = cli.json("cache", "ls")["plans"]
    assert plan["name"] in cli("cache", "ls") and plan["bytes"] > 0
    assert "no plan's name begins with `zz`" in cli("cache", "rm", "zz", status=2)
    assert cli.json("cache", "prune", "--keep", "1G")["plans"] == 0
    assert cli.json("cache", "rm", plan["name"][:6])["plans"] == 1
    cli("run", model)
    assert cli.json("cache", "prune", "--keep", "0")["plans"] == 1
    cli("run", model)
    assert cli.json("cache", "rm", "--all")["plans"] == 1
    assert cli.json("cache", "ls")["plans"] == []


def test_functions_of_the_model_are_expanded(cli: Cli, tmp_path: Path) -> None:
    """Nested, with an attribute from the caller or by default, an operand that may be absent, and a name used inside and out."""
    node = helper.make_node
    ops = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    slope = node("LeakyRelu", ["x"], ["y"])
    slope.attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    bent = helper.make_function(
        "local", "Bent", ["x"], ["y"], [slope], ops[:1], attribute_protos=[helper.make_attribute("slope", 0.5)]
    )
    layer = helper.make_function(
        "local",
        "Layer",
        ["x", "w", "low"],
        ["y", "clipped"],
        [
            node("MatMul", ["x", "w"], ["t"]),
            node("Bent", ["t"], ["y"], domain="local", slope=0.25),
            node("Clip", ["y", "low"], ["clipped"]),
        ],
        ops,
    )
    graph = helper.make_graph(
        [
            node("Layer", ["x", "w"], ["t", "same"], domain="local"),
            node("Layer", ["same", "w", "low"], ["unclipped", "u"], domain="local"),
            node("Bent", ["u"], ["y"], domain="local"),
        ],
        "calls",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32), "w"),
            numpy_helper.from_array(np.float32(-0.5), "low"),
        ],
    )
    path = tmp_path / "calls.onnx"
    onnx.save(helper.make_model(graph, opset_imports=ops, functions=[bent, layer], ir_version=9), path)
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "y.npz", y=y)
    result = cli.json("run", path, "--input", tmp_path / "x.npz", "--reference", tmp_path / "y.npz")
    assert result["comparison"]["within"] is True
