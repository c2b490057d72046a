"""Sessions of unmodified programs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import engraft.onnxruntime
import numpy as np
import onnxruntime
import pytest
from engraft.onnxruntime import EngraftWarning, _provider
from onnxruntime import InferenceSession as NameImportedBefore

ENGRAFT = engraft.onnxruntime.get_ep_name()


class SubclassedBefore(onnxruntime.InferenceSession):
    """What libraries on top of onnxruntime do."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), providers=["CPUExecutionProvider"])


def uses_engraft(session: onnxruntime.InferenceSession) -> bool:
    return session.get_providers()[0] == ENGRAFT


def test_register_is_idempotent() -> None:
    assert len(engraft.onnxruntime.register()) == len(engraft.onnxruntime.register()) > 0


def test_add_to_serves_one_session(model: Path) -> None:
    options = onnxruntime.SessionOptions()
    engraft.onnxruntime.add_to(options, min_subgraph_size=2)
    assert uses_engraft(onnxruntime.InferenceSession(model, options))
    assert not uses_engraft(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))


def test_every_way_to_create_a_plain_session_is_served(model: Path) -> None:
    engraft.onnxruntime.enable()
    cpu = "CPUExecutionProvider"
    options = onnxruntime.SessionOptions()
    sessions = [
        onnxruntime.InferenceSession(model),
        onnxruntime.InferenceSession(str(model), options),
        onnxruntime.InferenceSession(str(model), options),
        onnxruntime.InferenceSession(model.read_bytes(), None, [cpu]),
        onnxruntime.InferenceSession(path_or_bytes=model, providers=[(cpu, {"arena_extend_strategy": "kSameAsRequested"})]),
        onnxruntime.InferenceSession(model, providers=[cpu], provider_options=[{}]),
        onnxruntime.InferenceSession(model, providers=onnxruntime.get_available_providers()),
        NameImportedBefore(model),
        SubclassedBefore(model),
    ]
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    engraft.onnxruntime.disable()
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"x": x})
    for session in sessions:
        assert uses_engraft(session)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_disable_and_enable_again(model: Path) -> None:
    engraft.onnxruntime.enable()
    engraft.onnxruntime.disable()
    assert not uses_engraft(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))
    engraft.onnxruntime.enable()
    engraft.onnxruntime.enable()
    assert uses_engraft(onnxruntime.InferenceSession(model))


def test_a_choice_of_the_program_is_respected(model: Path) -> None:
    engraft.onnxruntime.enable(log_level="error")
    options = onnxruntime.SessionOptions()
    cpu = [d for d in onnxruntime.get_ep_devices() if d.ep_name == "CPUExecutionProvider"]
    options.add_provider_for_devices(cpu[:1], {})
    assert not uses_engraft(onnxruntime.InferenceSession(model, options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxruntime's own words about the missing provider
        session = onnxruntime.InferenceSession(model, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_errors_of_the_program_stay_its_own(model: Path) -> None:
    def errors() -> list[str]:
        caught = []
        for arguments in [(), (str(model) + ".missing",), (b"no model",), (17,)]:
            with pytest.raises(Exception) as error:  # noqa: PT011  (whatever onnxruntime raises)
                onnxruntime.InferenceSession(*arguments)
            caught.append(f"{error.type.__name__}: {error.value}")
        return caught

    plain = errors()
    engraft.onnxruntime.enable()
    assert errors() == plain


def test_a_failing_provider_does_not_break_the_program(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engraft.onnxruntime.enable()

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(_provider, "add_to", broken)
    with pytest.warns(EngraftWarning, match="out of luck"):
        session = onnxruntime.InferenceSession(model)
    assert not uses_engraft(session)


def test_strict_mode_raises_instead(model: Path) -> None:
    engraft.onnxruntime.enable(min_accelerated_flops=1, op_types_to_exclude=["MatMul"])
    with pytest.raises(Exception, match=ENGRAFT):
        onnxruntime.InferenceSession(model)


def test_an_old_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(engraft.onnxruntime.UnavailableError, match=r"1\.24 or later, this is 1\.23\.2"):
        engraft.onnxruntime.register()
    with pytest.warns(EngraftWarning, match=r"1\.23\.2"):
        assert not engraft.onnxruntime.enable()
    assert not uses_engraft(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))


def test_a_report_for_each_session(model: Path, tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    engraft.onnxruntime.enable(placement_report_path=f"{reports}/")
    options = onnxruntime.SessionOptions()
    for each in (model, model.read_bytes()):
        onnxruntime.InferenceSession(each, options)
    written = sorted(reports.iterdir())
    assert [path.name.split("-", 1)[1] for path in written] == ["small.json", "model.json"]
    for path in written:
        assert {node["op_type"] for node in json.loads(path.read_text())["nodes"]} >= {"MatMul"}
