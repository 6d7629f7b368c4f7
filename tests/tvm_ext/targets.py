"""TVM targets of the ISAs that kernels exist for, by ISA name."""

from __future__ import annotations

_X86, _ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"

TARGETS: dict[str, dict] = {
    "generic": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64"},
    "ssse3": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v2"},
    "avx2": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v3"},
    "avx512": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v4"},
    "avx512_vbmi": {"kind": "llvm", "mtriple": _X86, "mcpu": "x86-64-v4", "mattr": ["+avx512vbmi", "+avx512vnni"]},
    "neon": {"kind": "llvm", "mtriple": _ARM, "mcpu": "generic", "mattr": ["+neon"]},
    "neon_dotprod": {"kind": "llvm", "mtriple": _ARM, "mcpu": "generic", "mattr": ["+neon", "+dotprod"]},
}
