"""Sizes that are chosen at each run, as a user declares them: `batch=1..8`, `sequence=1..512`, `sequence=16,64`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lutc.errors import ModelImportError

_FORM = "NAME=LOW..HIGH for any size in a range, NAME=LOW..HIGH:SIZE,SIZE to say for which sizes code is made, or " \
        "NAME=SIZE,SIZE for these only"  # fmt: skip
_SMALLEST_PADDED = 16
MOST_SHAPES = 64
"""Of one artifact: each is compiled by itself."""


@dataclass(frozen=True)
class Declared:
    """A dimension's range, and the sizes that code is made for, ascending.

    sizes : () to choose them by what the model does with the dimension.
    exact : no other sizes than these are wanted.
    """

    name: str
    lowest: int
    highest: int
    sizes: tuple[int, ...] = ()
    exact: bool = False

    def chosen_sizes(self, independent: bool) -> tuple[int, ...]:
        """The sizes given, or of independent entries the lowest and of others the powers of two up to the highest.

        Raises
        ------
        ModelImportError : entries are not independent and the largest size given does not hold the highest.
        """
        if self.sizes and not independent and self.sizes[-1] < self.highest:
            raise _error(
                self.name, f"{self.lowest}..{self.highest}:{_joined(self.sizes)}",
                f"code for {self.sizes[-1]} cannot run {self.highest}: entries of this dimension depend on each other",
                f"--dynamic {self.name}={self.lowest}..{self.highest}:{_joined((*self.sizes, self.highest))}",
            )  # fmt: skip
        if self.sizes:
            return self.sizes
        if independent:
            return (self.lowest,)
        powers = [_SMALLEST_PADDED]
        while powers[-1] < self.lowest:
            powers[-1] *= 2
        while powers[-1] < self.highest:
            powers.append(2 * powers[-1])
        return (*powers[:-1], self.highest)


def declare(dynamic: Mapping[str, str | Sequence[int]]) -> list[Declared]:
    """The dimensions of `compile(dynamic=...)`: name -> the text behind `=`, or the exact sizes.

    Raises
    ------
    ModelImportError : a text that is none of the forms, or sizes that are not positive or not in the range.
    """
    return [_declare(name, value) for name, value in dynamic.items()]


def _declare(name: str, value: str | Sequence[int]) -> Declared:
    text = value if isinstance(value, str) else _joined(value)
    match = re.fullmatch(r"(?:(\d+)\.\.(\d+))?(:?)((?:\d+,)*\d+)?", text.replace(" ", ""))
    if match is None or not name or bool(match[3]) != bool(match[1] and match[4]) or not (match[1] or match[4]):
        raise _error(name, text, "this is none of the forms", f"write {_FORM}")
    sizes: tuple[int, ...] = tuple(sorted({int(size) for size in (match[4] or "").split(",") if size}))
    lowest, highest = (int(match[1]), int(match[2])) if match[1] else (sizes[0], sizes[-1])
    if lowest < 1 or highest < lowest or (sizes and sizes[0] < 1):
        raise _error(name, text, "sizes start at 1 and ranges ascend", f"write {_FORM}")
    return Declared(name, lowest, highest, sizes, exact=not match[1])


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _error(name: str, text: str, reason: str, fix: str) -> ModelImportError:
    return ModelImportError("cannot read a dynamic dimension", where=f"--dynamic {name}={text}", reason=reason, fix=fix)
