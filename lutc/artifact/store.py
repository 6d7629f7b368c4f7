"""Write an artifact whole or not at all, and read one without trusting it."""

from __future__ import annotations

import difflib
import errno
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from lutc.artifact.manifest import FORMAT_VERSION, Manifest, NewerFormatError, decode_manifest, encode_manifest
from lutc.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
LIBRARY_NAME = "model.so"
CONSTANTS_NAME = "constants.safetensors"
Payload = Callable[[Path], None] | Mapping[str, bytes | Path]
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
_RECOMPILE = "compile the model again, or copy the whole folder again"


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def library(self) -> Path:
        """The compiled code."""
        return self.path / LIBRARY_NAME

    @property
    def constants(self) -> Path | None:
        """The safetensors file of large constants, where the artifact has one."""
        return self.path / CONSTANTS_NAME if CONSTANTS_NAME in self.manifest.files else None

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        names = (MANIFEST_NAME, *self.manifest.files)
        return sum((self.path / name).stat().st_size for name in names)


def check_output(output: str | Path, *, overwrite: bool = False) -> Path:
    """The output path, after a check that an artifact can be written there. Raises ArtifactError."""
    path = Path(os.path.abspath(output))
    if path.parent.exists() and not path.parent.is_dir():
        raise _write_error(output, f"{path.parent} is a file, not a folder", "choose another --output")
    if not path.parent.is_dir():
        raise _write_error(output, f"the folder {path.parent} does not exist", f"mkdir -p {path.parent}")
    if path.is_symlink() or path.exists():
        _check_replaceable(path, output, overwrite)
    if not os.access(path.parent, os.W_OK):
        raise _write_error(output, f"no permission to write in {path.parent}", "choose another --output")
    return path


def _check_replaceable(path: Path, output: str | Path, overwrite: bool) -> None:
    if path.is_symlink() or not (path / MANIFEST_NAME).is_file():
        reason = "it exists and is not an artifact, so it will not be replaced"
        raise _write_error(output, reason, "choose another --output")
    if not overwrite:
        raise _write_error(output, "it exists already", "add --overwrite, or choose another --output")


def _write_error(output: str | Path, reason: str, fix: str) -> ArtifactError:
    return ArtifactError("cannot write the artifact", where=str(output), reason=reason, fix=fix)


def write_artifact(output: str | Path, manifest: Manifest, payload: Payload, *, overwrite: bool = False) -> Artifact:
    """Write ``output/`` through a temporary folder beside it, renamed when complete.

    Parameters
    ----------
    manifest : its `files` are filled in here.
    payload : a function that writes the files into the folder it is given, or {relative name: bytes or path to copy}.
    overwrite : replace an artifact that is there; anything else that is there is never replaced.

    Whatever goes wrong, also Ctrl-C, leaves neither a partial output nor the temporary folder, and an artifact that
    was there stays. Raises ArtifactError when it cannot be written.
    """
    path = check_output(output, overwrite=overwrite)
    try:
        with _scratch_beside(path, output) as scratch:
            folder = Path(scratch) / "new"
            folder.mkdir()
            _fill(folder, payload)
            files = {name: _sha256(folder / name) for name in sorted(_list_files(folder))}
            complete = msgspec.structs.replace(manifest, files=files)
            (folder / MANIFEST_NAME).write_bytes(encode_manifest(complete))
            _swap_in(folder, path, Path(scratch) / "old")
    except OSError as error:
        if error.errno in _CANNOT_WRITE:
            raise _write_error(output, str(error.strerror), "free space, or choose another --output") from error
        raise
    return Artifact(path, complete)


