"""Read ONNX files: whole, inside their own folder, with a clear error for everything that can be wrong with a file."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from lutc.errors import ModelImportError
from lutc.files import check_file

_M = TypeVar("_M", bound=Message)
_LARGE = 1 << 16
_WIDTHS = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT8: 1, onnx.TensorProto.UINT8: 1, onnx.TensorProto.INT32: 4}
"""Bytes of a value of the types that weights and tables have."""
_FIX_FILE = "give a file written by torch.onnx.export, lutc.export_model or another ONNX exporter"


def load_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an .onnx file with its external data.

    Raises
    ------
    ModelImportError : the file is missing, a folder, empty, truncated or not ONNX, or its external data is missing,
        too short or lies outside the model's folder.
    """
    return read_onnx(path)[0]


def read_onnx(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, str]:
    """`load_onnx`, and the sha256 (hex) of the file followed by its external data files in the order of their names."""
    path = check_file(path, (".onnx",))
    content = path.read_bytes()
    model = _parse(content, path)
    digest = hashlib.sha256(content)
    for file in _check_external_data(model, path):
        digest.update(file.read_bytes())
    load_external_data_for_model(model, str(path.parent))
    return model, digest.hexdigest()


def _parse(content: bytes, path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelImportError(
            "cannot read the model",
            where=str(path),
            reason="it is not an ONNX file, or the file is cut short",
            fix=f"copy or export it again; {_FIX_FILE}",
        ) from error
    # protobuf accepts many byte strings that were never a model: a real one has a version and a graph
    if model.ir_version < 1 or not (model.graph.node or model.graph.output):
        raise ModelImportError(
            "cannot read the model",
            where=str(path),
            reason="it is not an ONNX file: there is no graph in it",
            fix=_FIX_FILE,
        )
    return model


def _check_external_data(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The external data files, each once, sorted; raises for those that are missing, short or elsewhere."""
    folder = path.parent.resolve()
    files: set[Path] = set()
    for tensor in _all_tensors(model):
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or file == folder or not file.is_relative_to(folder):
            raise ModelImportError(
                "the model's external data is not beside it",
                where=f'{path}, tensor "{tensor.name}"',
                reason=f"it points to {location!r}, outside the model's folder",
                fix="save the model again with its data in the same folder",
            )
        needed = sum(int(value) for key in ("offset", "length") if (value := entries.get(key, "")).isdecimal())
        if not file.is_file() or file.stat().st_size < needed:
            found = f"has {file.stat().st_size} of {needed} bytes" if file.is_file() else "does not exist"
            raise ModelImportError(
                "the model's external data is missing",
                where=f'{path}, tensor "{tensor.name}"',
                reason=f"{file.name} {found}",
                fix=f"copy {location} into {path.parent}, as the exporter wrote it",
            )
        files.add(file)
    return sorted(files)


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors(model.graph.node, model.graph.initializer)
    for function in model.functions:
        yield from _tensors(function.node, ())


def without_large_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with empty tensors in place of large initializers whose bytes fit their shape.

    onnx's checker writes and parses what it is given: with all weights that would be the peak of a compile's memory.
    """
    light = _copy_fields(model, onnx.ModelProto(), "graph")
    _copy_fields(model.graph, light.graph, "initializer")
    for tensor in model.graph.initializer:
        head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if tensor.ByteSize() < _LARGE or tensor.ByteSize() != _raw_size(head):
            light.graph.initializer.add().CopyFrom(tensor)
        else:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=[0])
    return light


def _raw_size(head: onnx.TensorProto) -> int:
    """Serialized bytes of a tensor that has its values as bytes, and nothing else besides `head`; 0 if none can."""
    width = _WIDTHS.get(head.data_type, 0)
    count = width * math.prod(head.dims)
    prefix = 1 + max(1, -(-count.bit_length() // 7))  # the field's tag, and its length in groups of 7 bits
    return head.ByteSize() + prefix + count if count > 0 else 0


def _copy_fields(source: Message, result: _M, left_out: str) -> _M:
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if isinstance(value, Message):
            getattr(result, field.name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(result, field.name, value)
        else:
            getattr(result, field.name).extend(value)
    return result


def _tensors(nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto]) -> Iterator[onnx.TensorProto]:
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner.node, inner.initializer)
