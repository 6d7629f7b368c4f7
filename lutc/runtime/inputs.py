"""Check the inputs of a run against the model's input specifications, before any compiled code sees them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lutc.errors import InputError


class Spec(Protocol):
    """What is needed of a manifest's TensorSpec; the shape may have names where any size will do."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str]: ...


def check_inputs(given: Any, specs: Sequence[Spec], where: str) -> list[np.ndarray]:
    """The arrays in the order of ``specs``.

    ``given`` is one array for a model with one input, or {name: array}; anything numpy can view as an array will do.
    Values are not looked at, so NaN and infinity pass. Raises InputError on a wrong name, dtype or shape.
    """
    named = given if isinstance(given, Mapping) else _name_single(given, specs, where)
    _check_names(list(named), [spec.name for spec in specs], where)
    return [_check(named[spec.name], spec, where) for spec in specs]


def _name_single(given: Any, specs: Sequence[Spec], where: str) -> dict[str, Any]:
    if len(specs) == 1:
        return {specs[0].name: given}
    raise InputError(
        "the inputs must be given by name",
        where=where,
        reason=f"the model has {len(specs)} inputs ({_describe(specs)}), one unnamed value was given",
        fix="pass a dict: {" + ", ".join(f"{spec.name!r}: ..." for spec in specs) + "}",
    )


def _check_names(given: list[Any], expected: list[str], where: str) -> None:
    unknown = [name for name in given if name not in expected]
    missing = [name for name in expected if name not in given]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), missing or expected, n=1, cutoff=0.0)
        raise InputError(
            f"unknown input {unknown[0]!r}",
            where=where,
            reason=f"the model's inputs are {', '.join(map(repr, expected))}",
            fix=f"did you mean {near[0]!r}?" if near else "give no inputs",
        )
    if missing:
        raise InputError(
            f"missing input {missing[0]!r}",
            where=where,
            reason=f"expected {', '.join(map(repr, expected))}, given {', '.join(map(repr, given)) or 'nothing'}",
            fix=f"add {missing[0]!r}",
        )


def _check(value: Any, spec: Spec, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"input {spec.name!r} cannot be read as an array",
            where=where,
            reason=str(error),
            fix="give a numpy array (for a torch tensor: x.detach().cpu().numpy())",
        ) from error
    if array.dtype != spec.dtype:
        raise InputError(
            f"input {spec.name!r} has the wrong dtype",
            where=where,
            reason=f"expected {spec.dtype}, given {array.dtype}",
            fix=f"convert it: x.astype({spec.dtype!r})",
        )
    if not _fits(array.shape, spec.shape):
        raise InputError(
            f"input {spec.name!r} has the wrong shape",
            where=where,
            reason=f"expected {_told(spec.shape)}, given {list(array.shape)}",
            fix=_shape_fix(array.shape, spec.shape),
        )
    return array


def _fits(given: Sequence[int], expected: Sequence[int | str]) -> bool:
    pairs = zip(given, expected, strict=False)
    return len(given) == len(expected) and all(isinstance(want, str) or got == want for got, want in pairs)


def _told(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _shape_fix(given: tuple[int, ...], expected: Sequence[int | str]) -> str:
    fixed = [size for size in expected if isinstance(size, int)]
    if len(fixed) < len(expected):
        return f"give an array of shape {_told(expected)}"
    if sorted(given) == sorted(fixed):
        return "the axes are in another order: transpose it"
    if len(given) + 1 == len(expected) and list(given) == fixed[1:] and fixed[0] == 1:
        return "add the batch axis: x[None]"
    if len(given) == len(expected) and list(given[1:]) == fixed[1:] and given[0]:
        return f"run it in batches of {expected[0]}, or compile the model for batch {given[0]}"
    return f"give an array of shape {_told(expected)}"


def _describe(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{spec.name}: {spec.dtype}{_told(spec.shape)}" for spec in specs)
