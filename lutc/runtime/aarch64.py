"""What an AArch64 Linux machine needs to run an artifact, made on this host and kept in a cache folder.

Two libraries of the TVM runtime are taken from the AArch64 wheels of the versions installed here (one download of about
95 MB, 5 MB of it kept), and the C runner (``runner/main.c``) is compiled against them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from lutc.errors import LinkError, TargetError
from lutc.linker import find_linker
from lutc.targets import parse_target

_LOG = logging.getLogger(__name__)
_PLATFORM = "manylinux_2_28_aarch64"
_LIBRARIES = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
_SOURCES = Path(__file__).with_name("runner")
COMPILER_FIX = "pip install ziglang   (or: apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross)"


def cache_folder() -> Path:
    """Where the libraries and the runner of the installed TVM are kept: under $LUTC_CACHE or ~/.cache/lutc."""
    root = os.environ.get("LUTC_CACHE")
    base = Path(root) if root else Path.home() / ".cache" / "lutc"
    return base / "-".join(("aarch64", *(version(package) for package in _LIBRARIES)))


def runtime_libraries() -> Path:
    """The folder with libtvm_runtime.so and libtvm_ffi.so for AArch64; downloads them the first time.

    Raises TargetError when they are not cached and cannot be downloaded.
    """
    folder = cache_folder()
    if libraries_cached():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        ready = Path(scratch) / "ready"
        ready.mkdir()
        for package, member in _LIBRARIES.items():
            _extract(_download(package, Path(scratch)), member, ready)
        folder.mkdir(exist_ok=True)
        for library in ready.iterdir():
            library.replace(folder / library.name)
    return folder


def libraries_cached() -> bool:
    """Whether runtime_libraries() needs no download."""
    return all((cache_folder() / Path(member).name).is_file() for member in _LIBRARIES.values())


def _download(package: str, folder: Path) -> Path:
    requirement = f"{package}=={version(package)}"
    if importlib.util.find_spec("pip") is None:
        raise _fetch_error(requirement, "pip is not installed in this environment", "python -m ensurepip --upgrade")
    _LOG.warning("fetching the AArch64 wheel of %s (once; kept in %s)", requirement, cache_folder())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", _PLATFORM, "--dest", str(folder / package), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted((folder / package).glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no wheel"]
        fix = f"connect to the package index once, or run: pip download --platform {_PLATFORM} {requirement}"
        raise _fetch_error(requirement, lines[-1], fix)
    return wheels[0]


def _fetch_error(requirement: str, reason: str, fix: str) -> TargetError:
    return TargetError(
        "cannot get the AArch64 TVM runtime", where=f"the wheel of {requirement}", reason=reason, fix=fix
    )


def _extract(wheel: Path, member: str, folder: Path) -> None:
    """One named member, to a name of our choosing: nothing in the archive decides where a file lands."""
    out = folder / Path(member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, out.open("wb") as file:
        shutil.copyfileobj(source, file)


def runner() -> Path:
    """The compiled C runner (``runner/main.c``), beside its two libraries; compiles it the first time.

    Raises TargetError when there is no compiler for AArch64 or the libraries cannot be had.
    """
    return _program("runner", "main.c")


def rpc_server() -> Path:
    """The compiled RPC server (``runner/rpc_server.c``); see runner()."""
    return _program("rpc-server", "rpc_server.c")


def _program(name: str, source: str) -> Path:
    folder = runtime_libraries()
    texts = (_SOURCES / source).read_bytes() + (_SOURCES / "ffi.h").read_bytes()
    path = folder / f"{name}-{hashlib.sha256(texts).hexdigest()[:12]}"
    if path.is_file():
        return path
    compiler = find_compiler()
    if compiler is None:
        raise TargetError(
            f"cannot build the AArch64 {name}",
            where=str(_SOURCES / source),
            reason="no C compiler for AArch64: neither ziglang nor aarch64-linux-gnu-gcc is installed",
            fix=COMPILER_FIX,
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        built = Path(scratch) / name
        _compile(compiler, _SOURCES / source, built, folder)
        built.replace(path)
    return path


def find_compiler() -> list[str] | None:
    """The command of a C compiler for AArch64 Linux, the system's own first; None when there is none."""
    try:
        return list(find_linker(parse_target("arm64")).command)
    except LinkError:
        return None


def ffi_headers() -> Path:
    """The folder with the C headers of the installed apache-tvm-ffi."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise RuntimeError("apache-tvm-ffi is installed without its Python package")
    return Path(spec.origin).with_name("include")


def _compile(compiler: list[str], source: Path, out: Path, libraries: Path) -> None:
    # the libraries' own C++ dependencies are resolved on the machine that runs them, hence --allow-shlib-undefined
    command = [
        *compiler,
        "-std=c11",
        "-D_POSIX_C_SOURCE=200809L",
        "-O2",
        "-s",
        f"-I{ffi_headers()}",
        f'-DLUTC_TVM_VERSION="{version("apache-tvm")}"',
        str(source),
        "-o",
        str(out),
    ]
    command += ["-Wl,--no-as-needed", f"-L{libraries}", "-ltvm_runtime", "-ltvm_ffi", "-Wl,-rpath,$ORIGIN"]
    command += ["-Wl,--allow-shlib-undefined"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-8:]) or f"exit status {done.returncode}"
        raise TargetError(
            f"cannot build the AArch64 {out.name}", where=" ".join(compiler), reason=reason, fix=COMPILER_FIX
        )
