"""The converter: a SavedModel in, a SavedModel whose supported parts run on Engraft out."""

from __future__ import annotations

import atexit
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from engraft._options import to_strings
from engraft.tensorflow import _freeze, _library
from engraft.tensorflow._library import EngraftWarning
from engraft.tensorflow._progress import Progress
from engraft.tensorflow._report import Report

_LITTLE = 0.5
"""A smaller share of the FLOPs on Engraft is worth a warning."""

_DEFAULT_KEY = "serving_default"


class ConversionError(RuntimeError):
    """A model that cannot be converted."""


class Converter:
    """Converts SavedModels, Keras models and concrete functions.

    The arguments are those of TF-TRT's `TrtGraphConverterV2`:

    - `input_saved_model_dir`, `input_saved_model_tags`, `input_saved_model_signature_key`: what is converted. Without a key,
      every signature is; with one, the others are kept as they are.
    - `precision_mode`: FP32 (strict single precision), TF32 or BF16; None is the engine's default. FP16 and INT8 are accepted,
      and run at the engine's default precision, which is more exact.
    - `minimum_segment_size`: segments of fewer nodes stay with TensorFlow.
    - `allow_build_at_runtime`: whether an engine may be built when it is first called. If not, only what `build` has built (on
      this kind of machine) is used, and the original nodes run elsewhere.
    - `use_dynamic_shape`, `dynamic_shape_profile_strategy`, `max_workspace_size_bytes`, `maximum_cached_engines`,
      `use_calibration`: accepted and without effect. An engine takes every shape, and plans its memory itself.
    - `conversion_params`: the same in one value (`TrtConversionParams`).

    Beyond them:

    - `model`: a Keras model, a `tf.function` with an input signature, or a concrete function, instead of a SavedModel.
    - `progress`: whether to show a progress bar; None shows one on terminals.
    - all other keywords are options of Engraft (docs/options.md).
    """

    def __init__(
        self,
        input_saved_model_dir: str | os.PathLike[str] | None = None,
        input_saved_model_tags: Iterable[str] | None = None,
        input_saved_model_signature_key: str | None = None,
        use_dynamic_shape: bool | None = None,
        dynamic_shape_profile_strategy: str | None = None,
        max_workspace_size_bytes: int = 1 << 30,
        precision_mode: str | None = None,
        minimum_segment_size: int = 3,
        maximum_cached_engines: int = 1,
        use_calibration: bool = True,
        allow_build_at_runtime: bool = True,
        conversion_params: Any = None,
        *,
        model: Any = None,
        progress: bool | None = None,
        **options: Any,
    ) -> None:
        if (input_saved_model_dir is None) == (model is None):
            raise ValueError("either input_saved_model_dir or model is needed")
        if conversion_params is not None:
            precision_mode = conversion_params.precision_mode
            minimum_segment_size = conversion_params.minimum_segment_size
            allow_build_at_runtime = conversion_params.allow_build_at_runtime
        self._directory = None if input_saved_model_dir is None else os.fspath(input_saved_model_dir)
        self._tags = None if input_saved_model_tags is None else list(input_saved_model_tags)
        self._key = input_saved_model_signature_key
        self._model = model
        self._progress = progress
        self._allow_build = allow_build_at_runtime
        self._options = to_strings(_precision(precision_mode) | _size(minimum_segment_size) | options)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        # Converted functions read from it; it goes at the end of the process.
        self._files = tempfile.TemporaryDirectory(prefix="engraft-")
        atexit.register(self._files.cleanup)
        self._module: Any = None
        self._functions: dict[str, Any] = {}
        self.report = Report()
        """The placement report, once `convert` was called."""

    def convert(self, calibration_input_fn: Callable[[], Iterable[Any]] | None = None) -> Any:
        """Converts, and returns the converted signature (that of the key, else `serving_default`, else the first)."""
        if calibration_input_fn is not None:
            warnings.warn("calibration_input_fn is not used: the engine has no INT8 precision", EngraftWarning, stacklevel=2)
        directory = self._saved_model()
        import tensorflow as tf

        loaded = tf.saved_model.load(directory, tags=self._tags)
        if not loaded.signatures:
            raise ConversionError(f"{directory} has no signature; save the model with `signatures=`")
        if self._key is not None and self._key not in loaded.signatures:
            known = ", ".join(loaded.signatures)
            raise ConversionError(f"{directory} has no signature '{self._key}', but {known}")
        keys = list(loaded.signatures) if self._key is None else [self._key]
        self._module = tf.Module()
        self._functions = dict(loaded.signatures)
        self.report = Report()
        with Progress("converting", len(keys), self._progress) as progress:
            for key in keys:
                progress.step(key)
                self._convert_signature(loaded, key)
        self._check()
        if any(key not in self.report.signatures for key in self._functions):
            # Their variables and functions are the original's.
            self._module.original = loaded
        self._warn()
        return self._functions[self._default_key()]

    def build(self, input_fn: Callable[[], Iterable[Any]]) -> None:
        """Runs the converted signature on what `input_fn` yields (lists, tuples or mappings of inputs), so that engines are
        built, kept in the plan cache and tuned for these shapes."""
        import tensorflow as tf

        function = self._converted(self._default_key())
        names = list(function.structured_input_signature[1])
        with Progress("building", None, self._progress) as progress:
            for number, inputs in enumerate(input_fn()):
                progress.step(f"batch {number + 1}")
                if not isinstance(inputs, Mapping):
                    values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
                    inputs = dict(zip(names, values, strict=True))
                function(**{name: tf.convert_to_tensor(value) for name, value in inputs.items()})

    def save(
        self,
        output_saved_model_dir: str | os.PathLike[str],
        save_gpu_specific_engines: bool = True,
        options: Any = None,
    ) -> None:
        """Writes the converted SavedModel. Programs that load it import `engraft.tensorflow` first."""
        import tensorflow as tf

        self._converted(self._default_key())
        tf.saved_model.save(self._module, os.fspath(output_saved_model_dir), signatures=self._functions, options=options)

    def summary(
        self, line_length: int = 160, detailed: bool = True, print_fn: Callable[[str], None] | None = None
    ) -> None:
        """Prints the placement report; `detailed` with every node."""
        self._converted(self._default_key())
        self.report.write(line_length, detailed, print_fn or print)

    def _default_key(self) -> str:
        if self._key is not None:
            return self._key
        return _DEFAULT_KEY if _DEFAULT_KEY in self._functions else next(iter(self._functions), _DEFAULT_KEY)

    def _converted(self, key: str) -> Any:
        if key not in self._functions:
            raise RuntimeError("`convert` comes first")
        return self._functions[key]

    def _saved_model(self) -> str:
        """The SavedModel's folder; one is written for other models."""
        if self._directory is not None:
            return self._directory
        if self._scratch is None:
            # Kept as long as the converter: assets are read from it.
            self._scratch = tempfile.TemporaryDirectory(prefix="engraft-")
            _freeze.export(self._model, self._scratch.name)
        return self._scratch.name

    def _convert_signature(self, loaded: Any, key: str) -> None:
        original = loaded.signatures[key]
        name = f"{self._directory or type(self._model).__name__}:{key}"
        try:
            frozen = _freeze.freeze(original)
        except _freeze.FreezeError as error:
            self.report.kept[key] = str(error)
            return
        graph, report = _library.accelerate(frozen.graph, frozen.feeds, frozen.fetches, self._options, name)
        self.report.signatures[key] = report
        if not self._allow_build:
            graph = _freeze.without_builds(graph)
        self._functions[key], kept = _freeze.signature(original, frozen, graph, loaded, self._files.name)
        setattr(self._module, f"signature_{len(self.report.signatures)}", kept)

    def _check(self) -> None:
        """What options ask for beyond the conversion itself."""
        if path := self._options.get("placement_report_path"):
            Path(path).write_text(json.dumps(self.report.signatures, indent=2))
        least = self._options.get("min_accelerated_flops")
        if least is not None:
            share = float(least.rstrip("%")) / (100 if least.endswith("%") else 1)
            if self.report.accelerated_flops < share:
                raise ConversionError(
                    f"{self.report.accelerated_flops:.1%} of the FLOPs run on Engraft, min_accelerated_flops asks for {least}"
                )

    def _warn(self) -> None:
        for key, reason in self.report.kept.items():
            warnings.warn(f"signature '{key}' stays as it was: {reason}", EngraftWarning, stacklevel=3)
        share = self.report.accelerated_flops
        if self.report.signatures and share < _LITTLE:
            reasons = "; ".join(f"{op}: {reason}" for op, reason, _, _ in self.report.reasons()[:3])
            warnings.warn(
                f"only {share:.1%} of the FLOPs run on Engraft ({reasons}); `summary` says more", EngraftWarning, stacklevel=3
            )


def _precision(mode: str | None) -> dict[str, str]:
    """The option that a precision mode of TF-TRT stands for."""
    if mode is None:
        return {}
    name = str(mode).lower()
    if name in ("fp16", "int8"):
        warnings.warn(
            f"precision_mode {mode}: the engine has no such precision and computes at its default, which is more exact",
            EngraftWarning,
            stacklevel=4,
        )
        return {}
    if name not in ("fp32", "tf32", "bf16"):
        raise ValueError(f"precision_mode '{mode}' is none of FP32, TF32, BF16, FP16, INT8")
    return {"precision": name}


def _size(minimum_segment_size: int) -> dict[str, Any]:
    """TF-TRT's -1 asks for the whole graph or nothing: here, for all that can be taken."""
    if minimum_segment_size == -1:
        return {"partition_policy": "maximal"}
    if minimum_segment_size < 1:
        raise ValueError("minimum_segment_size is at least 1, or -1")
    return {"min_subgraph_size": minimum_segment_size}
