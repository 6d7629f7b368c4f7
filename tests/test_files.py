"""Inputs from files, random inputs, and early checks of files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from lutc.artifact.manifest import TensorSpec
from lutc.errors import InputError, ModelImportError
from lutc.files import check_file
from lutc.inputs import load_inputs, random_inputs

_ONE = [TensorSpec("x", "float32", [2, 3])]
_TWO = [*_ONE, TensorSpec("ids", "int64", [4])]


def test_random_inputs_are_seeded_and_fit() -> None:
    first, again, other = (random_inputs([*_TWO, TensorSpec("m", "bool", [5])], seed) for seed in (1, 1, 2))
    assert {name: (value.dtype.name, value.shape) for name, value in first.items()} == {
        "x": ("float32", (2, 3)),
        "ids": ("int64", (4,)),
        "m": ("bool", (5,)),
    }
    assert set(first["ids"]) <= {0, 1}
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_npz_and_npy(tmp_path: Path) -> None:
    x = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "x.npz", x=x, ids=np.arange(4))
    np.save(tmp_path / "x.npy", x)
    assert set(load_inputs(tmp_path / "x.npz", _TWO)) == {"x", "ids"}
    np.testing.assert_array_equal(load_inputs(tmp_path / "x.npy", _ONE)["x"], x)


def _truncated(folder: Path) -> None:
    np.savez(folder / "in.npz", x=np.ones(1000))
    (folder / "in.npz").write_bytes((folder / "in.npz").read_bytes()[:500])


BAD = {
    "missing": ("in.npz", lambda folder: None),
    "suffix": ("in.txt", lambda folder: (folder / "in.txt").write_text("1 2")),
    "empty": ("in.npy", lambda folder: (folder / "in.npy").touch()),
    "truncated": ("in.npz", _truncated),
    "pickle": ("in.npy", lambda folder: (folder / "in.npy").write_bytes(pickle.dumps([1]))),
    "objects": ("in.npy", lambda folder: np.save(folder / "in.npy", np.array([{}], object), allow_pickle=True)),
    "npy-for-two": ("in.npy", lambda folder: np.save(folder / "in.npy", np.ones(3))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_files(tmp_path: Path, golden, name: str) -> None:
    file, make = BAD[name]
    make(tmp_path)
    with pytest.raises(InputError) as caught:
        load_inputs(tmp_path / file, _TWO)
    golden(f"error: {caught.value}".replace(str(tmp_path), "<folder>"), f"inputs/{name}.txt")


@pytest.mark.parametrize("name", ["folder", "missing", "suffix", "empty"])
def test_check_file(tmp_path: Path, golden, name: str) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "resnet20.onnx").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.onnx").touch()
    file = {"folder": "zoo", "missing": "zoo/resnet2.onnx", "suffix": "notes.txt", "empty": "empty.onnx"}[name]
    with pytest.raises(ModelImportError) as caught:
        check_file(tmp_path / file, (".onnx", ".pt2"))
    golden(f"error: {caught.value}".replace(str(tmp_path), "<folder>"), f"files/{name}.txt")
    assert check_file(tmp_path / "zoo" / "resnet20.onnx", (".onnx",)).name == "resnet20.onnx"
