"""How many lookups and dot products a core can do in a cycle: one frozen row an instruction set and maker.

The numbers are a model: instruction counts of our own sequences over the throughput of the ports they need. The
avx512_vbmi rows agree with loops of single instructions on an AMD Zen 4 and on an Intel server core with AMX; all other
rows are computed from vendors' instruction tables and were not measured.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peak:
    """Throughput of one core, a cycle.

    Parameters
    ----------
    isa : name of the ISA, as in the kernel column of reports ("shuffle NAME").
    maker : "amd", "intel" or "arm".
    lookups : (row, codebook, output) triples that register tables read and add.
    gathered : lookups of the row gather: table bytes loaded, widened and added.
    dot_rows, dot_depth : rows a dot-product instruction covers, and products it adds for each of them.
    dots : dot-product instructions.
    dot_ops : vector operations a dot product is, with its addition.
    ops : vector operations of that width, of any kind.
    float_rows, fmas : rows a float32 multiply-add covers, and multiply-adds.
    cache_bytes : bytes loaded from the second-level cache.
    """

    isa: str
    maker: str
    lookups: float
    gathered: float
    dot_rows: int
    dot_depth: int
    dots: float
    dot_ops: int
    ops: float
    float_rows: int
    fmas: float
    cache_bytes: float


SCORE_OPS = 2
"""Vector operations a centroid and vector of rows beside the products: put the index into the score, keep the best."""
LEVEL_OPS = 4
"""Vector operations a level of a tree and vector of rows: look thresholds up, compare, double the node, step right."""

_PEAKS = (
    # Zen 4 does two 512-bit operations a cycle. vpermb needs FP1 or FP2 and vpdpbusd FP0 or FP1, each for two cycles:
    # a pair takes 4/3 cycles. Dot products alone: one a cycle.
    Peak("avx512_vbmi", "amd", 48, 42, 16, 4, 1, 1, 2, 16, 1, 32),
    # Ice Lake servers and later: vpermb only on port 5, vpdpbusd on ports 0 and 5; so a pair a cycle.
    Peak("avx512_vbmi", "intel", 64, 42, 16, 4, 2, 1, 2, 16, 2, 64),
    # two vpshufb, two unpacks, two vpmaddubsw and two additions are 128 lookups
    Peak("avx512", "amd", 32, 42, 16, 2, 1, 2, 2, 16, 1, 32),
    Peak("avx512", "intel", 32, 42, 16, 2, 2, 2, 2, 16, 2, 64),
    # the same on half the width: AMD has four 256-bit pipes, Intel three ports (two of them shuffle)
    Peak("avx2", "amd", 32, 42, 8, 2, 2, 2, 4, 8, 2, 32),
    Peak("avx2", "intel", 24, 32, 8, 2, 2, 2, 3, 8, 2, 64),
    Peak("ssse3", "amd", 16, 21, 4, 2, 2, 2, 4, 4, 2, 32),
    Peak("ssse3", "intel", 12, 16, 4, 2, 2, 2, 3, 4, 2, 64),
    # Cortex-A76 and its kin, two vector pipes: tbl of a pair and a pairwise addition are 16 lookups; rows of 7 bits
    # take one addition in int8 and two that widen for 32
    Peak("neon", "arm", 16, 21.3, 4, 1, 1, 1, 2, 4, 2, 16),
    Peak("neon_dotprod", "arm", 16, 21.3, 4, 4, 2, 1, 2, 4, 2, 16),
    # Cortex-X1: four pipes, of which two do tbl and two the pairwise addition; rows take any pipe and two that widen
    Peak("neon_wide_narrow", "arm", 32, 32, 4, 4, 4, 1, 4, 4, 4, 32),
    # Cortex-A55: one operation a cycle; tbl of one codebook and two widening additions, or of four added in int8
    Peak("neon_little", "arm", 5.3, 8, 4, 4, 1, 1, 1, 4, 1, 8),
    Peak("neon_little_narrow", "arm", 7.1, 8, 4, 4, 1, 1, 1, 4, 1, 8),
    # assumed of Cortex-A8 and A9: one operation a cycle, two cycles for vtbl of two registers and four float32 products
    Peak("neon_armv7", "arm", 2.7, 5.3, 4, 1, 1, 1, 1, 4, 0.5, 8),
)


def find_peak(isa: str, maker: str | None = None) -> Peak | None:
    """The row of an ISA for a maker of CPUs, by default this machine's; None where there is none."""
    maker = host_maker() if maker is None else maker
    return next((peak for peak in _PEAKS if (peak.isa, peak.maker) == (isa, maker)), None)


@functools.cache
def host_maker() -> str:
    """ "amd", "intel", "arm", or "" for another CPU."""
    if platform.machine() in ("aarch64", "arm64"):
        return "arm"
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((maker for word, maker in (("GenuineIntel", "intel"), ("AuthenticAMD", "amd")) if word in text), "")
