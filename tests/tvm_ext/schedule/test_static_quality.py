"""The machine code of the kernels: what the inner loops hold, and that nothing spills or allocates there."""

from __future__ import annotations

import functools

import pytest

from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.schedule.assembly import busiest, innermost_loops, kernel_lines, stack_access
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline

CONV = Layer("conv", (1, 64, 56, 56), 64, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), affine=True, relu=True)
# 200 codebooks: too few for a drain, enough for the loop to stay a loop
DENSE = Layer("dense", (1024, 800), 64, length=4, search="s8")
_ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
CPUS: dict[str, dict] = TARGETS | {
    cpu: {**_ARM, "mcpu": cpu, "mattr": ["+neon"]} for cpu in ("cortex-a55", "cortex-a72", "neoverse-n1", "apple-m1")
}
_PSHUFB = {"vpshufb": 1, "vpmaddubsw": 1, "vpaddw": 1, "vpunpcklbw": 0.5, "vpunpckhbw": 0.5}
_TBL = {"tbl": 1, "saddw": 1, "saddw2": 1}
# instructions for each table read (of a register) in the inner loop
_MIX: dict[str, dict[str, float]] = {
    "ssse3": {name.removeprefix("v"): count for name, count in _PSHUFB.items()},
    "avx2": _PSHUFB,
    "avx512": _PSHUFB,
    "avx512_vbmi": {"vpermb": 1, "vpdpbusd": 1},
    "neon": _TBL,
    "neon_dotprod": _TBL,
}
_LOADS = {
    "vporq", "vpord", "vmovdqa", "vmovdqa64", "vmovdqu64", "movdqa", "movaps", "vbroadcasti128", "vbroadcasti32x4",
    "ldr", "ldp",
}  # fmt: skip
_CONTROL = {"addq", "subq", "cmpq", "jne", "jb", "add", "sub", "subs", "cmp", "b.ne", "mov", "cbnz", "prfm"}


@functools.cache
def _assembly(name: str) -> str:
    built = pipeline.build(module_of([CONV, DENSE]), CPUS[name])
    return built.executable.mod.imports[0].inspect_source("asm")


def _isa(name: str) -> str:
    if name in TARGETS:
        return name
    return "neon" if name == "cortex-a72" else "neon_dotprod"


_SHUFFLING = [name for name in CPUS if name != "generic"]


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize("name", _SHUFFLING)
def test_inner_loop_of_the_table_read(name: str, layer: str) -> None:
    """Shuffles and adds, the loads they need, one loop counter, and nothing else."""
    mix = _MIX[_isa(name)]
    shuffle = next(iter(mix))
    loop = busiest(innermost_loops(kernel_lines(_assembly(name), f"lut_lookup_{layer}")), shuffle)
    found = loop.mnemonics
    reads = found[shuffle]
    assert reads >= 6, "the tile must reuse what it loads"
    assert {m: found[m] for m in mix} == {m: count * reads for m, count in mix.items()}
    rest = set(found) - set(mix)
    assert rest <= _LOADS | _CONTROL
    if _isa(name) != "ssse3":  # two-operand instructions copy registers
        assert sum(found[m] for m in rest) <= 1.75 * reads


@pytest.mark.parametrize("name", _SHUFFLING)
def test_accumulators_stay_in_registers(name: str) -> None:
    """No vector goes through the stack: nowhere with feature-major results, else not in the inner loop."""
    conv = kernel_lines(_assembly(name), "lut_lookup_conv")
    dense = kernel_lines(_assembly(name), "lut_lookup_dense")
    assert not _spills(conv, name)
    assert not _spills(busiest(innermost_loops(dense), next(iter(_MIX[_isa(name)]))).lines, name)


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize("name", _SHUFFLING)
def test_the_table_read_calls_and_allocates_nothing(name: str, layer: str) -> None:
    """Row-major results pass through a tile in memory, which is got once, outside of the loops over codebooks."""
    lines = kernel_lines(_assembly(name), f"lut_lookup_{layer}")
    if layer == "dense":
        assert len([line for line in lines if line.split()[0] in ("callq", "bl", "blr")]) <= 6
        lines = busiest(innermost_loops(lines), next(iter(_MIX[_isa(name)]))).lines
    assert not [line for line in lines if "Workspace" in line or line.split()[0] in ("callq", "bl", "blr")]


def _spills(lines: list[str], name: str) -> list[str]:
    """Instructions that move a vector to or from the stack."""
    vector = ("q", "{") if "aarch64" in CPUS[name]["mtriple"] else ("%xmm", "%ymm", "%zmm")
    return [line for line in lines if stack_access(line) and any(o.strip().startswith(vector) for o in _operands(line))]


def _operands(line: str) -> list[str]:
    return line.split(None, 1)[1].split(",") if len(line.split()) > 1 else []


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("ssse3", "pmaddwd"),
        ("avx2", "vpmaddwd"),
        ("avx512", "vpmaddwd"),
        ("avx512_vbmi", "vpdpbusd"),
        ("neon", "smlal"),
        ("neon_dotprod", "sdot"),
    ],
)
def test_search_uses_the_dot_product(name: str, instruction: str, layer: str) -> None:
    """One for each vector of rows, centroid and step; nothing is called and rounding is one instruction."""
    lines = kernel_lines(_assembly(name), f"lut_encode_{layer}")
    found = [line.split()[0] for line in lines]
    assert found.count(instruction) >= 16
    assert not [line for line in lines if line.split()[0] in ("callq", "bl", "blr") and "Parallel" not in line]


def test_generic_needs_no_shuffle() -> None:
    text = _assembly("generic")
    assert "pshufb" not in text and "vp" not in {line.split()[0][:2] for line in text.splitlines() if line.split()}
