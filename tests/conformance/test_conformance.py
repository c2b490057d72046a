"""ONNX's own backend test suite on a stock ONNX Runtime: Engraft breaks no case, and computes most of them."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from suite import Case

# The suite of the pinned `onnx` package: node tests, and the models that it ships.
SIZE = {"NodeModel": 1884, "SimpleModel": 23, "PyTorchConvertedModel": 82, "PyTorchOperatorModel": 35, "RealModel": 9}

# Least numbers of node tests that pass on the host alone, and of those that Engraft computes: in whole or in part, and
# without the host. Older hosts load no models of the newest operator sets.
FLOORS = {"1.24": (1400, 1100, 1060), "1.32": (1700, 1340, 1230)}


def test_the_suite_is_all_there(cases: list[Case]) -> None:
    sizes = {category: sum(case.category == category for case in cases) for category in SIZE}
    assert sizes == SIZE and len(cases) == sum(SIZE.values())
    assert all(case.outcomes.keys() == {"host", "engraft"} for case in cases)


def test_no_case_crashes(cases: list[Case]) -> None:
    assert not [f"{case}: {o.error}" for case in cases for o in case.outcomes.values() if o.crashed]


def test_no_case_fails_that_passes_on_the_host_alone(cases: list[Case]) -> None:
    assert not [f"{case}: {case.engraft.error}" for case in cases if case.engraft.error and not case.host.error]


def test_what_runs_without_the_host_is_right(cases: list[Case]) -> None:
    """Also where the host alone has no kernel or is wrong itself."""
    whole = [case for case in cases if case.engraft.assignment and case.engraft.assignment.whole]
    assert not [f"{case}: {case.engraft.error}" for case in whole if case.engraft.error]


def test_most_node_tests_are_computed(cases: list[Case]) -> None:
    host = ".".join(version("onnxruntime").split(".")[:2])
    if host not in FLOORS:
        pytest.fail(f"no floors for onnxruntime {host}: measure and add them")
    nodes = [case for case in cases if case.category == "NodeModel"]
    measured = (
        sum(not case.host.error for case in nodes),
        sum(case.computed for case in nodes),
        sum(case.computed_whole for case in nodes),
    )
    what = ("pass on the host alone", "are computed by Engraft", "are computed without the host")
    for count, floor, text in zip(measured, FLOORS[host], what):
        assert count >= floor, f"{count} of {len(nodes)} node tests {text}, fewer than {floor}; all counts: {measured}"


def test_all_models_that_the_host_runs_are_computed(cases: list[Case]) -> None:
    """Of the models that PyTorch exported and of the real ones none stays with the host."""
    kinds = ("PyTorchConvertedModel", "PyTorchOperatorModel", "RealModel")
    models = [case for case in cases if case.category in kinds and not case.host.error]
    assert len(models) >= 90, f"{len(models)} models pass on the host alone"
    assert not [str(case) for case in models if not case.computed]
