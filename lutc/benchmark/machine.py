"""What a report of times must say about where they were taken."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed
from pathlib import Path

from lutc.targets import host_flags

_TELLING = ("avx2", "avx_vnni", "avx512bw", "avx512vbmi", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")

_ARCH_PRCTL, _GET_PERMITTED, _TILE_DATA = 158, 0x1022, 18  # system call, its request, and the bit of the tile data


def cpu_name() -> str:
    """The CPU as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_flags() -> list[str]:
    """Those of the CPU's flags that decide which integer kernels an engine can use."""
    return [flag for flag in _TELLING if flag in host_flags()]


def amx_in_use() -> bool:
    """Whether something in this process asked Linux for the tile registers of AMX (arch_prctl(2))."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    permitted = ctypes.c_uint64(0)
    status = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _GET_PERMITTED, ctypes.byref(permitted))
    return status == 0 and bool(permitted.value >> _TILE_DATA & 1)


def version(package: str) -> str:
    """Of an installed package, or "missing"."""
    try:
        return _installed(package)
    except PackageNotFoundError:
        return "missing"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Name -> version."""
    return {package: version(package) for package in packages}
