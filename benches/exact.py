"""Exact outputs of the zoo's cases, and how far what a runtime computes is from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import zoo

CLI = os.environ.get("ENGRAFT_CLI", "target/release/engraft")
"""The command `engraft`; `cargo xtask bench` builds it and names it here."""

NOT_STANDALONE = {"silero_vad", "silero_vad_ifless"}
"""Models with control flow: nothing but a host runs them whole, so nobody evaluates them in double precision."""


def outputs(model: str, case: str, folder: Path) -> dict[str, np.ndarray] | None:
    """What the operators' definitions give in double precision, by output name; evaluated once and kept in `folder`."""
    if model in NOT_STANDALONE:
        return None
    path = folder / "exact" / f"{model}-{case}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        inputs = path.with_suffix(".inputs.npz")
        np.savez(inputs, **zoo.inputs(model, case))
        partial = path.with_suffix(".partial.npz")
        command = [CLI, "evaluate", zoo.materialize(model, folder), "--input", inputs, "--output", partial]
        print(f"evaluating {model}/{case} in double precision", file=sys.stderr, flush=True)
        try:
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            os.replace(partial, path)
        finally:
            inputs.unlink()
    with np.load(path) as archive:
        return dict(archive)


def error(exact: dict[str, np.ndarray], computed: dict[str, np.ndarray]) -> float:
    """The largest relative Frobenius error, |computed - exact| / |exact|, over the float outputs."""
    errors = [0.0]
    for name, truth in exact.items():
        if truth.dtype.kind != "f" or not truth.size:
            continue
        finite = np.isfinite(truth)
        apart = np.linalg.norm(computed[name].astype(np.float64)[finite] - truth[finite])
        size = np.linalg.norm(truth[finite])
        errors.append(float(apart / size) if size else float(apart))
    return max(errors)