def _scratch_beside(path: Path, output: str | Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder in the output's own, so that a rename suffices. Raises ArtifactError."""
    try:
        return tempfile.TemporaryDirectory(prefix=f".{path.name[:64]}.", dir=path.parent)
    except OSError as error:
        reason = f"cannot make a folder in {path.parent}: {error.strerror}"
        raise _write_error(output, reason, "choose another --output") from error


def _fill(folder: Path, payload: Payload) -> None:
    if callable(payload):
        payload(folder)
        return
    for name, content in payload.items():
        if not _is_plain(name):
            raise ValueError(f"not a plain relative file name: {name!r}")
        destination = folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            destination.write_bytes(content)
        else:
            shutil.copyfile(content, destination)


def _list_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"an artifact holds no links: {path.name}")
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _swap_in(folder: Path, path: Path, old: Path) -> None:
    """Rename `folder` to `path`; what was there moves to `old`, or comes back when the second rename fails."""
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(folder, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise


def read_artifact(path: str | Path, *, check: bool = True) -> Artifact:
    """Read the manifest of an artifact and check that its files are what was written.

    Parameters
    ----------
    check : also compare the SHA-256 of every file (about 1 s a GB).

    Raises ArtifactError when it is missing, damaged, written by a later lutc, or names files outside its folder.
    """
    folder = Path(path)
    _check_folder(folder)
    manifest = _read_manifest(folder)
    for name, digest in manifest.files.items():
        _check_file(folder, name, digest if check else None)
    if LIBRARY_NAME not in manifest.files:
        raise _read_error(folder / MANIFEST_NAME, f"it lists no {LIBRARY_NAME}", _RECOMPILE)
    problem = _shapes_problem(manifest)
    if problem:
        raise _read_error(folder / MANIFEST_NAME, problem, _RECOMPILE)
    return Artifact(folder, manifest)


def _shapes_problem(manifest: Manifest) -> str | None:
    """What is wrong with the dimensions and the code for their sizes."""
    names = [dimension.name for dimension in manifest.dimensions]
    inputs = {name for spec in manifest.inputs for name in spec.dims if name}
    outputs = {name for spec in manifest.outputs for name in spec.dims if name}
    if inputs != set(names) or not outputs <= inputs:
        return "its tensors have other dimensions than it lists"
    if any(spec.dims and len(spec.dims) != len(spec.shape) for spec in (*manifest.inputs, *manifest.outputs)):
        return "a tensor has another number of dimensions than of sizes"
    for d in manifest.dimensions:
        positive = 1 <= d.lowest <= d.highest and min(d.sizes, default=0) >= 1 and d.sizes == sorted(d.sizes)
        if not positive or (d.handling == "pad" and d.sizes[-1] < d.highest):
            return "the sizes of a dimension make no sense"
    wanted = set(itertools.product(*(d.sizes for d in manifest.dimensions))) if names else set()
    if {tuple(code.sizes.get(name, 0) for name in names) for code in manifest.shapes} != wanted:
        return "it does not list the code for all sizes"
    missing = [code.library for code in manifest.shapes if code.library not in manifest.files]
    return f"it lists no {missing[0]}" if missing else None


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        names = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        nearest = difflib.get_close_matches(folder.name, names, n=1)
        fix = f"did you mean {folder.parent / nearest[0]}?" if nearest else "lutc compile MODEL -o NAME.lutc makes one"
        raise _read_error(folder, "there is no such folder", fix)
    if not folder.is_dir():
        raise _read_error(
            folder, "an artifact is a folder, this is a file", "lutc compile MODEL -o NAME.lutc makes one"
        )
    if not (folder / MANIFEST_NAME).exists():
        reason = f"it holds no {MANIFEST_NAME}, so it is not an artifact"
        raise _read_error(folder, reason, "lutc compile MODEL -o NAME.lutc makes one")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    if path.is_symlink() or not path.is_file():
        raise _read_error(path, "it is a link or not a regular file", _RECOMPILE)
    try:
        return decode_manifest(path.read_bytes())
    except NewerFormatError as error:
        reason = f"its format_version is {error.version}, this lutc reads up to {FORMAT_VERSION}"
        raise _read_error(path, reason, "pip install --upgrade lutc") from error
    except msgspec.MsgspecError as error:
        raise _read_error(path, f"it is damaged: {error}", _RECOMPILE) from error
    except OSError as error:
        raise _read_error(path, str(error.strerror), "make the folder readable") from error


def _check_file(folder: Path, name: str, digest: str | None) -> None:
    path = folder / name
    if not _is_plain(name):
        reason = f"it names a file outside the artifact: {name!r}"
        raise _read_error(folder / MANIFEST_NAME, reason, "do not use this artifact; compile the model again")
    parts = PurePosixPath(name).parts
    if any((folder / PurePosixPath(*parts[: i + 1])).is_symlink() for i in range(len(parts))):
        raise _read_error(path, "it is a link, which an artifact never holds", "do not use this artifact")
    if not path.is_file():
        raise _read_error(path, "the manifest lists it, but it is missing", _RECOMPILE)
    if digest is not None and _sha256(path) != digest:
        raise _read_error(path, "its SHA-256 is not the one in the manifest: the file was changed", _RECOMPILE)


def _read_error(where: Path, reason: str, fix: str) -> ArtifactError:
    return ArtifactError("cannot read the artifact", where=str(where), reason=reason, fix=fix)


def _is_plain(name: str) -> bool:
    """Whether a manifest's file name stays inside the folder: relative, no "..", no backslash, not the manifest."""
    pure = PurePosixPath(name)
    ok = bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
    return ok and "\\" not in name and "\0" not in name and pure.as_posix() == name and name != MANIFEST_NAME


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
