"""Who runs what: fallback, exclusions, policies, strict mode and the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import Engraft, refused, taken
from models import convnet, mlp, model, normal, value
from onnx import TensorProto, helper


def mixed() -> object:
    """A node that no engine takes (string labels) beside work that it does."""
    node = helper.make_node
    return model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("Cast", ["r"], ["text"], to=TensorProto.STRING),
            node("Cast", ["text"], ["back"], to=TensorProto.FLOAT),
            node("MatMul", ["back", "w"], ["n"]),
            node("Tanh", ["n"], ["y"]),
        ],
        [value("x", ["N", 16])],
        [value("y", ["N", 16])],
        [normal("w", 16, 16)],
    )


def test_what_cannot_be_taken_stays_with_the_host(engraft: Engraft) -> None:
    made = mixed()
    session, report = engraft.placed(made)
    assert sorted(taken(report)) == ["MatMul", "MatMul", "Relu", "Tanh"]
    assert len(report["segments"]) == 2
    assert list(refused(report)) == ["Cast"] and refused(report)["Cast"]
    engraft.agree(session, made, {"x": np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)})


def test_excluded_types_stay_with_the_host(engraft: Engraft) -> None:
    made = mlp()
    session, report = engraft.placed(made, {"op_types_to_exclude": "Erf,Softmax"})
    assert "Erf" in refused(report) and "Softmax" in refused(report)
    assert "Erf" not in taken(report)
    engraft.agree(session, made, {"x": np.ones((3, 16), np.float32)})


def test_small_segments_stay_with_the_host(engraft: Engraft) -> None:
    made = mlp()
    session, report = engraft.placed(made, {"min_subgraph_size": "1000"})
    assert taken(report) == [] and report["segments"] == []
    engraft.agree(session, made, {"x": np.ones((3, 16), np.float32)})


def test_profit_leaves_tiny_work_to_the_host(engraft: Engraft) -> None:
    """One addition of four numbers is not worth the border; asking for segments of one node overrules that."""
    made = model([helper.make_node("Add", ["x", "x"], ["y"])], [value("x", [4])], [value("y", [4])])
    _, report = engraft.placed(made, {"partition_policy": "profit"})
    assert taken(report) == []
    report_path = engraft.folder / "one.json"
    session = engraft.session(made, {"min_subgraph_size": "1", "placement_report_path": report_path})
    assert taken(json.loads(report_path.read_text())) == ["Add"]
    engraft.agree(session, made, {"x": np.float32([1, 2, 3, 4])})


def test_profit_leaves_lone_moves_to_the_host(engraft: Engraft) -> None:
    """Moving elements takes both sides as long as memory does; beside arithmetic it saves a border."""
    move = helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0])
    profit = {"partition_policy": "profit"}
    alone = model([move], [value("x", [256, 512])], [value("t", [512, 256])])
    _, report = engraft.placed(alone, profit)
    assert taken(report) == [] and "only moves elements" in refused(report)["Transpose"]
    product = helper.make_node("MatMul", ["w", "t"], ["y"])
    beside = model([move, product], [value("x", [256, 512])], [value("y", [512, 256])], [normal("w", 512, 512)])
    session, report = engraft.placed(beside, profit)
    assert taken(report) == ["Transpose", "MatMul"]
    engraft.agree(session, beside, {"x": np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)})


def test_the_report_tells_everything(engraft: Engraft) -> None:
    made = mixed()
    _, report = engraft.placed(made)
    assert 0 < report["accelerated_flops"] <= 1
    for node in report["nodes"]:
        assert node["name"] and node["op_type"]
        assert (node["segment"] is None) == bool(node.get("reason")) == bool(node.get("remedy"))
        assert 0 <= node["flops_share"] <= 1
    assert sum(node["flops_share"] for node in report["nodes"]) == pytest.approx(1, abs=1e-3)


def test_strict_mode_passes_where_enough_is_taken(engraft: Engraft) -> None:
    made = convnet()
    session, _ = engraft.placed(made, {"min_accelerated_flops": "99%"})
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    engraft.agree(session, made, {"x": x})


@pytest.mark.parametrize("excluded", ["MatMul", "MatMul,Relu,Tanh"])
def test_strict_mode_fails_with_the_report(engraft: Engraft, excluded: str) -> None:
    with pytest.raises(Exception) as caught:
        engraft.placed(mixed(), {"min_accelerated_flops": "0.9", "op_types_to_exclude": excluded})
    message = str(caught.value)
    assert "min_accelerated_flops" in message and "MatMul" in message and "90" in message


def test_networks_are_dumped(engraft: Engraft) -> None:
    folder = engraft.folder / "dump"
    engraft.placed(mixed(), {"dump_subgraphs": folder})
    texts = [path.read_text() for path in folder.iterdir()]
    assert len(texts) == 2 and all("matmul" in text.lower() for text in texts)


def test_an_unwritable_report_does_not_break_the_session(engraft: Engraft) -> None:
    made = mlp()
    path = engraft.folder / "file"
    path.write_text("")
    session = engraft.session(made, {"placement_report_path": path / "report.json", "dump_subgraphs": path / "dump"})
    engraft.agree(session, made, {"x": np.ones((3, 16), np.float32)})
