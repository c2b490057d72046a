"""Options: the known ones are taken, everything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import onnxruntime as ort
import pytest
from conftest import EP_NAME, Engraft, since
from models import mlp

VALID = {
    "precision": "fp32",
    "min_subgraph_size": "2",
    "op_types_to_exclude": "Softmax, Gelu",
    "partition_policy": "maximal",
    "engine_cache_enable": "1",
    "builder_optimization_level": "0",
    "profile_min_shapes": "x:1x16",
    "profile_opt_shapes": "x:4x16",
    "profile_max_shapes": "x:64x16",
    "min_accelerated_flops": "0",
    "log_level": "error",
}


def test_every_option_is_taken(engraft: Engraft) -> None:
    folder = engraft.folder
    paths = {
        "engine_cache_path": folder / "plans",
        "timing_cache_path": folder / "timings",
        "placement_report_path": folder / "report.json",
        "dump_subgraphs": folder / "dump",
    }
    engraft.session(mlp(), {**VALID, **paths})
    assert (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_subgraph_sise": "2"}, "unknown option 'min_subgraph_sise' (did you mean 'min_subgraph_size'?)"),
        ({"trt_fp16_enable": "1"}, "unknown option 'trt_fp16_enable'"),
        ({"precision": "fp16"}, "option 'precision': 'fp16' is not valid, expected fp32, tf32 or bf16"),
        ({"min_subgraph_size": "few"}, "option 'min_subgraph_size'"),
        ({"partition_policy": "greedy"}, "option 'partition_policy'"),
        ({"builder_optimization_level": "9"}, "option 'builder_optimization_level'"),
        ({"min_accelerated_flops": "2"}, "option 'min_accelerated_flops'"),
        ({"profile_opt_shapes": "x=1x16"}, "option 'profile_opt_shapes'"),
        ({"profile_min_shapes": "x:8x16", "profile_max_shapes": "x:4x16"}, "option 'profile_min_shapes'"),
        ({"log_level": "chatty"}, "option 'log_level'"),
    ],
)
def test_others_are_refused_by_name(engraft: Engraft, options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception) as caught:
        engraft.session(mlp(), options)
    assert message in str(caught.value)


@since(1, 28, "plugin providers are taken by device alone")
def test_the_provider_can_be_named(engraft: Engraft) -> None:
    report = engraft.folder / "named.json"
    options = {"placement_report_path": str(report), "engine_cache_enable": "0", "partition_policy": "maximal"}
    providers = [(EP_NAME, options), "CPUExecutionProvider"]
    session = ort.InferenceSession(mlp().SerializeToString(), providers=providers, enable_fallback=0)
    assert session.get_providers()[0] == EP_NAME
    assert json.loads(report.read_text())["segments"]
    with pytest.raises(Exception, match="unknown option 'nonsense'"):
        ort.InferenceSession(
            mlp().SerializeToString(), providers=[(EP_NAME, {"nonsense": "1"})], enable_fallback=0
        )
