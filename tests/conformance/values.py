"""Arrays of types that NumPy lacks (bfloat16, float8, int4, ...), into ONNX Runtime and out of it."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

# Bits and array type of each, by ONNX Runtime's name.
FOREIGN: dict[str, tuple[int, np.dtype]] = {
    "bfloat16": (16, np.dtype(ml_dtypes.bfloat16)),
    "float8e4m3fn": (8, np.dtype(ml_dtypes.float8_e4m3fn)),
    "float8e4m3fnuz": (8, np.dtype(ml_dtypes.float8_e4m3fnuz)),
    "float8e5m2": (8, np.dtype(ml_dtypes.float8_e5m2)),
    "float8e5m2fnuz": (8, np.dtype(ml_dtypes.float8_e5m2fnuz)),
    "float8e8m0": (8, np.dtype(ml_dtypes.float8_e8m0fnu)),
    "float4e2m1": (4, np.dtype(ml_dtypes.float4_e2m1fn)),
    "int4": (4, np.dtype(ml_dtypes.int4)),
    "uint4": (4, np.dtype(ml_dtypes.uint4)),
    "int2": (2, np.dtype(ml_dtypes.int2)),
    "uint2": (2, np.dtype(ml_dtypes.uint2)),
}
BITS = {dtype: bits for bits, dtype in FOREIGN.values()}


def is_foreign_type(name: str) -> bool:
    """Whether `tensor(...)` is of such a type."""
    return name.removeprefix("tensor(").removesuffix(")") in FOREIGN


def to_host(value: Any) -> Any:
    """What `InferenceSession.run` takes."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return to_ort(value) if isinstance(value, np.ndarray) and value.dtype in BITS else value


def to_ort(value: Any) -> ort.OrtValue:
    if isinstance(value, ort.OrtValue):
        return value
    if value.dtype not in BITS:
        return ort.OrtValue.ortvalue_from_numpy(np.require(value, requirements="C"))
    bits = BITS[value.dtype]
    data = np.require(value, requirements="C")
    if bits < 8:
        # Only the first bytes of the array count: it tells the shape, its elements are packed.
        packed = _pack(data.reshape(-1).view(np.uint8), bits)
        carrier = np.zeros(data.size, np.uint8)
        carrier[: packed.size] = packed
        data = carrier.reshape(value.shape)
    code = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(data, code)


def from_ort(value: ort.OrtValue) -> np.ndarray:
    name = value.data_type().removeprefix("tensor(").removesuffix(")")
    if name not in FOREIGN:
        return value.numpy()
    bits, dtype = FOREIGN[name]
    shape = value.shape()
    count = math.prod(shape)
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), (count * bits + 7) // 8), np.uint8)
    codes = _unpack(raw, bits)[:count] if bits < 8 else raw
    return codes.view(dtype).reshape(shape)


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Elements, a byte each, into bytes; the first takes the low bits."""
    per_byte = 8 // bits
    codes = np.pad(codes & ((1 << bits) - 1), (0, -codes.size % per_byte)).reshape(-1, per_byte)
    return np.bitwise_or.reduce(codes << (bits * np.arange(per_byte, dtype=np.uint8)), axis=1).astype(np.uint8)


def _unpack(raw: np.ndarray, bits: int) -> np.ndarray:
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)
    return ((raw[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)
