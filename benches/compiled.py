#!/usr/bin/env python3
"""Models compiled ahead of time: whether the zoo comes back exactly, and what loading costs.

Exactly: each model is compiled in every way that ONNX Runtime has (session options, ModelCompiler; plans embedded,
plans beside the model) and loaded again; the loaded session's outputs must be bit by bit those of the session that
compiled it. ModelCompiler hands over the graph as it stands in the file and runs nothing: what it wrote is held
against a session on the unoptimized graph, which shares its engines through the plan cache.

What loading costs (--time): the time to create a session, each in a process of its own that has imported and
registered everything before, contenders in turn: ONNX Runtime's CPU provider on the original model, Engraft building
without a cache, Engraft loading plans beside the model, and embedded ones; and, as the least that no provider can save, models
whose node has a plan of next to nothing: one as small as a model with its plans beside it, and one with a ballast that nobody
reads, as large as the embedded one. The bars: loading is at least 5 times as fast as building, and no slower than ONNX Runtime. A bar
that ONNX Runtime's own part misses is out of reach, which the table says.

Run it as `cargo xtask compiled [options]`, which builds and installs the wheel of this tree first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent / "zoo")]

import tables
import zoo
from worker import distinct_cpus

FASTER_THAN_BUILDING = 5.0
LEAST = {"beside": "least beside", "embedded": "least embedded"}
"""What no provider can save, by how plans are kept."""


@dataclass(frozen=True)
class Way:
    """How a model is compiled."""

    compiler: bool
    embed: bool

    @property
    def name(self) -> str:
        return f"{'ModelCompiler' if self.compiler else 'options'}, {'embedded' if self.embed else 'beside'}"


WAYS = [Way(compiler, embed) for compiler in (False, True) for embed in (False, True)]


def session_options(threads: int, engraft: dict[str, str] | None, optimized: bool = True) -> Any:
    import engraft.onnxruntime as provider
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if engraft is not None:
        provider.add_to(options, **engraft)
    return options


def create(model: Path, options: Any, engraft: bool = True) -> Any:
    import onnxruntime as ort

    if engraft:
        return ort.InferenceSession(model, options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ort_compiler(options: Any, model: Path, embed: bool) -> Any:
    import onnxruntime as ort

    return ort.ModelCompiler(options, str(model), embed_compiled_data_into_model=embed)


def compile_model(model: Path, compiled: Path, way: Way, threads: int) -> Any:
    """Writes the compiled model; returns the session that wrote it, or one that its engines are shared with."""
    if way.compiler:
        ort_compiler(session_options(threads, {}), model, way.embed).compile_to_file(str(compiled))
        return create(model, session_options(threads, {}, optimized=False))
    options = session_options(threads, {})
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_embed_mode", str(int(way.embed)))
    options.add_session_config_entry("ep.context_file_path", str(compiled))
    return create(model, options)


def faults(model: str, path: Path, way: Way, threads: int, folder: Path) -> list[str]:
    """What is wrong with a round trip; nothing where outputs are the same bit by bit."""
    compiled = folder / "compiled.onnx"
    written = compile_model(path, compiled, way, threads)
    loaded = create(compiled, session_options(threads, {}))
    if not any(b"EPContext" in block for block in _blocks(compiled)):
        return ["nothing was compiled"]
    found = []
    for case in zoo.load()[model]["cases"]:
        inputs = zoo.inputs(model, case)
        for index, (a, b) in enumerate(zip(written.run(None, inputs), loaded.run(None, inputs), strict=True)):
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                found.append(f"{case}: output {index} is another")
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in overlapping pieces."""
    with path.open("rb") as file:
        tail = b""
        while block := file.read(1 << 24):
            yield tail + block
            tail = block[-16:]


@contextmanager
def _folder(scratch: Path) -> Iterator[Path]:
    with TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)


