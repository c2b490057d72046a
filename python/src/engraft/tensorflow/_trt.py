"""The names of TF-TRT (`tensorflow.python.compiler.tensorrt.trt_convert`): code for it needs another import, no more."""

from __future__ import annotations

from typing import Any, NamedTuple

from engraft.tensorflow._converter import Converter

TrtGraphConverterV2 = Converter


class TrtPrecisionMode:
    """Values of `precision_mode`."""

    FP32 = "FP32"
    TF32 = "TF32"
    BF16 = "BF16"
    FP16 = "FP16"
    INT8 = "INT8"

    @staticmethod
    def supported_precision_modes() -> list[str]:
        return ["FP32", "TF32", "BF16", "FP16", "INT8", "fp32", "tf32", "bf16", "fp16", "int8"]


class TrtConversionParams(NamedTuple):
    """Values of `conversion_params`."""

    max_workspace_size_bytes: int = 1 << 30
    precision_mode: str | None = None
    minimum_segment_size: int = 3
    maximum_cached_engines: int = 1
    use_calibration: bool = True
    allow_build_at_runtime: bool = True

    def replace(self, **changes: Any) -> TrtConversionParams:
        return self._replace(**changes)


DEFAULT_TRT_CONVERSION_PARAMS = TrtConversionParams()
