"""Linear models and the preparation of features (`ai.onnx.ml`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Engraft, refused, taken
from models import value
from onnx import TensorProto, helper

ML = "ai.onnx.ml"


def features(rows: int = 7, *, dtype: type = np.float32) -> np.ndarray:
    """Some zeros, some rows of zeros only."""
    x = np.random.default_rng(rows).integers(-4, 5, (rows, 3))
    x[1:3] = 0
    return x.astype(dtype)


def single(op: str, outputs: int = 1, *, dtype: int = TensorProto.FLOAT, **attributes: Any) -> onnx.ModelProto:
    """One node of features [N, 3]."""
    names = [f"y{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], names, domain=ML, **attributes)],
        op,
        [value("x", ["N", 3], dtype)],
        [helper.make_empty_tensor_value_info(name) for name in names],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check(engraft: Engraft, made: onnx.ModelProto, x: np.ndarray) -> None:
    session, report = engraft.placed(made)
    assert taken(report) == [made.graph.node[0].op_type], refused(report)
    engraft.agree(session, made, {"x": x})


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(engraft: Engraft, norm: str) -> None:
    check(engraft, single("Normalizer", norm=norm), features())


def test_scaler(engraft: Engraft) -> None:
    check(engraft, single("Scaler", offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, -1.0]), features())
    made = single("Scaler", dtype=TensorProto.INT64, offset=[1.5], scale=[0.25])
    check(engraft, made, features(dtype=np.int64))


def test_binarizer(engraft: Engraft) -> None:
    check(engraft, single("Binarizer", threshold=1.0), features())


@pytest.mark.parametrize("missing", [0.0, float("nan")])
def test_imputer(engraft: Engraft, missing: float) -> None:
    x = features()
    x[3, 1] = missing
    for values in ([7.0], [7.0, 8.0, 9.0]):
        check(engraft, single("Imputer", imputed_value_floats=values, replaced_value_float=missing), x)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_models(engraft: Engraft, transform: str) -> None:
    weights = np.random.default_rng(0).standard_normal(9).astype(np.float32).tolist()
    shared = {"coefficients": weights, "intercepts": [0.5, -1.0, 0.25], "post_transform": transform}
    check(engraft, single("LinearClassifier", 2, classlabels_ints=[7, 9, 4], **shared), features())
    check(engraft, single("LinearRegressor", targets=3, **shared), features())


def test_labels_that_are_strings_stay_with_the_host(engraft: Engraft) -> None:
    made = single(
        "LinearClassifier",
        2,
        coefficients=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        intercepts=[0.0, 1.0],
        classlabels_strings=["no", "yes"],
    )
    _, report = engraft.placed(made)
    assert taken(report) == [] and "strings" in refused(report)["LinearClassifier"]
