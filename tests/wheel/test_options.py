"""Options in Python's types."""

from __future__ import annotations

from pathlib import Path

import engraft.onnxruntime
import pytest
from engraft._options import to_strings


def test_values_become_text() -> None:
    options = {
        "engine_cache_enable": False,
        "builder_optimization_level": 5,
        "min_accelerated_flops": 0.95,
        "engine_cache_path": Path("/a/b"),
        "op_types_to_exclude": ["Conv", "com.microsoft:Gelu"],
        "profile_opt_shapes": {"images": (1, 3, 224, 224), "mask": [1, 77]},
        "partition_policy": "maximal",
        "log_level": None,
    }
    assert to_strings(options) == {
        "engine_cache_enable": "0",
        "builder_optimization_level": "5",
        "min_accelerated_flops": "0.95",
        "engine_cache_path": "/a/b",
        "op_types_to_exclude": "Conv,com.microsoft:Gelu",
        "profile_opt_shapes": "images:1x3x224x224,mask:1x77",
        "partition_policy": "maximal",
    }


def test_what_has_no_text_is_refused_by_name() -> None:
    with pytest.raises(engraft.onnxruntime.OptionError, match="'log_level'"):
        to_strings({"log_level": object()})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_subgraf_size": 3}, "unknown option 'min_subgraf_size'"),
        ({"min_subgraph_size": "many"}, "option 'min_subgraph_size'"),
        ({"min_accelerated_flops": 7}, "option 'min_accelerated_flops'"),
    ],
)
def test_enable_refuses_bad_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(engraft.onnxruntime.OptionError, match=f"^{words}"):
        engraft.onnxruntime.enable(**options)


def test_enable_takes_good_options() -> None:
    assert engraft.onnxruntime.enable(
        min_accelerated_flops=0.5,
        min_subgraph_size=2,
        op_types_to_exclude=["Softmax"],
        profile_opt_shapes={"x": (1, 64)},
        engine_cache_enable=False,
        placement_report_path=None,
    )
