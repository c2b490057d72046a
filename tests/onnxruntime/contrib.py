"""Models of one node of the operators that ONNX Runtime adds to ONNX, and how Engraft's results are held against the host's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from conftest import Engraft, assert_same, reference, refused
from models import constant, value
from onnx import helper

MICROSOFT = "com.microsoft"

Feed = dict[str, np.ndarray]

# Operands that are no floats.
INTEGERS = {"mask": np.int32, "ids": np.int64, "lengths": np.int32, "total": np.int32}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node_model(
    op: str,
    operands: Sequence[tuple[str, Sequence[int | str]] | np.ndarray | None],
    outputs: Sequence[str],
    *,
    types: dict[str, type] | None = None,
    domain: str = MICROSOFT,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node.

    Operands are inputs (name and shape), constants, or absent (`None`); outputs may be absent as well (an empty name)
    and have no known rank. Inputs and outputs are float32 unless `types` says otherwise.
    """
    types = types or {}

    def of(name: str) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(types.get(name, np.float32)))

    inputs, initializers, names = [], [], []
    for index, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, np.ndarray):
            names.append(f"c{index}")
            initializers.append(constant(f"c{index}", operand))
        else:
            names.append(operand[0])
            inputs.append(value(operand[0], operand[1], of(operand[0])))
    node = helper.make_node(op, names, list(outputs), name="node", domain=domain, **attributes)
    results = [value(name, None, of(name)) for name in outputs if name]
    graph = helper.make_graph([node], "test", inputs, results, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def placed(engraft: Engraft, made: onnx.ModelProto) -> Any:
    """A session that leaves no node to another provider: by our report and by the host's own record."""
    config = {"session.record_ep_graph_assignment_info": "1"}
    session, report = engraft.placed(made, config=config)
    assert refused(report) == {}, refused(report)
    if hasattr(session, "get_provider_graph_assignment_info"):
        parts = session.get_provider_graph_assignment_info()
        nodes = {node.op_type: part.ep_name for part in parts for node in part.get_nodes()}
        assert set(nodes.values()) == {"EngraftExecutionProvider"}, nodes
    return session


def agree(
    engraft: Engraft, made: onnx.ModelProto, feeds: Sequence[Feed], oracle: onnx.ModelProto | None = None
) -> None:
    """Fails unless Engraft takes `made` and gives what the CPU provider gives for it, or for `oracle`."""
    session, expected = placed(engraft, made), reference(oracle or made)
    for feed in feeds:
        assert_same(session.run(None, feed), expected.run(None, feed))


def reason(engraft: Engraft, made: onnx.ModelProto) -> str:
    """Why Engraft leaves the one node to the host, which can run it."""
    _, report = engraft.placed(made)
    (text,) = refused(report).values()
    return text


def sized(shape: Sequence[int | str], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)
