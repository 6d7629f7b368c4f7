"""Tensors in one binary file: how a request goes to the C runner and how its response comes back.

Little-endian: the 8 bytes ``LUTCTNS1``, u32 count, then for each tensor u8 type code, u8 bits, u16 lanes (as DLPack
names them), u32 ndim, i64 shape[ndim], u64 bytes, the data in C order. ``runner/main.c`` reads and writes the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MAGIC = b"LUTCTNS1"
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy kind -> DLPack type code
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


def write_tensors(path: Path, tensors: Iterable[np.ndarray]) -> None:
    """Write arrays of any shape and of integer, unsigned, float or bool dtype. Raises TypeError for other dtypes."""
    arrays = [np.asarray(t) for t in tensors]
    with path.open("wb") as file:
        file.write(_MAGIC + struct.pack("<I", len(arrays)))
        for array in arrays:
            _write(file, array)


def _write(file: BinaryIO, array: np.ndarray) -> None:
    code = _CODES.get(array.dtype.kind)
    if code is None:
        raise TypeError(f"a tensor of dtype {array.dtype} cannot be passed to the runner")
    data = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    head = struct.pack("<BBHI", code, data.dtype.itemsize * 8, 1, data.ndim)
    file.write(head + struct.pack(f"<{data.ndim}q", *data.shape) + struct.pack("<Q", data.nbytes))
    file.write(data.tobytes())


def read_tensors(path: Path) -> list[np.ndarray]:
    """Read what write_tensors or the runner wrote. Raises ValueError when the file is damaged or cut short."""
    with path.open("rb") as file:
        if file.read(8) != _MAGIC:
            raise ValueError(f"{path} is not a tensor file")
        (count,) = struct.unpack("<I", _exactly(file, 4))
        return [_read(file) for _ in range(count)]


def _read(file: BinaryIO) -> np.ndarray:
    code, bits, lanes, ndim = struct.unpack("<BBHI", _exactly(file, 8))
    shape = struct.unpack(f"<{ndim}q", _exactly(file, 8 * ndim))
    (nbytes,) = struct.unpack("<Q", _exactly(file, 8))
    if code not in _KINDS or bits % 8 or lanes != 1:
        raise ValueError(f"a tensor of DLPack type ({code}, {bits}, {lanes}) has no numpy dtype")
    dtype = np.dtype(f"<{_KINDS[code]}{bits // 8}")
    data = bytearray(_exactly(file, nbytes))  # a bytearray keeps the array writable
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"tensor file cut short: {len(data)} of {size} bytes")
    return data