def _in_process(function: Any, *arguments: Any) -> Any:
    """The function's result, from a process of its own: a crash is a finding, not an end."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "error", "the process died"
    process.join()
    if kind == "error":
        raise RuntimeError(value)
    return value


def _answer(sender: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    try:
        import engraft.onnxruntime as provider

        provider.register()
        sender.send(("result", function(*arguments)))
    except Exception as error:  # whatever it is, the other side tells it
        sender.send(("error", f"{type(error).__name__}: {error}"))


def round_trips(models: list[str], arguments: argparse.Namespace) -> bool:
    rows, failed = [["model", *(way.name for way in WAYS)]], False
    for model in models:
        path = zoo.materialize(model, arguments.zoo)
        verdicts = []
        for way in WAYS:
            with _folder(arguments.scratch) as folder:
                try:
                    found = _in_process(faults, model, path, way, arguments.threads, folder)
                except RuntimeError as error:
                    found = [str(error)]
            # Compiled models of some shapes are more than ONNX Runtime can write, and refused.
            refused = any("NOT_IMPLEMENTED" in fault for fault in found)
            failed |= bool(found) and not refused
            verdicts.append("refused" if refused else "; ".join(found) or "exact")
            if refused:
                print(f"{model}, {way.name}: {'; '.join(found)}")
        print(f"{model}: {', '.join(verdicts)}", flush=True)
        rows.append([model, *verdicts])
    print("\n" + "\n".join(tables.aligned(rows)))
    return failed


def creation(model: Path, threads: int, kind: str) -> float:
    """Seconds to create a session."""
    engraft = {"ort": None, "cold": {"engine_cache_enable": "0"}}.get(kind, {})
    options = session_options(threads, engraft)
    start = time.perf_counter()
    session = create(model, options, engraft is not None)
    seconds = time.perf_counter() - start
    del session
    return seconds


def times(models: list[str], arguments: argparse.Namespace) -> bool:
    head = ["model", "ONNX Runtime", "build", "beside", "embedded", "least beside", "least embedded"]
    bars = [f"{kind}/ORT" for kind in LEAST] + [f"build/{kind}" for kind in LEAST]
    rows = [[*head, *bars, "embedded MB", "out of reach"]]
    failed = False
    for model in models:
        try:
            taken, size = _contend(model, arguments)
        except RuntimeError as error:
            # As in a round trip: what ONNX Runtime cannot write is refused.
            if "NOT_IMPLEMENTED" not in str(error):
                raise
            print(f"{model}: {error}", flush=True)
            continue
        # Medians of ratios within a round: the clock drifts between rounds.
        ratio = lambda a, b: statistics.median(x / y for x, y in zip(taken[a], taken[b], strict=True))
        slower = {kind: ratio(kind, "ort") for kind in (*LEAST, *LEAST.values())}
        faster = {kind: ratio("cold", kind) for kind in slower}
        missed, beyond = [
            [f"{kind}/ORT" for kind, by in contenders.items() if slower[by] > 1]
            + [f"build/{kind}" for kind, by in contenders.items() if faster[by] < FASTER_THAN_BUILDING]
            for contenders in ({kind: kind for kind in LEAST}, LEAST)
        ]
        failed |= not set(missed) <= set(beyond)
        found = [slower[kind] for kind in LEAST] + [faster[kind] for kind in LEAST]
        figures = [f"{statistics.median(taken[kind]) * 1e3:.1f} ms" for kind in taken]
        rows.append([model, *figures, *(f"{bar:.2f}" for bar in found), f"{size:.1f}", " and ".join(beyond) or "-"])
        print(", ".join(f"{a} {b}" for a, b in zip(rows[0], rows[-1], strict=True)), flush=True)
    print("\n" + "\n".join(tables.aligned(rows)))
    return failed


def _contend(model: str, arguments: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Seconds of creation by contender, round by round; and the size of the model with its plans in it, in MB."""
    original = zoo.materialize(model, arguments.zoo)
    with _folder(arguments.scratch) as folder:
        paths = {"ort": original, "cold": original}
        for way in WAYS[:2]:
            kind = "embedded" if way.embed else "beside"
            paths[kind] = folder / kind / "compiled.onnx"
            paths[kind].parent.mkdir()
            _in_process(_write, original, paths[kind], way, arguments.threads)
        size = paths["embedded"].stat().st_size
        for kind, bytes_of in (("least beside", 0), ("least embedded", size)):
            paths[kind] = folder / f"{kind}.onnx"
            _in_process(_write_ballast, folder, bytes_of, paths[kind], arguments.threads)
        taken: dict[str, list[float]] = {kind: [] for kind in paths}
        for _ in range(arguments.rounds):
            for kind, path in paths.items():
                taken[kind].append(_in_process(creation, path, arguments.threads, kind))
        return taken, size / 1e6


def _write(model: Path, compiled: Path, way: Way, threads: int) -> None:
    compile_model(model, compiled, way, threads)


def _write_ballast(folder: Path, size: int, path: Path, threads: int) -> None:
    """A compiled model of at least this many bytes, nearly all of them an attribute that nobody reads."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in "xy")
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "small", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "small.onnx")
    options = session_options(threads, {"partition_policy": "maximal"})
    compiler = ort_compiler(options, folder / "small.onnx", True)
    compiler.compile_to_file(str(path))
    model = onnx.load(path)
    (node,) = model.graph.node
    node.attribute.append(helper.make_attribute("ballast", bytes(max(0, size - path.stat().st_size))))
    onnx.save(model, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = zoo.load()
    parser.add_argument("--models", default=",".join(known), help="comma separated; the whole zoo without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", action="store_true", help="time session creation instead of comparing outputs")
    parser.add_argument("--rounds", type=int, default=5, help="of --time (5)")
    parser.add_argument("--zoo", type=Path, default=Path("target/zoo"))
    parser.add_argument("--scratch", type=Path, default=Path("target/scratch/compiled"))
    arguments = parser.parse_args()
    models = arguments.models.split(",")
    if unknown := [name for name in models if name not in known]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(known)}")
    arguments.zoo, arguments.scratch = arguments.zoo.resolve(), arguments.scratch.resolve()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    os.environ["ENGRAFT_CACHE_DIR"] = str(arguments.scratch / "cache")
    os.sched_setaffinity(0, distinct_cpus(arguments.threads))
    return int((times if arguments.time else round_trips)(models, arguments))


if __name__ == "__main__":
    sys.exit(main())
