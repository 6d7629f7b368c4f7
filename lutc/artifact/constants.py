"""Large constants of an artifact: a safetensors file with tensors where kernels want them, mapped and not copied."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lutc.errors import ArtifactError

ALIGNMENT = 64
"""Compiled kernels assume it of every buffer."""
_DTYPES = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_LONGEST_HEADER = 100 << 20


def write_constants(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays one after the other, without a copy of them all.

    The format leaves no gaps; so those whose size is a multiple of 64 bytes come first, and start at one.
    """
    order = sorted(arrays, key=lambda name: arrays[name].nbytes % ALIGNMENT != 0)
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        span = [end, end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        end = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(arrays[name]).data)


def map_constants(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as views of it: pages are read when used, and shared between processes.

    Raises ArtifactError when the file is damaged.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable, as TVM wants it; writes stay here
        size = int.from_bytes(data[:8], "little")
        if size > min(_LONGEST_HEADER, len(data) - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {str(name): _view(data, 8 + size, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "cannot load the artifact's constants",
            where=str(path),
            reason=f"{type(error).__name__}: {error}",
            fix="compile the model again, or copy the whole folder again",
        ) from error


def _view(data: mmap.mmap, start: int, entry: dict) -> np.ndarray:
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(int(d) for d in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    if min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize or not 0 <= begin <= end:
        raise ValueError("a tensor's size is not that of its shape")
    if start + end > len(data):
        raise ValueError("the file ends before its tensors")
    return np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
