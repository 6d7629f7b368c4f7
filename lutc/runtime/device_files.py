"""Everything an AArch64 device needs to run artifacts, in one folder: no Python and no packages there.

    python -m lutc.runtime.device_files FOLDER

The C library and its loader are in the folder too, so that it works on Android, whose own C library is another one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lutc.errors import ArtifactError, LutcError
from lutc.runtime import aarch64, emulator

_LOADER = "ld-linux-aarch64.so.1"
_C_LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"),
    *("libdl.so.2", "libpthread.so.0", "librt.so.1"),  # empty since glibc 2.34, but asked for
)
_SCRIPT = f"""\
#!/bin/sh
# A TVM RPC server: sh rpc-server.sh [--host ADDRESS] [--port PORT]
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/lib/{_LOADER}" --library-path "$here/lib" "$here/lib/rpc-server" "$@"
"""


def collect(folder: str | Path) -> Path:
    """Fill a new folder: rpc-server.sh, and what it starts in lib/.

    Raises
    ------
    ArtifactError : the folder exists.
    TargetError : there is no AArch64 C library, compiler or TVM runtime on this machine to take it from.
    """
    out = Path(folder)
    server = aarch64.rpc_server()
    sources = [*_c_library(), *aarch64.runtime_libraries().glob("*.so")]
    if out.exists():
        raise ArtifactError(
            "cannot write the device files", where=str(out), reason="it exists", fix="name a new folder, or remove it"
        )
    lib = out / "lib"
    lib.mkdir(parents=True)
    for path in sources:
        shutil.copy(path, lib / path.name)
    shutil.copy(server, lib / "rpc-server")
    (out / "rpc-server.sh").write_text(_SCRIPT, encoding="utf-8")
    return out


def _c_library() -> list[Path]:
    """The loader and the libraries, wherever the system keeps AArch64 ones."""
    root = emulator.sysroot()
    found = []
    for name in (_LOADER, *_C_LIBRARIES):
        places = (root / folder / name for folder in emulator.LIB_FOLDERS)
        path = next((place for place in places if place.exists()), None)
        if path is None and name in (_LOADER, *_C_LIBRARIES[:4]):
            raise emulator.missing(f"no {name} in {root}", emulator.SYSROOT_FIX)
        found += [path] if path is not None else []
    return found


def _main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m lutc.runtime.device_files FOLDER", file=sys.stderr)
        return 2
    try:
        out = collect(sys.argv[1])
    except LutcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(
        f"Wrote {out} ({size / 2**20:.1f} MiB). On the device: sh {out.name}/rpc-server.sh --host 0.0.0.0 --port 9090"
    )
    return 0


if __name__ == "__main__":
    sys.exit(_main())
