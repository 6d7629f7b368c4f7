from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lutc.runtime.tensor_file import read_tensors, write_tensors


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "uint16", "bool"]
)
def test_round_trip(dtype: str, tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_tensors(tmp_path / "t", [values, values[:, ::2], values.T, values[0, 0, 0], values[:0]])
    back = read_tensors(tmp_path / "t")
    for expected, got in zip([values, values[:, ::2], values.T, values[0, 0, 0], values[:0]], back, strict=True):
        assert got.dtype == expected.dtype and got.shape == expected.shape and got.flags.writeable
        np.testing.assert_array_equal(got, expected)


def test_nan_and_infinity_keep_their_bits(tmp_path: Path) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], "float32")
    write_tensors(tmp_path / "t", [values])
    assert read_tensors(tmp_path / "t")[0].tobytes() == values.tobytes()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_tensors(path, [np.ones(8, "float32")])
    whole = path.read_bytes()
    for cut in (4, 10, 30, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="tensor file"):
            read_tensors(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex64"):
        write_tensors(tmp_path / "t", [np.ones(2, "complex64")])
