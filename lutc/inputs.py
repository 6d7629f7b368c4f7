"""Inputs for a run: from an .npz or .npy file, or random ones of the right shape."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lutc.errors import InputError


class _Spec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


def random_inputs(specs: Iterable[_Spec], seed: int = 0) -> dict[str, np.ndarray]:
    """Normal floats, integers 0 or 1 (valid as token ids and masks), and booleans; the same seed gives the same."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random(rng, np.dtype(spec.dtype), list(spec.shape)) for spec in specs}


def _random(rng: np.random.Generator, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def check_input_file(path: str | Path) -> Path:
    """The path, after a check that it exists and is an .npz or .npy. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise _error(path, "there is no such file", "check the path")
    if path.suffix not in (".npz", ".npy"):
        raise _error(path, f"its suffix is {path.suffix or 'missing'}", "write it with numpy.savez or numpy.save")
    return path


def load_inputs(path: str | Path, specs: Sequence[_Spec]) -> dict[str, np.ndarray]:
    """Arrays by input name: all of an .npz, or the one of an .npy for a model with one input.

    Raises InputError when the file cannot be read; names and shapes are checked by the run. Pickles are refused.
    """
    path = check_input_file(path)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {_single(path, specs): content}
        with content:
            return {name: content[name] for name in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        pickled = "pickle" in str(error)
        reason = "it holds Python objects (a pickle), which are never loaded" if pickled else f"it is damaged: {error}"
        raise _error(path, reason, "write it again with numpy.savez or numpy.save, arrays of numbers only") from error


def _single(path: Path, specs: Sequence[_Spec]) -> str:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise _error(path, f"an .npy holds one array, the model has {len(specs)} inputs: {names}", "give an .npz")
    return specs[0].name


def _error(path: Path, reason: str, fix: str) -> InputError:
    return InputError("cannot read the inputs", where=str(path), reason=reason, fix=fix)
