"""PyTorch to Relax: .pt2 files, ExportedPrograms and modules, with torch.ops.lutc as R.lut calls."""

from __future__ import annotations

import hashlib
import inspect
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lutc.errors import LutcError, ModelImportError
from lutc.files import check_file
from lutc.importers.codebooks import Codebooks
from lutc.importers.input_shapes import Dim, InputShapes, resolve_shapes

try:
    import torch
except ImportError as error:
    raise ModelImportError(
        "cannot import a PyTorch model",
        where="torch",
        reason="PyTorch is not installed",
        fix='pip install "lutc[torch]", or export the model to ONNX and give that file',
    ) from error

from lutc.importers.pt2_archive import check_archive
from lutc.importers.pt2_convert import from_program
from lutc.importers.relax_types import tensor_specs
from lutc.model import Model


def import_pt2(path: Path, *, codebooks: Codebooks | None = None, input_shapes: InputShapes | None = None) -> Model:
    """Load a .pt2 file with torch.export.load and import it.

    The archive is inspected first: members that torch would unpickle as objects, compiled code and operators outside
    torch.ops.aten and torch.ops.lutc are refused, so loading builds tensors and a graph and runs nothing of the file's.

    Raises
    ------
    ModelImportError : the file is missing, damaged or refused, or the program cannot be imported.
    """
    program, digest = _load(path)
    return _import_program(program, str(path), digest, codebooks, input_shapes)


def open_dims(source: Any) -> dict[str, list[Dim] | None]:
    """Input name -> sizes, and names of open dimensions, of a .pt2 file or an ExportedProgram."""
    program = source if isinstance(source, torch.export.ExportedProgram) else _load(Path(source))[0]
    return {name: [_dim(size) for size in value.shape] for name, value in _user_values(program).items()}


def _load(path: Path) -> tuple[torch.export.ExportedProgram, str]:
    """The program and the SHA-256 of its file."""
    path = check_file(path, (".pt2",))
    content = path.read_bytes()
    check_archive(content, str(path))
    import lutc.nn._library  # noqa: F401  (registers torch.ops.lutc, which the file's graph names)

    try:
        program = torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise ModelImportError(
            "cannot load the .pt2 file",
            where=str(path),
            reason=f"torch {torch.__version__} could not read it: {_first_line(error)}",
            fix="save it again with torch.export.save of this torch version",
        ) from error
    return program, hashlib.sha256(content).hexdigest()


def import_torch(source: Any, *, codebooks: Codebooks | None = None, input_shapes: InputShapes | None = None) -> Model:
    """Import an ExportedProgram, or a torch module that is exported here in eval mode (input_shapes required).

    Raises
    ------
    ModelImportError : export or import failed, or shapes are missing.
    """
    if isinstance(source, torch.export.ExportedProgram):
        program, name = source, "ExportedProgram"
        return _import_program(program, name, _digest(program), codebooks, input_shapes)
    if not isinstance(source, torch.nn.Module):
        raise ModelImportError(
            "cannot import this object",
            where="source",
            reason=f"it is a {type(source).__qualname__}, neither a module nor an ExportedProgram",
            fix="give a torch.nn.Module, an ExportedProgram, or the path of an .onnx or .pt2 file",
        )
    name = type(source).__name__
    program = _export(source, (), _example_inputs(source, input_shapes, name), name)
    return _import_program(program, name, _digest(program), codebooks, None)


def _import_program(
    program: torch.export.ExportedProgram,
    source: str,
    digest: str,
    codebooks: Codebooks | None,
    input_shapes: InputShapes | None,
) -> Model:
    program = _with_static_shapes(program, source, input_shapes)
    try:
        mod, nodes = from_program(program, source)
    except LutcError:
        raise
    except Exception as error:
        raise ModelImportError(
            "cannot import the exported program",
            where=source,
            reason=_first_line(error),
            fix="export the model to ONNX with lutc.export_model and give that file",
        ) from error
    signature = program.graph_signature
    inputs, outputs = tensor_specs(mod, signature.user_inputs, [str(name) for name in signature.user_outputs], source)
    return Model(mod, source, digest, inputs, outputs, codebooks, nodes)


def _with_static_shapes(
    program: torch.export.ExportedProgram, source: str, given: InputShapes | None
) -> torch.export.ExportedProgram:
    values = _user_values(program)
    dims = {name: [_dim(size) for size in value.shape] for name, value in values.items()}
    shapes = resolve_shapes(dims, given, source)
    if all(isinstance(dim, int) for shape in dims.values() for dim in shape):
        return program
    flat = [
        torch.zeros(shapes[name], dtype=values[name].dtype) if name in values else name
        for name in program.graph_signature.user_inputs
    ]
    args, kwargs = torch.utils._pytree.tree_unflatten(flat, program.call_spec.in_spec)
    # guards are Python source from the file; the shapes they would check are checked above
    return _export(program.module(check_guards=False), args, kwargs, source)


def _user_values(program: torch.export.ExportedProgram) -> dict[str, Any]:
    wanted = set(program.graph_signature.user_inputs)
    return {
        str(node.name): node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in wanted
    }


def _dim(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)


def _example_inputs(module: torch.nn.Module, given: InputShapes | None, source: str) -> dict[str, Any]:
    parameters = [name for name in inspect.signature(module.forward).parameters if name != "self"]
    if not given:
        raise ModelImportError(
            "a torch module does not say the shapes of its inputs",
            where=source,
            reason=f"forward takes {', '.join(parameters)}, and no input_shapes were given",
            fix=f"give them: input_shapes={{{', '.join(f'{name!r}: (1, 3, 224, 224)' for name in parameters)}}}",
        )
    shapes = resolve_shapes({name: None for name in parameters if name in given or len(parameters) == 1}, given, source)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], source: str
) -> torch.export.ExportedProgram:
    try:
        with _eval_mode(module), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, kwargs)
    except Exception as error:
        raise ModelImportError(
            "torch cannot export the module",
            where=source,
            reason=_first_line(error),
            fix="check the input shapes, and that torch.export.export accepts the module",
        ) from error


@contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    training = [inner for inner in module.modules() if inner.training]
    try:
        for inner in training:
            inner.training = False
        yield
    finally:
        for inner in training:
            inner.training = True


def _digest(program: torch.export.ExportedProgram) -> str:
    digest = hashlib.sha256(str(program.graph).encode())
    for name, tensor in sorted(program.state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
