"""Target -> usable instruction sets. The only place that reads target attributes."""

from __future__ import annotations

from tvm.target import Target
from tvm.target.codegen import llvm_get_system_triple, target_has_features

from tvm_ext.compute.register_tile import VectorUnit
from tvm_ext.tensor_intrin import Isa, list_isas


def architecture(target: Target) -> str:
    """ "x86", "aarch64", or the first word of the triple."""
    triple = str(target.attrs["mtriple"]) if "mtriple" in target.attrs else llvm_get_system_triple()
    word = triple.split("-")[0]
    if word in ("x86_64", "i386", "i686", "x86"):
        return "x86"
    return "aarch64" if word in ("aarch64", "arm64") else word


def usable_isas(target: Target) -> list[Isa]:
    """ISAs that `target` has all features of, best first; ends with "generic"."""
    arch = architecture(target)
    return [
        isa
        for isa in list_isas()
        if isa.arch in ("", arch) and (not isa.requires or target_has_features(list(isa.requires), target))
    ]


def best_isa(target: Target) -> Isa:
    """The ISA kernels are made for."""
    return usable_isas(target)[0]


def vector_unit(target: Target) -> VectorUnit:
    """The float32 vectors of a target."""
    if architecture(target) == "aarch64":
        return VectorUnit(4, 32)
    if architecture(target) == "x86":
        if target_has_features(["avx512f"], target):
            return VectorUnit(16, 32, broadcasts=True)
        return VectorUnit(8 if target_has_features(["avx"], target) else 4, 16)
    return VectorUnit(4, 16)
