"""Look into a .pt2 file before torch loads it, and refuse what would run code.

torch.export.load unpickles legacy weights, tensor subclasses, custom objects and, when weights_only fails, sample
inputs; it evaluates the symbolic sizes of dynamic shapes; and it resolves operator names by attribute access under
`torch`. A file that needs none of this is the normal case, so everything else is refused. The checks read through
torch's own archive reader: two readers that disagree about a zip file would leave a gap.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import torch

from lutc.errors import ModelImportError

_ALLOWED_TARGET = re.compile(
    r"torch\.ops\.(aten|lutc|prims|higher_order)\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+"
)
_SIZE_FUNCTIONS = frozenset(
    {"Symbol", "Integer", "Rational", "Mul", "Add", "Pow", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv"}
    | {"ModularIndexing", "Max", "Min"}
)
_SYMBOL_NAME = re.compile(r"[A-Za-z]\w*")


def check_archive(content: bytes, source: str) -> None:
    """Raise ModelImportError unless torch.export.load of this archive only builds tensors and a graph."""
    try:
        archive = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = archive.get_all_records()
    except RuntimeError as error:
        raise _refused(
            source, f"it is not a whole .pt2 archive: {str(error).splitlines()[0]}", "copy or export it again"
        ) from error
    for record in records:
        _check_record(record, source)
    if "archive_version" not in records or not any(record.startswith("models/") for record in records):
        raise _refused(
            source, "it holds no exported program in the current format", "save it again with torch.export.save"
        )
    for record in records:
        if record.endswith(("_weights_config.json", "_constants_config.json")):
            _check_payloads(_json(archive, record, source), record, source)
        elif record.startswith("models/"):
            _check_program(_json(archive, record, source), record, source)
        elif record.startswith("data/sample_inputs/"):
            _check_sample_inputs(archive.get_record(record), record, source)


def _check_record(record: str, source: str) -> None:
    parts = record.split("/")
    if ".." in parts or "\\" in record or record.startswith("/"):
        raise _refused(source, f"its member {record!r} points outside the archive", "do not use this file")
    if record.startswith(("data/aotinductor/", "data/executorch/")):
        raise _refused(
            source, f"its member {record!r} is compiled code", "give the exported program, saved before compiling"
        )
    if record.startswith(("data/weights/", "data/constants/")) and record.endswith(".pt"):
        raise _refused(
            source, f"its member {record!r} is in the old pickle format", "save it again with torch.export.save"
        )


def _check_payloads(config: Any, record: str, source: str) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    for name, entry in (entries if isinstance(entries, dict) else {}).items():
        plain = isinstance(entry, dict) and entry.get("use_pickle") is False
        if not plain or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
            raise _refused(
                source,
                f'{record}: "{name}" is a pickled object, not a plain tensor',
                "export the model with plain tensors as parameters and buffers",
            )


def _check_program(program: Any, record: str, source: str) -> None:
    for key, value in _items(program):
        if key == "target" and isinstance(value, str) and "." in value and not _ALLOWED_TARGET.fullmatch(value):
            if _is_graph_name(value):
                continue
            raise _refused(
                source,
                f"{record}: it calls {value!r}",
                "export the model with operators of torch.ops.aten and torch.ops.lutc only",
            )
        if key == "expr_str" and not _is_plain_size(value):
            raise _refused(source, f"{record}: {value!r} is not a tensor size", "export the model with fixed shapes")


def _is_graph_name(value: str) -> bool:
    """Signatures have targets too, the qualified names of parameters; those never resolve under a module of Python."""
    return not value.startswith(("torch", "_operator", "math", "#"))


def _is_plain_size(text: Any) -> bool:
    """Whether the text is sums and products of symbols and integers, as torch writes the sizes of dynamic shapes."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_plain_node(node) for node in ast.walk(tree))


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id in _SIZE_FUNCTIONS or re.fullmatch(r"[suz]\w*", node.id) is not None
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, bool)) or (
            isinstance(node.value, str) and _SYMBOL_NAME.fullmatch(node.value) is not None
        )
    allowed = (ast.Expression, ast.keyword, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
    return isinstance(node, allowed)


def _check_sample_inputs(content: bytes, record: str, source: str) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise _refused(
            source,
            f"{record} is more than tensors: loading it could run code",
            "export the model with tensors as example inputs",
        ) from error


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)


def _json(archive: Any, record: str, source: str) -> Any:
    try:
        return json.loads(archive.get_record(record))
    except (ValueError, RuntimeError, RecursionError) as error:
        raise _refused(source, f"{record} cannot be read: {error}", "copy or export it again") from error


def _refused(source: str, reason: str, fix: str) -> ModelImportError:
    return ModelImportError("cannot load the .pt2 file", where=source, reason=reason, fix=fix)
