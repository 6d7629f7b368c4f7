"""Which instruction sets LLVM may use for a CPU, and the flags of /proc/cpuinfo that say a machine has them.

Only features that LLVM's code generator or our kernels select by themselves are listed: cryptography, system registers
and tuning hints never make an artifact fail. `tests/test_targets.py` compares every row with LLVM's own tables.
"""

from __future__ import annotations

from collections.abc import Iterable

FLAGS: dict[str, dict[str, str]] = {
    "x86_64": {
        "sse3": "pni",
        "ssse3": "ssse3",
        "sse4.1": "sse4_1",
        "sse4.2": "sse4_2",
        "popcnt": "popcnt",
        "avx": "avx",
        "avx2": "avx2",
        "f16c": "f16c",
        "fma": "fma",
        "bmi": "bmi1",
        "bmi2": "bmi2",
        "lzcnt": "abm",
        "movbe": "movbe",
        "avxvnni": "avx_vnni",
        "gfni": "gfni",
        "avx512f": "avx512f",
        "avx512bw": "avx512bw",
        "avx512cd": "avx512cd",
        "avx512dq": "avx512dq",
        "avx512vl": "avx512vl",
        "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi",
        "avx512vbmi2": "avx512_vbmi2",
        "avx512vnni": "avx512_vnni",
        "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq",
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
    },
    "aarch64": {
        "neon": "asimd",
        "fullfp16": "asimdhp",
        "rdm": "asimdrdm",
        "dotprod": "asimddp",
        "lse": "atomics",
        "rcpc": "lrcpc",
        "rcpc-immo": "ilrcpc",
        "lse2": "uscat",
        "complxnum": "fcma",
        "jsconv": "jscvt",
        "flagm": "flagm",
        "altnzcv": "flagm2",
        "fptoint": "frint",
        "fp16fml": "asimdfhm",
        "sha3": "sha3",
        "i8mm": "i8mm",
        "bf16": "bf16",
        "sve": "sve",
        "sve2": "sve2",
    },
    "armv7": {"neon": "neon", "vfp4": "vfpv4", "hwdiv": "idivt", "hwdiv-arm": "idiva"},
    "wasm32": {"simd128": "simd128"},
}
"""Per architecture: LLVM's feature name -> the name in the "flags" or "Features" line of /proc/cpuinfo.

WebAssembly has no such line, only LLVM's names.
"""

_AVX512_NEEDS_BW = ("avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512bf16")
IMPLIES: dict[str, tuple[str, ...]] = {
    "ssse3": ("sse3",),
    "sse4.1": ("ssse3",),
    "sse4.2": ("sse4.1",),
    "avx": ("sse4.2",),
    "avx2": ("avx",),
    "f16c": ("avx",),
    "fma": ("avx",),
    "avxvnni": ("avx2",),
    "avx512f": ("avx2", "f16c", "fma"),
    **dict.fromkeys(("avx512bw", "avx512cd", "avx512dq", "avx512vl"), ("avx512f",)),
    **dict.fromkeys(("avx512ifma", "avx512vnni", "avx512vpopcntdq"), ("avx512f",)),
    **dict.fromkeys(_AVX512_NEEDS_BW, ("avx512bw",)),
    "avx512fp16": ("avx512bw",),
    **dict.fromkeys(("dotprod", "rdm", "complxnum", "jsconv", "i8mm", "bf16", "sha3"), ("neon",)),
    "altnzcv": ("flagm",),
    "fp16fml": ("fullfp16",),
    "sve": ("fullfp16",),
    "sve2": ("sve",),
    "rcpc-immo": ("rcpc",),
}
"""LLVM feature -> features it switches on with it."""

_V2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "f16c", "fma", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_ICELAKE = (
    *_V4,
    *("avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vnni", "avx512bitalg", "avx512vpopcntdq", "gfni"),
)
_SAPPHIRE_RAPIDS = (*_ICELAKE, "avx512bf16", "avx512fp16", "avxvnni")
_A76 = ("neon", "fullfp16", "rdm", "dotprod", "lse", "rcpc")
_V84 = (*_A76, "rcpc-immo", "lse2", "complxnum", "jsconv", "flagm", "fp16fml")
_ARMV9 = (*_V84, "altnzcv", "fptoint", "i8mm", "bf16", "sve", "sve2")
_M1 = (*_V84, "altnzcv", "fptoint", "sha3")

FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "x86-64": (),
        "x86-64-v2": _V2,
        "x86-64-v3": _V3,
        "x86-64-v4": _V4,
        "nehalem": _V2,
        "sandybridge": (*_V2, "avx"),
        "haswell": _V3,
        "broadwell": _V3,
        "skylake": _V3,
        "skylake-avx512": _V4,
        "cascadelake": (*_V4, "avx512vnni"),
        "icelake-client": _ICELAKE,
        "icelake-server": _ICELAKE,
        "tigerlake": _ICELAKE,
        "rocketlake": _ICELAKE,
        "alderlake": (*_V3, "avxvnni", "gfni"),
        "sapphirerapids": _SAPPHIRE_RAPIDS,
        "graniterapids": _SAPPHIRE_RAPIDS,
        "znver1": _V3,
        "znver2": _V3,
        "znver3": _V3,
        "znver4": (*_ICELAKE, "avx512bf16"),
        "znver5": (*_ICELAKE, "avx512bf16", "avxvnni"),
    },
    "aarch64": {
        "generic": ("neon",),
        **dict.fromkeys(("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a73"), ("neon",)),
        **dict.fromkeys(("cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78"), _A76),
        **dict.fromkeys(("cortex-x1", "neoverse-n1"), _A76),
        **dict.fromkeys(("cortex-a510", "cortex-a710", "cortex-a720", "cortex-x2", "cortex-x3", "cortex-x4"), _ARMV9),
        **dict.fromkeys(("neoverse-n2", "neoverse-v2"), _ARMV9),
        "neoverse-v1": (*_V84, "i8mm", "bf16", "sha3", "sve"),
        "apple-m1": _M1,
        "apple-m2": (*_M1, "i8mm", "bf16"),
    },
    "armv7": {
        **dict.fromkeys(("cortex-a8", "cortex-a9"), ("neon",)),
        **dict.fromkeys(("cortex-a7", "cortex-a15", "cortex-a17"), ("neon", "vfp4", "hwdiv", "hwdiv-arm")),
    },
    "wasm32": {"generic": ()},
}
"""Per architecture: LLVM's CPU name -> the features of FLAGS that LLVM switches on for it."""


def closure(features: Iterable[str]) -> set[str]:
    """The features and everything they imply."""
    found: set[str] = set()
    waiting = list(features)
    while waiting:
        feature = waiting.pop()
        if feature not in found:
            found.add(feature)
            waiting.extend(IMPLIES.get(feature, ()))
    return found


def without(features: Iterable[str], removed: str) -> set[str]:
    """The features less one and less everything that implies it."""
    return {feature for feature in features if removed not in closure([feature])}


def required_flags(arch: str, features: Iterable[str]) -> tuple[str, ...]:
    """Flags of /proc/cpuinfo for these features, in the order of FLAGS."""
    wanted = closure(features)
    return tuple(flag for feature, flag in FLAGS[arch].items() if feature in wanted)
