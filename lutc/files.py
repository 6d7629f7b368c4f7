"""Checks of files the user names, cheap enough to run before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from lutc.errors import LutcError, ModelImportError


def check_file(path: str | Path, suffixes: Sequence[str], *, what: str = "the model") -> Path:
    """The path of a file that exists, is not empty, and has one of the suffixes (e.g. ".onnx").

    Raises ModelImportError with the nearest file name; `what` is said to be unreadable.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in suffixes)
        raise _error(
            what, path, "it is a folder", f"give one of {', '.join(inside[:5])}" if inside else _kinds(suffixes)
        )
    if not path.exists():
        raise _error(what, path, "there is no such file", _nearest(path, suffixes))
    if path.suffix not in suffixes:
        raise _error(what, path, f"it does not end in {' or '.join(suffixes)}", _kinds(suffixes))
    if path.stat().st_size == 0:
        raise _error(what, path, "the file is empty", "write or copy it again")
    return path


def _error(what: str, path: Path, reason: str, fix: str) -> ModelImportError:
    return ModelImportError(f"cannot read {what}", where=str(path), reason=reason, fix=fix)


def _kinds(suffixes: Sequence[str]) -> str:
    return f"give a {' or '.join(suffixes)} file"


def _nearest(path: Path, suffixes: Sequence[str]) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [name for name in names if Path(name).suffix in suffixes], n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


def check_writable(path: str | Path, error: type[LutcError], *, overwrite: bool = True) -> Path:
    """The path of a file that can be written: its folder exists, and it is no folder itself. Raises `error`."""
    path = Path(path)
    message = f"cannot write {path.name}"
    if path.parent.exists() and not path.parent.is_dir():
        reason = f"{path.parent} is a file, not a folder"
        raise error(message, where=str(path), reason=reason, fix="choose another --output")
    if not path.parent.is_dir():
        fix = f"mkdir -p {path.parent}"
        raise error(message, where=str(path), reason=f"the folder {path.parent} does not exist", fix=fix)
    if path.is_dir():
        raise error(message, where=str(path), reason="it is a folder", fix="name a file in it")
    if path.exists() and not overwrite:
        fix = "add --overwrite, or choose another --output"
        raise error(message, where=str(path), reason="it exists already", fix=fix)
    return path
