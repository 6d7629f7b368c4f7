"""What can be compiled for: named targets, their text form, and whether this machine runs code made for one.

Standard library only, so that listing targets and refusing a wrong one never loads the compiler.
"""

from __future__ import annotations

import difflib
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lutc.cpu_features import FEATURES, FLAGS, closure, required_flags, without
from lutc.errors import TargetError

_TRIPLES = {
    "x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "armv7": "arm-linux-gnueabihf",
    "wasm32": "wasm32-wasi",
}  # fmt: skip
_LLVM_TRIPLES = {"arm-linux-gnueabihf": "arm-unknown-linux-gnueabihf", "wasm32-wasi": "wasm32-unknown-wasi"}
"""LLVM takes the second word for a vendor, and where the system decides what code calls, it must not be "unknown"."""
_MACHINES = {
    "x86_64": "x86_64", "AMD64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64",
    "armv7l": "armv7", "armv8l": "armv7",
}  # fmt: skip
WITH_RUNTIME = ("x86_64", "aarch64")
"""Architectures that TVM's Python packages have a runtime for: those whose artifacts lutc runs."""
OTHER_TARGETS = "docs/other-targets.md"
_GRAMMAR = "NAME[,cpu=CPU][,+FEATURE][,-FEATURE]"


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Parameters
    ----------
    name : as the user writes it, e.g. "arm64-dotprod" or "arm64,cpu=cortex-a53".
    arch : "x86_64", "aarch64", "armv7" or "wasm32".
    triple : LLVM target triple.
    cpu : LLVM's CPU name (`-mcpu`): instruction set and scheduling model.
    attrs : LLVM attributes (`-mattr`), each with its "+" or "-".
    requires : flags of /proc/cpuinfo that a machine must have to run the code.
    description : one line for people.
    core : the AArch64 CPU it is for, which decides between kernels; `cpu` may be another of the same instruction set.
    models : whole models can be compiled for it; else single kernels only.
    """

    name: str
    arch: str
    triple: str
    cpu: str
    attrs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    description: str = ""
    core: str = ""
    models: bool = True

    def llvm(self) -> dict[str, object]:
        """What `tvm.target.Target` takes."""
        return llvm_target(self.triple, self.cpu, self.attrs, self.core)


def llvm_target(triple: str, cpu: str, attrs: Sequence[str], core: str) -> dict[str, object]:
    """What `tvm.target.Target` takes for the fields of a `Target`."""
    target: dict[str, object] = {"kind": "llvm", "mtriple": _LLVM_TRIPLES.get(triple, triple), "mcpu": cpu}
    target |= {"mfloat-abi": "hard"} if triple.endswith("hf") else {}
    target |= {"vector-width": 128} if triple.startswith("wasm") else {}  # what TVM takes too, with a warning
    return target | ({"mattr": list(attrs)} if attrs else {}) | ({"model": core} if core else {})


class TargetLike(Protocol):
    """What `check_runs_here` reads: a Target or an artifact's TargetInfo."""

    @property
    def name(self) -> str: ...
    @property
    def arch(self) -> str: ...
    @property
    def requires(self) -> Sequence[str]: ...


def _target(name: str, arch: str, core: str, attrs: Sequence[str], description: str, *, models: bool = True) -> Target:
    features = closure(FEATURES[arch][core])
    for attr in attrs:
        features = closure(features | {attr[1:]}) if attr.startswith("+") else without(features, attr[1:])
    flags, cpu = required_flags(arch, features), _SCHEDULED_AS.get(core, core)
    kind = core if arch == "aarch64" else ""
    return Target(name, arch, _TRIPLES[arch], cpu, tuple(attrs), flags, description, kind, models)


