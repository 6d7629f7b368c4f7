"""Which instruction set a TVM target gets."""

from __future__ import annotations

import pytest
from tvm.target import Target

from tests.tvm_ext.targets import TARGETS, least_table_bits
from tvm_ext.target import architecture, best_isa, core_of, usable_isas

_X86, _ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"


def _names(**target) -> list[str]:
    return [isa.name for isa in usable_isas(Target({"kind": "llvm", **target}))]


@pytest.mark.parametrize("isa", TARGETS)
def test_best_isa(isa: str) -> None:
    assert best_isa(Target(TARGETS[isa]), least_table_bits(isa)).name == isa


@pytest.mark.parametrize(
    ("cpu", "best"),
    [
        ("x86-64", "generic"),
        ("nehalem", "ssse3"),
        ("haswell", "avx2"),
        ("znver3", "avx2"),
        ("alderlake", "avx2"),
        ("skylake-avx512", "avx512"),
        ("cascadelake", "avx512"),  # VNNI without VBMI
        ("cannonlake", "avx512"),  # VBMI without VNNI
        ("icelake-server", "avx512_vbmi"),
        ("sapphirerapids", "avx512_vbmi"),
        ("znver4", "avx512_vbmi"),
    ],
)
def test_x86_cpu_names(cpu: str, best: str) -> None:
    assert _names(mtriple=_X86, mcpu=cpu)[0] == best


@pytest.mark.parametrize(
    ("cpu", "best"),
    [
        ("generic", "neon"),
        ("cortex-a53", "neon"),
        ("cortex-a72", "neon"),
        ("cortex-a55", "neon_little_narrow"),
        ("neoverse-v1", "neon_wide_narrow"),
        ("apple-m1", "neon_dotprod"),
        ("cortex-a76", "neon_dotprod"),
        ("neoverse-n1", "neon_dotprod"),
    ],
)
def test_aarch64_cpu_names(cpu: str, best: str) -> None:
    assert _names(mtriple=_ARM, mcpu=cpu)[0] == best


def test_the_core_a_target_names_comes_before_llvms() -> None:
    for model, kind in (("cortex-x1", "wide"), ("cortex-a55", "little"), ("cortex-a76", ""), ("no-such-core", "")):
        assert core_of(Target({"kind": "llvm", "mtriple": _ARM, "mcpu": "neoverse-v1", "model": model})).kind == kind
    assert core_of(Target({"kind": "llvm", "mtriple": _ARM, "mcpu": "neoverse-v1"})).kind == "wide"


def test_tables_are_narrowed_no_further_than_allowed() -> None:
    little = Target({"kind": "llvm", "mtriple": _ARM, "mcpu": "cortex-a55"})
    assert [best_isa(little, bits).name for bits in (0, 6, 7, 8)] == ["neon_little_narrow"] * 2 + ["neon_little"] * 2


def test_lists_are_best_first_and_end_with_generic() -> None:
    assert _names(mtriple=_X86, mcpu="znver4") == ["avx512_vbmi", "avx512", "avx2", "ssse3", "generic"]
    assert _names(mtriple=_ARM, mcpu="cortex-a76") == ["neon_dotprod", "neon", "generic"]
    assert _names(mtriple="riscv64-linux-gnu", mcpu="generic-rv64") == ["generic"]


def test_features_can_be_switched_off() -> None:
    assert _names(mtriple=_X86, mcpu="znver4", mattr=["-avx512vbmi"])[0] == "avx512"
    assert _names(mtriple=_ARM, mcpu="cortex-a76", mattr=["-dotprod"])[0] == "neon"


@pytest.mark.parametrize(
    ("triple", "arch"),
    [
        ("x86_64-linux-gnu", "x86"),
        ("i686-pc-windows", "x86"),
        ("aarch64-linux-gnu", "aarch64"),
        ("arm64-apple-macos", "aarch64"),
        ("riscv64-linux-gnu", "riscv64"),
    ],
)
def test_architecture(triple: str, arch: str) -> None:
    assert architecture(Target({"kind": "llvm", "mtriple": triple, "mcpu": "generic"})) == arch
