"""Where programs of kernels (`lutc.runtime.kernel_program`) run: on this host, under qemu, or in node's WebAssembly."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

from lutc.errors import LinkError, TargetError
from lutc.linker import ZIG, find_linker
from lutc.runtime import emulator
from lutc.runtime.kernel_program import HARNESS
from lutc.targets import Target, host_arch

NODE_FIX = "apt-get install -y nodejs   (version 20 or later)"
_NODE_OPTIONS = ("--no-warnings", "--no-turbo-fast-api-calls")
"""Such calls into WASI use memory that `memory.grow` has moved (https://github.com/nodejs/node/issues/53087)."""
_ARMV7_CPUS = {False: "cortex-a9", True: "cortex-a7"}  # by whether it has fused multiply-adds


@dataclass(frozen=True)
class Machine:
    """A C compiler for programs, with its options, and the words before a program that starts it."""

    compiler: tuple[str, ...]
    launcher: tuple[str, ...]


def kernel_machine(target: Target) -> Machine:
    """The machine for a target: this one, qemu, or node.

    Raises TargetError that names what is missing: qemu, node, or a C compiler (zig, or one named like the triple).
    """
    if target.arch == "wasm32":
        return Machine((*_compiler(target, target.triple), "-O2"), (_node(), *_NODE_OPTIONS, str(HARNESS / "wasi.mjs")))
    if target.arch == "armv7":
        cpu = _ARMV7_CPUS["vfpv4" in target.requires]
        # a program of its own C library: none of 32-bit Arm need be here
        compiler = (*_compiler(target, target.triple.replace("gnu", "musl")), "-O2", "-static")
        return Machine(compiler, (emulator.qemu("arm", "32-bit Arm"), "-cpu", cpu))
    if target.arch == host_arch():
        return Machine((*find_linker(target).command, "-O2"), ())
    compiler = (*_compiler(target, target.triple), "-O2")
    return Machine(compiler, tuple(emulator.command(emulator.cpu_for(target.requires))))


def _compiler(target: Target, zig_triple: str) -> tuple[str, ...]:
    for triple, prefer in ((zig_triple, ZIG), (target.triple, f"{target.triple}-gcc")):
        try:
            return find_linker(replace(target, triple=triple), prefer).command
        except LinkError:
            continue
    raise TargetError(
        f"cannot run {target.arch} code here", where=f"target {target.name}",
        reason=f"no C compiler for it: neither ziglang nor {target.triple}-gcc is installed", fix="pip install ziglang",
    )  # fmt: skip


def _node() -> str:
    found = shutil.which("node")
    if found is None:
        raise TargetError(
            "cannot run WebAssembly here", where="target wasm32", reason="node is not on PATH", fix=NODE_FIX
        )
    return found
