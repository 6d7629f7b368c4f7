"""Target -> usable instruction sets. The only place that reads target attributes."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target
from tvm.target.codegen import llvm_get_system_triple, target_has_features

from tvm_ext.compute.register_tile import VectorUnit
from tvm_ext.tensor_intrin import Isa, list_isas


def architecture(target: Target) -> str:
    """ "x86", "aarch64", "arm" (32 bits), or the first word of the triple."""
    triple = str(target.attrs["mtriple"]) if "mtriple" in target.attrs else llvm_get_system_triple()
    word = triple.split("-")[0]
    if word in ("x86_64", "i386", "i686", "x86"):
        return "x86"
    if word.startswith(("armv", "thumb")):
        return "arm"
    return "aarch64" if word in ("aarch64", "arm64") else word


@dataclass(frozen=True)
class Core:
    """A kind of AArch64 core, by what decides between kernels.

    Parameters
    ----------
    kind : "little" (in order), "wide" (four vector pipes, two of them for tbl), or "" for the rest.
    names : cores, as a target's `model` or else its `mcpu` names them.
    row_preadd : codebooks added in int8 where table rows are loaded; 2 wants tables of 7 bits.
    """

    kind: str = ""
    names: tuple[str, ...] = ()
    row_preadd: int = 1


CORES = (
    Core("little", ("cortex-a53", "cortex-a55"), row_preadd=2),
    Core("wide", ("cortex-x1", "neoverse-v1", "graviton3"), row_preadd=2),
    Core("", ("cortex-a76", "raspberry-pi-5", "neoverse-n1", "graviton2", "apple-m1"), row_preadd=2),
)


def core_of(target: Target) -> Core:
    """The kind of core of `target`. LLVM's CPU may be another for its scheduling model, so `model` comes first."""
    name = str(target.attrs.get("model", "unknown"))
    name = str(target.attrs.get("mcpu", "")) if name == "unknown" else name
    return next((core for core in CORES if name in core.names), Core())


def usable_isas(target: Target, table_bits: int = 0) -> list[Isa]:
    """ISAs that `target` has all features of, best first; ends with "generic".

    `table_bits`: the least bits that tables may be narrowed to.
    """
    arch, core = architecture(target), core_of(target)
    return [
        isa
        for isa in list_isas()
        if isa.arch in ("", arch)
        and isa.core in ("", core.kind)
        and isa.table_read.table_bits >= table_bits
        and (not isa.requires or target_has_features(list(isa.requires), target))
    ]


def best_isa(target: Target, table_bits: int = 0) -> Isa:
    """The ISA kernels are made for; see `usable_isas`."""
    return usable_isas(target, table_bits)[0]


def vector_unit(target: Target) -> VectorUnit:
    """The float32 vectors of a target."""
    if architecture(target) == "aarch64":
        return VectorUnit(4, 32)
    if architecture(target) == "x86":
        if target_has_features(["avx512f"], target):
            return VectorUnit(16, 32, broadcasts=True)
        return VectorUnit(8 if target_has_features(["avx"], target) else 4, 16)
    return VectorUnit(4, 16)
