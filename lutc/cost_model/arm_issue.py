"""What the in-order Cortex-A55 can issue, from Arm's optimization guide of the core.

LLVM's model of it is wrong for exactly our instructions (tbl with two registers, sadalp, 16-byte loads, multiply-adds
on 16 bytes), so its blocks are priced by the busiest of three resources instead: the vector unit, the load and store
unit, and two instructions a cycle. Waiting for results is left out: the kernels have more independent sums than that
takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUAD = re.compile(r"\bv\d+\.(?:16b|8h|4s|2d)\b")
_VECTOR = re.compile(r"\bv\d+\.")
_SLOW = {"sadalp": 2.0, "uadalp": 2.0}


def issue_cycles(instructions: Sequence[str]) -> float:
    """Cycles that a block takes at least."""
    vector, memory = (sum(column) for column in zip(*map(_units, instructions), strict=True))
    return max(vector, memory, len(instructions) / 2)


def _units(instruction: str) -> tuple[float, float]:
    """Cycles of the vector unit, and of the load and store unit."""
    name, _, operands = instruction.partition(" ")
    if name.startswith("ld"):
        return 0, _load(name, operands)
    if name.startswith("st"):
        return 0, 2 if name == "stp" and operands.startswith("q") else max(1, len(_list(operands)))
    if not _VECTOR.search(operands):
        return 0, 0
    if name in ("tbl", "tbx"):
        return len(_list(operands)), 0
    return _SLOW.get(name, 1.0 if _QUAD.search(operands) else 0.5), 0


def _load(name: str, operands: str) -> float:
    """A 64-bit word of data a cycle."""
    if name.startswith("ld1r"):
        return 1
    if "{" in operands:
        return sum(2 if _QUAD.search(register) else 1 for register in _list(operands))
    words = 2 if operands.startswith("q") else 1
    if name in ("ldp", "ldnp"):
        return 2 * words if operands[0] in "qdx" else 1
    return words


def _list(operands: str) -> list[str]:
    """Registers of `{ v0.16b, v1.16b }`."""
    inside = operands.partition("{")[2].partition("}")[0]
    return [register for register in inside.split(",") if register.strip()]
