"""The machine code of hash trees: one shuffle, one comparison and two steps a level, and nothing that spills."""

from __future__ import annotations

import functools

import pytest

from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.schedule.assembly import Loop, busiest, innermost_loops, kernel_lines
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.tensor_intrin import get_isa

_SHAPE = {"x": (1, 32, 56, 56), "outputs": 16, "length": 9, "kernel": (3, 3), "pads": (1, 1, 1, 1), "tree": True}
LAYER = Layer("bytes", **_SHAPE)
# mnemonics of a byte shuffle, and of comparisons of bytes
_BYTES = {
    "ssse3": ("pshufb", ("pcmpgtb",)),
    "avx2": ("vpshufb", ("vpcmpgtb",)),
    "avx512": ("vpshufb", ("vpcmpgtb", "vpcmpltb")),
    "avx512_vbmi": ("vpshufb", ("vpcmpgtb", "vpcmpltb")),
    "neon": ("tbl", ("cmgt",)),
}
LEVELS = 4


@functools.cache
def _walk(isa: str) -> Loop:
    built = pipeline.build(module_of([LAYER]), TARGETS[isa])
    text = built.executable.mod.imports[0].inspect_source("asm")
    return busiest(innermost_loops(kernel_lines(text, "lut_encode_bytes")), _BYTES[isa][0])


@pytest.mark.parametrize("isa", _BYTES)
def test_bytes(isa: str) -> None:
    """Of each codebook: the root's threshold is broadcast, three are looked up, and the leaf's code."""
    found, group = _walk(isa).mnemonics, get_isa(isa).table_read.group
    shuffle, comparisons = _BYTES[isa]
    assert found[shuffle] == LEVELS * group
    assert sum(found[name] for name in comparisons) == LEVELS * group
    everything = sum(found.values())
    assert everything <= (9 if isa == "ssse3" else 7.5) * LEVELS * group  # two-operand instructions copy registers


@pytest.mark.parametrize("isa", ["avx512", "avx512_vbmi", "avx2", "neon"])
def test_nothing_spills_or_is_called(isa: str) -> None:
    loop = _walk(isa)
    registers = r"\bq\d+|\bv\d+" if isa == "neon" else "%[xyz]mm"
    assert not loop.on_stack(registers)
    assert not [line for line in loop.lines if line.split()[0] in ("callq", "bl", "blr")]
