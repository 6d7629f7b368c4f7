"""Constants beside the code: what is written is mapped back, aligned, and damage is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lutc.artifact.constants import ALIGNMENT, map_constants, write_constants
from lutc.errors import ArtifactError

ARRAYS = {
    "odd": np.arange(7, dtype="int8"),
    "weights": np.arange(96, dtype="float32").reshape(2, 48),
    "table": np.arange(-64, 64, dtype="int8").reshape(2, 4, 16),
    "empty": np.zeros((0, 3), "int64"),
}


def test_mapped_as_written(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_constants(path, ARRAYS)
    mapped, read = map_constants(path), load_file(path)
    assert sorted(mapped) == sorted(read) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        for other in (mapped[name], read[name]):
            assert (other.dtype, other.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(other, array)
    assert all(mapped[name].ctypes.data % ALIGNMENT == 0 for name in ("weights", "table"))


def test_writes_do_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_constants(path, ARRAYS)
    map_constants(path)["weights"][...] = -1
    np.testing.assert_array_equal(map_constants(path)["weights"], ARRAYS["weights"])


def _file(header: object, data: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _entry(**changed: object) -> dict:
    return {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changed}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 40,
        (1 << 40).to_bytes(8, "little") + b"{}",
        _file([]),
        _file({"x": 3}),
        _file(_entry(dtype="F99")),
        _file(_entry(shape=[5])),
        _file(_entry(shape=[-2, -2])),
        _file(_entry(data_offsets=[16, 0])),
        _file(_entry(data_offsets=[-16, 0])),
        _file(_entry(data_offsets=[64, 80])),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot load the artifact's constants"):
        map_constants(path)
