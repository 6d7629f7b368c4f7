"""TVM targets of the ISAs that kernels exist for, by ISA name."""

from __future__ import annotations

from lutc.targets import parse_target

_X86, _ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"

_DOTPROD = {"kind": "llvm", "mtriple": _ARM, "mcpu": "neoverse-n1", "mattr": ["+neon", "+dotprod"]}
TARGETS: dict[str, dict] = {
    "generic": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64"},
    "ssse3": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v2"},
    "avx2": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v3"},
    "avx512": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v4"},
    "avx512_vbmi": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v4", "mattr": ["+avx512vbmi", "+avx512vnni"]},
    "neon": {"kind": "llvm", "mtriple": _ARM, "mcpu": "generic", "mattr": ["+neon"]},
    "neon_dotprod": _DOTPROD | {"model": "generic"},
    "neon_little": _DOTPROD | {"model": "cortex-a55"},
    "neon_little_narrow": _DOTPROD | {"model": "cortex-a55"},
    "neon_wide_narrow": _DOTPROD | {"model": "cortex-x1"},
    "neon_armv7": parse_target("armv7").llvm(),
    "wasm_simd128": parse_target("wasm32").llvm(),
}
"""As the compiler makes them: `neoverse-n1` for its scheduling model, the core by `model`."""
COMPOSED = frozenset({"neon_little", "neon_little_narrow", "neon_wide_narrow"})
"""ISAs that differ from `neon_dotprod` only in the table read, and so in how tiles of codes lie."""


def least_table_bits(isa: str) -> int:
    """The option that gives this ISA: tables stay as they are, or may be narrowed."""
    return 0 if isa.endswith("_narrow") else 8
