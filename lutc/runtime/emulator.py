"""Run AArch64 artifacts on another Linux host under qemu's user-mode emulation.

Results are exact; times are not those of the device. No Python runs inside the emulator: a small C runner loads the
library (about 0.2 s a process, all runs of one call share one process).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lutc.errors import TargetError, VerifyError
from lutc.runtime import aarch64
from lutc.runtime.tensor_file import read_tensors, write_tensors

QEMU_FIX = "apt-get install -y qemu-user-static"
SYSROOT_FIX = "apt-get install -y libc6-arm64-cross libstdc++6-arm64-cross"
_SYSROOTS = ("/usr/aarch64-linux-gnu", "/usr/aarch64-linux-gnu/sys-root", "/usr/aarch64-unknown-linux-gnu", "/")
_ARMV8_FLAGS = {"fp", "asimd", "aes", "pmull", "sha1", "sha2", "crc32", "cpuid"}  # a Cortex-A72
LIB_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def cpu_for(requires: Iterable[str]) -> str:
    """The smallest CPU to play for code that needs these flags of /proc/cpuinfo: anything beyond them traps."""
    return "cortex-a72" if set(requires) <= _ARMV8_FLAGS else "max"


def availability() -> tuple[bool, str]:
    """Whether AArch64 code can run here, and with what, or why not. Starts and downloads nothing."""
    try:
        player, root = qemu(), sysroot()
    except TargetError as error:
        return False, f"{error.reason} ({error.fix})"
    if aarch64.find_compiler() is None:
        return False, f"no C compiler for AArch64 to build the runner with ({aarch64.COMPILER_FIX})"
    return True, f"{player}, C library in {root}"


def command(cpu: str = "max") -> list[str]:
    """The words before an AArch64 program and its arguments. Raises TargetError when something is missing."""
    return [qemu(), "-cpu", cpu, "-L", str(sysroot())]


def run(
    library: str | Path, inputs: Sequence[np.ndarray], *, cpu: str = "max", timeout: float = 600.0
) -> list[np.ndarray]:
    """Call ``main`` of one Relax VM library on these inputs; see run_many."""
    return run_many([(library, inputs)], cpu=cpu, timeout=timeout)[0]


def run_many(
    runs: Sequence[tuple[str | Path, Sequence[np.ndarray]]], *, cpu: str = "max", timeout: float = 600.0
) -> list[list[np.ndarray]]:
    """Call ``main`` of several libraries, one after the other, in one emulated process on one thread.

    Parameters
    ----------
    runs : (path of model.so, inputs of its ``main``) pairs.
    cpu : the CPU qemu plays, e.g. "cortex-a72" to trap instructions a Cortex-A72 does not have.
    timeout : seconds for all runs together.

    Returns
    -------
    For each run the tensors ``main`` returned, nested tuples flattened.

    Raises
    ------
    TargetError : qemu, the C library, the TVM runtime or a compiler for AArch64 is missing.
    VerifyError : a run failed, crashed, or took longer than ``timeout``.
    """
    runner = [*command(cpu), str(aarch64.runner())]
    with tempfile.TemporaryDirectory(prefix="lutc-emulate-") as scratch:
        batch, responses = _write_batch(runs, Path(scratch))
        stderr, status = _execute([*runner, "--batch", str(batch)], timeout)
        failed = [library for (library, _), path in zip(runs, responses, strict=True) if not path.is_file()]
        if status or failed:
            raise _run_error(failed, stderr, status)
        return [read_tensors(path) for path in responses]


def _write_batch(runs: Sequence[tuple[str | Path, Sequence[np.ndarray]]], folder: Path) -> tuple[Path, list[Path]]:
    lines, responses = [], []
    for index, (library, inputs) in enumerate(runs):
        request, response = folder / f"{index}.request", folder / f"{index}.response"
        write_tensors(request, inputs)
        lines += [str(Path(library).resolve()), str(request), str(response)]
        responses.append(response)
    batch = folder / "batch"
    batch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return batch, responses


def _execute(command: list[str], timeout: float) -> tuple[str, int]:
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"no result after {timeout:g} s", -1
    if done.returncode < 0:
        return f"{done.stderr}the emulated process died: {signal.Signals(-done.returncode).name}", done.returncode
    return done.stderr, done.returncode


def _run_error(failed: Sequence[str | Path], stderr: str, status: int) -> VerifyError:
    reason = "\n".join(stderr.strip().splitlines()[:12]) or f"the runner ended with status {status}"
    return VerifyError(
        "an emulated run failed",
        where=str(failed[0]) if failed else "the AArch64 runner",
        reason=reason,
        fix="check that the inputs fit the model, and that it was compiled for a CPU that qemu can play",
    )


def qemu(arch: str = "aarch64", code: str = "AArch64") -> str:
    """The path of qemu for programs of an architecture, by qemu's name and ours. Raises TargetError without it."""
    for name in (f"qemu-{arch}-static", f"qemu-{arch}"):
        found = shutil.which(name)
        if found:
            return found
    raise missing(f"qemu-{arch} is not on PATH", QEMU_FIX, code)


def sysroot() -> Path:
    """A folder with the loader, libc and libstdc++ of AArch64 Linux; $LUTC_AARCH64_SYSROOT names another one."""
    chosen = os.environ.get("LUTC_AARCH64_SYSROOT")
    for root in (Path(chosen),) if chosen else map(Path, _SYSROOTS):
        has_loader = (root / "lib" / "ld-linux-aarch64.so.1").exists()
        if has_loader and any((root / folder / "libstdc++.so.6").exists() for folder in LIB_FOLDERS):
            return root
    looked = chosen or ", ".join(_SYSROOTS)
    raise missing(f"no AArch64 C and C++ library (ld-linux-aarch64.so.1, libstdc++.so.6) in {looked}", SYSROOT_FIX)


def missing(reason: str, fix: str, code: str = "AArch64") -> TargetError:
    """The error of a machine that lacks something."""
    return TargetError(f"cannot run {code} code here", where="the emulator (qemu user mode)", reason=reason, fix=fix)
