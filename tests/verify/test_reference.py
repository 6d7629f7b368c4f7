"""The public numpy reference gives the oracle's codes."""

from __future__ import annotations

import numpy as np
import pytest

from lutc import reference
from lutc.importers.lut_layer import LUTLayer
from tests import oracle
from tests.importers.models import lut_tensors

GEOMETRY = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}


def layer(encode_dtype: str, geometry: dict | None = None, *, c: int = 3, v: int = 4, signed: bool = True) -> LUTLayer:
    tensors = lut_tensors(np.random.default_rng(1), c, 16, v, 5, encode_dtype=encode_dtype)
    return LUTLayer("fc", tensors, encode_dtype=encode_dtype, input_signed=signed, geometry=geometry or {})


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_dense(encode_dtype: str, signed: bool) -> None:
    fc = layer(encode_dtype, signed=signed)
    x = np.random.default_rng(2).standard_normal((2, 7, 11)).astype(np.float32)
    x[0, 0] = 0
    _, codes = oracle.dense(x, **fc.constants, encode_dtype=encode_dtype, input_signed=signed)
    np.testing.assert_array_equal(reference.codes(fc, x), codes)


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_conv2d(encode_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_BLOCK", 1000)  # several blocks of rows
    conv = layer(encode_dtype, GEOMETRY, c=4, v=6)
    x = np.random.default_rng(2).standard_normal((2, 4, 9, 8)).astype(np.float32)
    _, codes = oracle.conv2d(x, **conv.constants, **GEOMETRY, encode_dtype=encode_dtype)
    np.testing.assert_array_equal(reference.codes(conv, x), codes)


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_values_that_are_not_numbers_give_some_code(encode_dtype: str) -> None:
    codes = reference.codes(layer(encode_dtype), np.full((2, 11), np.nan, np.float32))
    assert codes.dtype == np.uint8 and codes.max() < 16
