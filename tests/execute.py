"""Run compiled modules in tests: x86 code on this CPU, Arm code under qemu, WebAssembly in node, or skip."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.target import codegen

from lutc.benchmark.foreign_kernels import run_scheduled
from lutc.errors import TargetError
from lutc.linker import find_linker
from lutc.runtime import aarch64, emulator
from lutc.runtime.kernel_machine import kernel_machine
from lutc.targets import WITH_RUNTIME, Target, host_flags, list_targets, parse_target
from tvm_ext import pipeline

# One thread, and no binding of the calling thread to a core (TVM does that when it makes its pool).
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("TVM_BIND_THREADS", "0")

# LLVM's feature name -> the flag in /proc/cpuinfo, for the features kernels and LLVM's own selection may use.
_X86_FLAGS = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi2": "bmi2",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
_ARM_EXTENSIONS = ("dotprod", "lse", "rdm", "fullfp16", "i8mm", "sve")
Compiled = Any  # a relax executable; TVM has no public name for its type
Case = tuple[Any, Sequence[np.ndarray]]


def execute(mod: tvm.IRModule | Compiled, inputs: Sequence[np.ndarray], target: Mapping[str, Any]) -> list[np.ndarray]:
    """Call Relax "main" of a module (compiled here) or of a compiled executable; returns its tensors, tuples flattened.

    ``target`` is what tvm.target.Target takes, e.g. {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu":
    "cortex-a76"}. Skips the test when the code cannot run here.
    """
    return execute_many([(mod, inputs)], target)[0]


def execute_many(cases: Sequence[Case], target: Mapping[str, Any]) -> list[list[np.ndarray]]:
    """execute() for several (module, inputs) cases; under qemu they share one process (0.2 s instead of 0.2 s each)."""
    skip_unless_runnable(target)
    foreign = _foreign(target)
    if foreign is not None:
        return [_run_foreign(mod, _compile(mod, target), inputs, foreign) for mod, inputs in cases]
    compiled = [(_compile(mod, target), inputs) for mod, inputs in cases]
    if not _is_aarch64(target):
        return [_run_here(executable, inputs) for executable, inputs in compiled]
    with tempfile.TemporaryDirectory(prefix="lutc-test-") as folder:
        runs = [
            (export(executable, Path(folder) / f"{index}.so", target), inputs)
            for index, (executable, inputs) in enumerate(compiled)
        ]
        return emulator.run_many(runs, cpu=_emulated_cpu(target))


def build_and_execute(
    mod: tvm.IRModule, inputs: Sequence[np.ndarray], target: Mapping[str, Any], *, table_bits: int = 0
) -> tuple[list[np.ndarray], pipeline.Built]:
    """What "main" of a rewritten module gives when all of the compiler has worked on it. Skips as `execute` does."""
    skip_unless_runnable(target)
    return execute_scheduled(pipeline.schedule(mod, target, table_bits=table_bits), inputs, target)


def execute_scheduled(
    scheduled: tvm.IRModule, inputs: Sequence[np.ndarray], target: Mapping[str, Any]
) -> tuple[list[np.ndarray], pipeline.Built]:
    """The same of a module that is scheduled already."""
    skip_unless_runnable(target)
    built, foreign = pipeline.codegen(scheduled, target), _foreign(target)
    if foreign is not None:
        return run_scheduled(scheduled, built.executable, inputs, foreign), built
    return execute(built.executable, inputs, target), built


def _foreign(target: Mapping[str, Any]) -> Target | None:
    """The target, if TVM has no runtime for it: then single kernels are called, with no virtual machine."""
    for found in list_targets():
        if found.arch not in WITH_RUNTIME and found.llvm()["mtriple"] == target.get("mtriple"):
            return parse_target(f"{found.name},cpu={target['mcpu']}")
    return None


def _run_foreign(mod: tvm.IRModule, executable: Compiled, inputs: Sequence[np.ndarray], target: Target) -> list:
    assert isinstance(mod, tvm.IRModule), "a compiled module needs a virtual machine: see build_and_execute"
    return run_scheduled(relax.transform.LegalizeOps()(mod), executable, inputs, target)


def skip_unless_runnable(target: Mapping[str, Any]) -> None:
    """Skip the running test, with the reason, when code for this target cannot run on this machine."""
    reason = why_not_runnable(dict(target))
    if reason:
        pytest.skip(reason)


def why_not_runnable(target: dict[str, Any]) -> str:
    """Empty when code for this target runs here, else what is missing."""
    if _is_aarch64(target):
        return why_not_emulated()
    foreign = _foreign(target)
    if foreign is not None:
        return _why_no_machine(foreign)
    if not target.get("mtriple", "x86_64").startswith("x86_64") or platform.machine() not in ("x86_64", "AMD64"):
        return f"needs a {target.get('mtriple', 'x86_64')} machine, this one is {platform.machine()}"
    missing = sorted(_required_flags(tvm.target.Target(target)) - host_flags())
    return f"this CPU lacks {', '.join(missing)}" if missing else ""


def _why_no_machine(target: Target) -> str:
    try:
        kernel_machine(target)
    except TargetError as error:
        return f"{error.message}: {error.reason} ({error.fix})"
    return ""


def why_not_emulated() -> str:
    """Empty when AArch64 code runs here; the first call of a fresh cache fetches the runtime and builds the runner."""
    available, reason = emulator.availability()
    if not available:
        return f"needs AArch64 emulation: {reason}"
    try:
        aarch64.runner()
    except TargetError as error:
        return f"needs AArch64 emulation: {error.reason}"
    return ""


def _emulated_cpu(target: Mapping[str, Any]) -> str:
    """Code for plain Armv8-A runs on a CPU without dot products, so that using one is caught."""
    built = tvm.target.Target(dict(target))
    return "max" if any(codegen.target_has_features([name], built) for name in _ARM_EXTENSIONS) else "cortex-a72"


def _is_aarch64(target: Mapping[str, Any]) -> bool:
    return str(target.get("mtriple", "")).startswith(("aarch64", "arm64"))


def _required_flags(target: tvm.target.Target) -> set[str]:
    return {flag for feature, flag in _X86_FLAGS.items() if codegen.target_has_features([feature], target)}


def _compile(mod: tvm.IRModule | Compiled, target: Mapping[str, Any]) -> Compiled:
    return tvm.compile(mod, target=tvm.target.Target(dict(target))) if isinstance(mod, tvm.IRModule) else mod


def _run_here(executable: Compiled, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    vm = relax.VirtualMachine(executable, tvm.cpu())
    # tvm.runtime.tensor copies to 64-byte aligned memory, which kernels assume
    result = vm["main"](*(tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs))
    return list(_flatten(result))


def _flatten(value: Any) -> list[np.ndarray]:
    if isinstance(value, tvm.runtime.Tensor):
        return [value.numpy()]
    return [tensor for part in value for tensor in _flatten(part)]


def export(executable: Compiled, path: Path, target: Mapping[str, Any]) -> Path:
    """Write a compiled executable as a shared library for the target."""
    linker = find_linker(_foreign(target) or parse_target("arm64" if _is_aarch64(target) else "x86-64-v2"))
    executable.export_library(str(path), fcompile=linker.fcompile())
    return path