_NEON, _DOTPROD = ("+neon",), ("+neon", "+dotprod")
# LLVM's scheduling model for A76 and its kin is the Cortex-A57's, which orders loads so early that accumulators spill,
# and so does the A55's; neoverse-n1 has the same instruction set and a model of its own.
_SCHEDULED_AS = dict.fromkeys(
    ("cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "cortex-x1"), "neoverse-n1"
)
# SVE is off: the kernels are NEON, and fixed-width code is what the tests cover.
_NAMED: dict[str, Target] = {
    target.name: target
    for target in (
        _target("x86-64-v2", "x86_64", "x86-64-v2", (), "SSSE3: pshufb on 128 bits (any x86 since 2009)"),
        _target("x86-64-v3", "x86_64", "x86-64-v3", (), "AVX2: vpshufb on 256 bits (Haswell, Zen and later)"),
        _target("x86-64-v4", "x86_64", "x86-64-v4", (), "AVX-512: vpshufb on 512 bits (Skylake-X and later)"),
        _target(
            "x86-64-v4-vbmi",
            "x86_64",
            "x86-64-v4",
            ("+avx512vbmi", "+avx512vnni"),
            "AVX-512 VBMI and VNNI: vpermb, vpdpbusd (Ice Lake, Zen 4 and later)",
        ),
        _target("arm64", "aarch64", "generic", _NEON, "Armv8-A NEON: tbl (any 64-bit Arm)"),
        _target("arm64-dotprod", "aarch64", "generic", _DOTPROD, "Armv8.2-A NEON with sdot (cores since about 2018)"),
        _target("cortex-a55", "aarch64", "cortex-a55", _DOTPROD, "Arm Cortex-A55 (small cores of phones)"),
        _target("cortex-a72", "aarch64", "cortex-a72", _NEON, "Arm Cortex-A72"),
        _target("cortex-a76", "aarch64", "cortex-a76", _DOTPROD, "Arm Cortex-A76, A77, A78"),
        _target("cortex-x1", "aarch64", "cortex-x1", _DOTPROD, "Arm Cortex-X1 (large cores of phones)"),
        _target("raspberry-pi-4", "aarch64", "cortex-a72", _NEON, "Raspberry Pi 4 (Cortex-A72)"),
        _target("raspberry-pi-5", "aarch64", "cortex-a76", _DOTPROD, "Raspberry Pi 5 (Cortex-A76)"),
        _target("neoverse-n1", "aarch64", "neoverse-n1", _DOTPROD, "Arm Neoverse N1 (Ampere Altra)"),
        _target("neoverse-v1", "aarch64", "neoverse-v1", (*_DOTPROD, "-sve"), "Arm Neoverse V1, NEON only"),
        _target("graviton2", "aarch64", "neoverse-n1", _DOTPROD, "AWS Graviton2 (Neoverse N1)"),
        _target("graviton3", "aarch64", "neoverse-v1", (*_DOTPROD, "-sve"), "AWS Graviton3 (Neoverse V1), NEON only"),
        _target("apple-m1", "aarch64", "apple-m1", _DOTPROD, "Apple M1 under Linux"),
        _target("armv7", "armv7", "cortex-a9", _NEON, "Armv7-A NEON: vtbl (32-bit Arm, hard float)"),
        _target(
            "wasm32", "wasm32", "generic", ("+simd128",), "WebAssembly SIMD: i8x16.swizzle, kernels only", models=False
        ),
    )
}
_LEVELS = {
    "x86_64": ("x86-64-v4-vbmi", "x86-64-v4", "x86-64-v3", "x86-64-v2"),
    "aarch64": ("arm64-dotprod", "arm64"),
}


def list_targets() -> list[Target]:
    """All targets with a name, general ones first within an architecture."""
    return list(_NAMED.values())


def parse_target(text: str) -> Target:
    """The target that ``NAME[,cpu=CPU][,+FEATURE][,-FEATURE]`` names; "native" is the best level this machine runs.

    ``cpu`` chooses kernels and LLVM's code, features are handed to LLVM as they are. Raises TargetError with the
    nearest names.
    """
    name, *options = [part.strip() for part in text.split(",")]
    target = host_target() if name == "native" else _NAMED.get(name)
    if target is None:
        raise _unknown("target", name, text, [*_NAMED, "native"], "see the list: lutc targets")
    cpu, attrs = target.core or target.cpu, list(target.attrs)
    for option in options:
        if option.startswith("cpu="):
            cpu = _known("CPU", option[4:], text, FEATURES[target.arch], target.arch)
        elif option[:1] in ("+", "-"):
            _known("CPU feature", option[1:], text, FLAGS[target.arch], target.arch)
            attrs = [attr for attr in attrs if attr[1:] != option[1:]] + [option]
        else:
            raise TargetError(
                f"cannot read target option {option!r}",
                where=f"--target {text}",
                reason=f"a target is written {_GRAMMAR}",
                fix=f"--target {name},cpu=...   or   --target {name},+feature",
            )
    if not options:
        return target
    made = _target(target.name, target.arch, cpu, attrs, target.description, models=target.models)
    return replace(made, name=",".join([name, *options]))


def _known(kind: str, name: str, text: str, names: dict, arch: str) -> str:
    if name not in names:
        raise _unknown(kind, name, text, list(names), f"one of {', '.join(names)}")
    return name


def _unknown(kind: str, name: str, text: str, names: list[str], otherwise: str) -> TargetError:
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(nearest)}?" if nearest else otherwise
    return TargetError(f"unknown {kind} {name!r}", where=f"--target {text}", reason=f"no {kind} has this name", fix=fix)


