"""ONNX's backend test suite, run once for all tests of this folder."""

from __future__ import annotations

import pytest
from suite import Case, Suite

COUNTS = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Case]:
    """Every case with its outcomes."""
    suite = Suite(str(tmp_path_factory.mktemp("models")))
    suite.run(processes=2)
    categories = sorted({case.category for case in suite.cases})
    request.config.stash[COUNTS] = {
        category: counts([case for case in suite.cases if case.category == category]) for category in categories
    }
    return suite.cases


def counts(cases: list[Case]) -> str:
    host = sum(not case.host.error for case in cases)
    engraft = sum(not case.engraft.error for case in cases)
    computed = sum(case.computed for case in cases)
    whole = sum(case.computed_whole for case in cases)
    return (
        f"{len(cases)} cases: {host} pass on the host alone, {engraft} with Engraft; "
        f"it computes {computed} of these, {whole} without the host"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for category, text in config.stash.get(COUNTS, {}).items():
        terminalreporter.write_line(f"{category}: {text}")
