"""Object files -> a shared library for the target, by the system's compiler or by zig.

The same objects give the same bytes: no build id, no time stamps, no path of a temporary folder, no symbols but the
dynamic ones. No library is named in it (libc and libm come from the process that loads it), so it does not ask for the
C library version of the machine that linked it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lutc.errors import LinkError
from lutc.targets import host_arch

_GLIBC = "2.17"  # zig links against this version's symbols: the oldest C library of any supported system
_FLAGS = ("-shared", "-nostdlib", "-s", "-Wl,--build-id=none")
_LIBRARIES = {"armv7": ("-Wl,--gc-sections", "-lgcc")}
"""By architecture: what its code calls for lack of instructions (division on 32-bit Arm), from the compiler itself."""
_INSTALL = 'pip install "lutc[cross]"   (zig links for every target; or install a cross compiler)'
ZIG = "zig"


class _HasTriple(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def arch(self) -> str: ...
    @property
    def triple(self) -> str: ...


@dataclass(frozen=True)
class Linker:
    """A command that links for one architecture.

    Parameters
    ----------
    name : for people and the manifest, e.g. "gcc" or "zig cc".
    command : the words before the options.
    libraries : options behind the objects.
    """

    name: str
    command: tuple[str, ...]
    libraries: tuple[str, ...] = ()

    def link(self, output: str | Path, objects: Sequence[str | Path], options: Sequence[str] = ()) -> None:
        """Link the objects into the shared library `output`. Raises LinkError with the linker's own words."""
        # a linker records the paths it is given (soname, debug names): run in a folder where they are always alike
        with tempfile.TemporaryDirectory(prefix="lutc-link-") as scratch:
            names = [f"{index}{Path(path).suffix}" for index, path in enumerate(objects)]
            for name, path in zip(names, objects, strict=True):
                shutil.copyfile(path, Path(scratch) / name)
            command = [*self.command, *_FLAGS, "-o", "model.so", *names, *options, *self.libraries]
            self._run(command, scratch, output)
            Path(output).unlink(missing_ok=True)  # a process may have it mapped: never write into the old file
            shutil.copyfile(Path(scratch) / "model.so", output)

    def _run(self, command: list[str], folder: str, output: str | Path) -> None:
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, env=_environment(folder)
            )
        except OSError as error:
            raise self._error(output, f"{command[0]}: {error.strerror}") from error
        if done.returncode:
            lines = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
            raise self._error(output, "\n".join(lines[-8:]))

    def _error(self, output: str | Path, reason: str) -> LinkError:
        other = "another linker: --linker zig, --linker gcc" if self.name != "zig cc" else "a system cross compiler"
        return LinkError(
            f"{self.name} cannot link {Path(output).name}", where=" ".join(self.command), reason=reason, fix=other
        )

    def fcompile(self) -> Callable[..., None]:
        """A function for `Executable.export_library(path, fcompile=...)` of TVM."""

        def link(output: str, objects: list[str], options: Sequence[str] | None = None, **_: object) -> None:
            self.link(output, objects, options or ())

        link.output_format = "so"  # type: ignore[attr-defined]
        return link


def _environment(scratch: str) -> dict[str, str]:
    """zig caches under HOME; where that cannot be written, under the scratch folder."""
    environment = {**os.environ, "LC_ALL": "C"}
    home = os.environ.get("HOME", "")
    chosen = {"ZIG_GLOBAL_CACHE_DIR", "XDG_CACHE_HOME"} & set(environment)
    if not chosen and not os.access(home, os.W_OK):
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(Path(scratch) / "zig-cache")
    return environment


def find_linker(target: _HasTriple, prefer: str | None = None) -> Linker:
    """The linker for a target: the system's compiler first, then zig.

    Parameters
    ----------
    prefer : None, "zig", or a compiler's name or path (e.g. "clang", "aarch64-linux-gnu-gcc").

    Raises LinkError that lists what was tried.
    """
    tried: list[str] = []
    for name in _candidates(target) if prefer is None else (prefer,):
        linker, why_not = _zig(target) if name == ZIG else _system(name)
        if linker is not None:
            return replace(linker, libraries=_LIBRARIES.get(target.arch, ()))
        tried.append(f"{name}: {why_not}")
    raise LinkError(
        f"no linker for {target.name}",
        where=f"target {target.name} ({target.triple})",
        reason="none of these can be used\n" + "\n".join(tried),
        fix=_INSTALL,
    )


def _candidates(target: _HasTriple) -> tuple[str, ...]:
    if target.arch == host_arch():
        return ("cc", "gcc", "clang", ZIG)
    return (f"{target.triple}-gcc", ZIG)


def _system(name: str) -> tuple[Linker | None, str]:
    path = shutil.which(name)
    return (Linker(Path(name).name, (path,)), "") if path else (None, "not on PATH")


def _zig(target: _HasTriple) -> tuple[Linker | None, str]:
    triple = f"{target.triple}.{_GLIBC}" if "-gnu" in target.triple else target.triple
    if importlib.util.find_spec("ziglang"):
        return Linker("zig cc", (sys.executable, "-m", "ziglang", "cc", "-target", triple)), ""
    path = shutil.which("zig")
    if path:
        return Linker("zig cc", (path, "cc", "-target", triple)), ""
    return None, "the Python package ziglang is not installed"
