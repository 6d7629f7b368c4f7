"""Model files and live models to `Model`. Importing this package loads neither tvm nor torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lutc.errors import ModelImportError
from lutc.files import check_file

if TYPE_CHECKING:
    from lutc.importers.codebooks import Codebooks
    from lutc.importers.input_shapes import InputShapes
    from lutc.model import Model

__all__ = ["import_model"]


def import_model(
    source: Any,
    *,
    codebooks: Codebooks | str | os.PathLike[str] | None = None,
    input_shapes: InputShapes | None = None,
) -> Model:
    """Import a model into Relax.

    Parameters
    ----------
    source : path of an .onnx or .pt2 file, an onnx.ModelProto (left unchanged), a torch ExportedProgram, or a
        torch.nn.Module (which needs input_shapes).
    codebooks : codebooks (or their .safetensors file) of float layers that shall become lookup tables.
    input_shapes : input name -> sizes, needed where the model leaves a dimension open. For a torch module: argument
        name of forward -> sizes, float32 inputs.

    Raises
    ------
    ModelImportError : the model or codebook file cannot be read or imported.
    """
    books = _load_codebooks(codebooks)
    if isinstance(source, (str, os.PathLike)):
        return _import_path(Path(source), books, input_shapes)
    origin = type(source).__module__.partition(".")[0]
    if type(source).__name__ == "ModelProto" and origin == "onnx":
        return _import_proto(source, books, input_shapes)
    if any(base.__module__.partition(".")[0] == "torch" for base in type(source).__mro__):
        from lutc.importers.pt2 import import_torch

        return import_torch(source, codebooks=books, input_shapes=input_shapes)
    raise ModelImportError(
        "cannot import this object",
        where="source",
        reason=f"it is a {type(source).__qualname__}",
        fix="give the path of an .onnx or .pt2 file, a ModelProto, an ExportedProgram or a torch module",
    )


def _import_path(path: Path, codebooks: Codebooks | None, input_shapes: InputShapes | None) -> Model:
    path = check_file(path, (".onnx", ".pt2"))
    if path.suffix == ".pt2":
        from lutc.importers.pt2 import import_pt2

        return import_pt2(path, codebooks=codebooks, input_shapes=input_shapes)
    from lutc.importers.onnx import import_onnx
    from lutc.importers.onnx_file import read_onnx

    model, digest = read_onnx(path)
    return import_onnx(model, source=str(path), source_sha256=digest, codebooks=codebooks, input_shapes=input_shapes)


def _import_proto(model: Any, codebooks: Codebooks | None, input_shapes: InputShapes | None) -> Model:
    from lutc.importers.onnx import import_onnx

    copy = type(model)()
    copy.CopyFrom(model)
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    source = f"ModelProto {model.graph.name!r}"
    return import_onnx(copy, source=source, source_sha256=digest, codebooks=codebooks, input_shapes=input_shapes)


def _load_codebooks(codebooks: Codebooks | str | os.PathLike[str] | None) -> Codebooks | None:
    if not isinstance(codebooks, (str, os.PathLike)):
        return codebooks
    from lutc.importers.codebooks import Codebooks

    return Codebooks.load(codebooks)