def host_arch() -> str:
    """ "x86_64", "aarch64", or what the system calls its architecture."""
    return _MACHINES.get(platform.machine(), platform.machine())


def host_target() -> Target:
    """The best general target that this machine runs. Raises TargetError on other architectures or old CPUs."""
    flags = host_flags()
    for name in _LEVELS.get(host_arch(), ()):
        if flags.issuperset(_NAMED[name].requires):
            return _NAMED[name]
    raise TargetError(
        "no native target",
        where=f"this machine ({platform.system()} {platform.machine()})",
        reason="only Linux on x86-64 with SSSE3 and on 64-bit Arm is known by itself",
        fix="name the target: lutc targets",
    )


def check_models(target: Target) -> None:
    """Raise TargetError unless whole models can be compiled for the target."""
    if not target.models:
        raise TargetError(
            f"cannot compile a model for {target.name}",
            where=f"target {target.name}",
            reason=f"{target.arch} has no shared libraries for TVM's runtime to load: there are only kernels for it",
            fix=f"another target (lutc targets); or single kernels, see {OTHER_TARGETS}",
        )


def check_runs_here(target: TargetLike) -> None:
    """Raise TargetError, naming what is missing, unless this machine runs code made for the target."""
    if target.arch not in WITH_RUNTIME:
        raise TargetError(
            f"lutc cannot run code for {target.name}",
            where=f"target {target.name}",
            reason=f"TVM's packages have no runtime for {target.arch}, here or under emulation",
            fix=f"load it in a program with TVM's runtime built for {target.arch}: see {OTHER_TARGETS}",
        )
    if target.arch != host_arch():
        here = "run it here with --emulate" if target.arch == "aarch64" else "compile for this one: --target native"
        raise TargetError(
            f"code for {target.name} cannot run on this machine",
            where=f"target {target.name}",
            reason=f"it is {target.arch} code and this machine is {host_arch()}",
            fix=f"copy the artifact to such a machine, or {here}",
        )
    missing = [flag for flag in target.requires if flag not in host_flags()]
    if missing:
        raise TargetError(
            f"code for {target.name} cannot run on this machine",
            where=f"target {target.name}",
            reason=f"this CPU lacks {', '.join(missing)}",
            fix="compile for this machine: --target native",
        )


@functools.cache
def host_flags() -> frozenset[str]:
    """CPU flags of this machine as /proc/cpuinfo names them; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
