"""Quantized rows of a dense layer, at every boundary between two integers, beside it and far out of range."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.execute import build_and_execute
from tests.tvm_ext.targets import TARGETS
from tvm_ext import op

LENGTH = 16


def _inputs(inv_scale: np.ndarray) -> np.ndarray:
    """float32 [rows, C * 16] whose products with inv_scale [C] are ties, their neighbours, and what saturates."""
    ties = np.arange(-300, 301, dtype=np.float32) / 2
    ties = np.concatenate([ties, -ties * 2, [1e4, 3e9, 1e30, np.inf, 1e-8, 2.0**-25]]).astype(np.float32)
    wanted = np.concatenate([ties, -ties])[:, None] / inv_scale
    up, down = np.nextafter(wanted, np.float32(np.inf)), np.nextafter(wanted, np.float32(-np.inf))
    x = np.concatenate([wanted, up, down])
    x = np.pad(x, ((0, -len(x) % LENGTH), (0, 0)))
    return np.ascontiguousarray(
        x.reshape(-1, LENGTH, len(inv_scale)).transpose(0, 2, 1).reshape(-1, x.shape[1] * LENGTH)
    )


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("encode_dtype", ["int8", "int6"])
def test_rows_at_boundaries(encode_dtype: str, signed: bool) -> None:
    inv_scale = np.array([1, 0.25, 1.7, 63.123], np.float32)
    x = _inputs(inv_scale)
    given, builder = relax.Var("x", relax.TensorType(x.shape, "float32")), relax.BlockBuilder()
    with builder.function("main", [given]):
        attributes = {"encode_dtype": encode_dtype, "input_signed": signed, "zero_point": 0 if signed else -128}
        rows = op.quantize_rows(given, relax.const(inv_scale), **attributes, subvector_len=LENGTH, width=LENGTH)
        builder.emit_func_output(builder.emit(rows))
    module = builder.get()
    assert isinstance(module, tvm.IRModule)
    (found,), _ = build_and_execute(module, [x], TARGETS["neon_dotprod"])

    low, high = (-128, 127) if signed else (0, 255)
    with np.errstate(over="ignore"):
        product = x.reshape(len(x), -1, LENGTH) * inv_scale[:, None]
    expected = np.clip(np.rint(product), low, high).astype(np.int64)
    if encode_dtype == "int6":
        expected = np.minimum(expected + 2, high) // 4 * 4
    np.testing.assert_array_equal(found[: x.size].reshape(expected.shape), expected - (0 if signed else 128))
