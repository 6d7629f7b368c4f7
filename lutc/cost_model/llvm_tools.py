"""The system's llvm-mca and llvm-objdump, new enough to know the cores."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess

from lutc.errors import TargetError

OLDEST, _NEWEST = 19, 30
LLVM_FIX = f"apt-get install -y llvm-{OLDEST}   (Debian 12 and later; its plain `llvm` may be older)"


def llvm_tool(name: str) -> str:
    """Path of e.g. "llvm-mca", version 19 if there is one, else the lowest above. Raises TargetError without one."""
    found = _find(name)
    if found is None:
        raise TargetError(
            f"cannot find {name}", where="the simulation of AArch64 cores",
            reason=f"no {name} of LLVM {OLDEST} or later is on PATH (older ones have no models of these cores)",
            fix=LLVM_FIX,
        )  # fmt: skip
    return found


def llvm_version() -> int:
    """Major version of the llvm-mca in use."""
    return _version(llvm_tool("llvm-mca"))


@functools.cache
def _find(name: str) -> str | None:
    for version in range(OLDEST, _NEWEST):
        path = shutil.which(f"{name}-{version}")
        if path:
            return path
    path = shutil.which(name)
    return path if path and _version(path) >= OLDEST else None


def _version(path: str) -> int:
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"LLVM version (\d+)", told)
    return int(match.group(1)) if match else 0
