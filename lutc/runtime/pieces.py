"""Inputs of any size an artifact allows -> calls of the code it has, and their results -> outputs of the right size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lutc.artifact.manifest import Dimension, Manifest, ShapeCode, TensorSpec
from lutc.artifact.store import LIBRARY_NAME
from lutc.errors import InputError
from lutc.runtime.inputs import check_inputs
from lutc.runtime.sizes import check_size


@dataclass(frozen=True)
class Part:
    """`count` entries of a dimension from `start` on, for code that takes `size`; `count` = `size` but for padding."""

    start: int
    count: int
    size: int


@dataclass(frozen=True)
class Piece:
    """One call of main().

    Parameters
    ----------
    library, constants : names of the code's file and of the constants it takes last.
    arrays : what it takes first: the model's inputs, padded, and the masks of padded dimensions.
    parts : dimension -> which of its entries these are.
    """

    library: str
    constants: Sequence[str]
    arrays: Sequence[np.ndarray]
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Plan:
    """The calls that make up a run; `sizes` are the dimensions' in this run."""

    pieces: Sequence[Piece]
    sizes: Mapping[str, int]
    outputs: Sequence[TensorSpec]

    def join(self, results: Sequence[Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        """Outputs by name from what each piece returned; the arrays may be views of it."""
        if len(results) == 1 and all(part.count == part.size for part in self.pieces[0].parts.values()):
            return dict(zip([spec.name for spec in self.outputs], results[0], strict=True))
        return {spec.name: self._join(spec, [result[index] for result in results])
                for index, spec in enumerate(self.outputs)}  # fmt: skip

    def _join(self, spec: TensorSpec, arrays: Sequence[np.ndarray]) -> np.ndarray:
        dims = spec.dims or [""] * len(spec.shape)
        whole = np.empty([self.sizes.get(d, n) for d, n in zip(dims, arrays[0].shape, strict=True)], arrays[0].dtype)
        for piece, array in zip(self.pieces, arrays, strict=True):
            if any(part.start for name, part in piece.parts.items() if name not in dims):
                continue  # the same in all of them
            parts = [piece.parts.get(name) for name in dims]
            to = tuple(slice(p.start, p.start + p.count) if p else slice(None) for p in parts)
            whole[to] = array[tuple(slice(0, p.count) if p else slice(None) for p in parts)]
        return whole


@dataclass(frozen=True)
class _Wanted:
    """An input, with names in its shape where the size is chosen at the run."""

    name: str
    dtype: str
    shape: Sequence[int | str]


def plan(given: Any, manifest: Manifest, where: str) -> Plan:
    """How to run `given` (see `check_inputs`). Raises InputError for inputs or sizes that do not fit."""
    arrays = check_inputs(given, [_Wanted(spec.name, spec.dtype, spec.sizes) for spec in manifest.inputs], where)
    if not manifest.dimensions:
        return Plan([Piece(LIBRARY_NAME, manifest.constants, arrays, {})], {}, manifest.outputs)
    sizes, names = _sizes(arrays, manifest, where), [dimension.name for dimension in manifest.dimensions]
    pieces = []
    for parts in itertools.product(*(_parts(d, sizes[d.name]) for d in manifest.dimensions)):
        chosen = dict(zip(names, parts, strict=True))
        wanted = {name: part.size for name, part in chosen.items()}
        code = next(code for code in manifest.shapes if code.sizes == wanted)
        pieces.append(_piece(code, arrays, manifest, chosen))
    return Plan(pieces, sizes, manifest.outputs)


def _sizes(arrays: Sequence[np.ndarray], manifest: Manifest, where: str) -> dict[str, int]:
    """The size of each dimension in these inputs."""
    found: dict[str, tuple[int, str]] = {}
    for spec, array in zip(manifest.inputs, arrays, strict=True):
        for name, size in zip(spec.dims, array.shape, strict=False):
            if name and found.setdefault(name, (size, spec.name))[0] != size:
                raise InputError(
                    f"the inputs have different sizes of {name!r}", where=where,
                    reason=f"{found[name][1]!r} has {found[name][0]}, {spec.name!r} has {size}",
                    fix="give inputs that belong together",
                )  # fmt: skip
    for dimension in manifest.dimensions:
        check_size(dimension, found[dimension.name][0], where)
    return {name: size for name, (size, _) in found.items()}


def _parts(dimension: Dimension, size: int) -> list[Part]:
    if dimension.handling != "split":
        return [Part(0, size, next(s for s in dimension.sizes if s >= size))]
    parts, start = [], 0
    while start < size:
        fitting = [s for s in dimension.sizes if s <= size - start] or dimension.sizes[:1]
        parts.append(Part(start, min(fitting[-1], size - start), fitting[-1]))
        start += parts[-1].count
    return parts


def _piece(code: ShapeCode, arrays: Sequence[np.ndarray], manifest: Manifest, parts: Mapping[str, Part]) -> Piece:
    cut = [_cut(array, [parts.get(name) for name in spec.dims])
           for array, spec in zip(arrays, manifest.inputs, strict=True)]  # fmt: skip
    masks = [_mask(parts[d.name]) for d in manifest.dimensions if d.handling == "pad"]
    return Piece(code.library, code.constants, [*cut, *masks], parts)


def _cut(array: np.ndarray, parts: Sequence[Part | None]) -> np.ndarray:
    """The entries of a piece. Padding repeats the last one: a value that the model can take is there for sure."""
    if not any(parts):
        return array
    array = array[tuple([slice(p.start, p.start + p.count) if p else slice(None) for p in parts])]
    for axis, part in enumerate(parts):
        if part and part.count < part.size:
            last = np.take(array, [-1], axis).repeat(part.size - part.count, axis)
            array = np.concatenate([array, last], axis)
    return array


def _mask(part: Part) -> np.ndarray:
    """0 where there is data, -inf where there is padding."""
    mask = np.zeros(part.size, np.float32)
    mask[part.count :] = -np.inf
    return mask
