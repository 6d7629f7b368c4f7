"""The static shapes of a model's inputs: those in the file, completed by the ones the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import onnx

from lutc.errors import ModelImportError
from lutc.importers.names import did_you_mean

Dim = int | str
InputShapes = Mapping[str, Sequence[int]]
Shapes = Mapping[str, "list[Dim] | None"]


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that are not also initializers (files of IR version 3 list those too)."""
    constant = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constant]


def static_shapes(graph: onnx.GraphProto, given: InputShapes | None, source: str) -> dict[str, list[int]]:
    """`resolve_shapes` of an ONNX graph's inputs."""
    return resolve_shapes({value.name: dims_of(value) for value in graph_inputs(graph)}, given, source)


def resolve_shapes(shapes: Shapes, given: InputShapes | None, source: str) -> dict[str, list[int]]:
    """Input name -> shape, all positive integers. A name shared by dimensions takes one size everywhere.

    Raises
    ------
    ModelImportError : a dimension stays dynamic, is not positive, or contradicts the file; an unknown input name.
    """
    given = given or {}
    _check_names(given, list(shapes), source)
    sizes: dict[str, int] = {}
    for name, wanted in given.items():
        sizes |= _sizes_of(name, shapes[name], list(wanted), source)
    complete = {name: _complete(dims, given.get(name), sizes) for name, dims in shapes.items()}
    _check_static(shapes, complete, source)
    return {name: [int(dim) for dim in dims] for name, dims in complete.items() if dims is not None}


def dims_of(value: onnx.ValueInfoProto) -> list[Dim] | None:
    """Each dimension as its size, or its name ("?" without one); None when even the rank is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]


def _check_names(given: InputShapes, known: list[str], source: str) -> None:
    for name in given:
        if name not in known:
            raise ModelImportError(
                f'the model has no input "{name}"',
                where=f"{source}, input shapes",
                reason=f"its inputs are {', '.join(known) or 'none'}{did_you_mean(name, known)}",
                fix=f"name one of them: --input-shape {known[0] if known else 'NAME'}=...",
            )


def _sizes_of(name: str, dims: list[Dim] | None, wanted: list[int], source: str) -> dict[str, int]:
    """Check a given shape against the file's and return the sizes it gives to named dimensions."""
    where = f'{source}, input "{name}"'
    text = ",".join(map(str, wanted))
    if not all(isinstance(size, Integral) and size >= 1 for size in wanted):
        raise ModelImportError(
            "an input shape must be positive whole numbers",
            where=where,
            reason=f"the given shape is {text}; code is generated for one fixed shape",
            fix=f"give sizes of at least 1: --input-shape {flag(name, dims)}",
        )
    if dims is None:
        return {}
    if len(dims) != len(wanted) or not all(map(_fits, dims, wanted)):
        raise ModelImportError(
            "the given input shape does not fit the model",
            where=where,
            reason=f"given {text}, the model has {','.join(map(str, dims))}",
            fix=f"keep the sizes that the model fixes, --input-shape {flag(name, dims)}, or export it with other sizes",
        )
    return {dim: size for dim, size in zip(dims, wanted, strict=True) if isinstance(dim, str) and dim != "?"}


def _fits(dim: Dim, size: int) -> bool:
    return isinstance(dim, str) or dim < 1 or dim == size


def _complete(dims: list[Dim] | None, wanted: Sequence[int] | None, sizes: Mapping[str, int]) -> list[Dim] | None:
    if wanted is not None:
        return list(wanted)
    return None if dims is None else [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims]


def _check_static(
    shapes: Mapping[str, list[Dim] | None], complete: Mapping[str, list[Dim] | None], source: str
) -> None:
    told, flags = [], []
    for name, dims in complete.items():
        if dims is None:
            told.append(f'"{name}" has no shape at all')
        elif any(isinstance(dim, str) or dim < 1 for dim in dims):
            shown = ", ".join(f"{axis} ({dim})" for axis, dim in enumerate(dims) if isinstance(dim, str) or dim < 1)
            told.append(f'"{name}" [{",".join(map(str, dims))}]: dimension {shown}')
        else:
            continue
        flags.append(f"--input-shape {flag(name, shapes[name])}")
    if told:
        raise ModelImportError(
            "the model has inputs without a fixed shape",
            where=source,
            reason="code is generated for one fixed shape, and these are open:\n" + "\n".join(told),
            fix="give the sizes, for example " + " ".join(flags) + _left_open(complete),
        )


def _left_open(shapes: Mapping[str, list[Dim] | None]) -> str:
    """What to type to leave named dimensions to the run."""
    names = dict.fromkeys(dim for dims in shapes.values() for dim in dims or [] if isinstance(dim, str) and dim != "?")
    return ", or leave them to the run: " + " ".join(f"--dynamic {name}=1..128" for name in names) if names else ""


def flag(name: str, dims: Sequence[Dim] | None) -> str:
    """`x=1,3,224,224`: what to type for an input; open sizes get a usual value (batch 1, images 224, sequences 128)."""
    if dims is None:
        return f"{name}=1,3,224,224"
    usual = 224 if len(dims) == 4 else 128
    sizes = [dim if isinstance(dim, int) and dim > 0 else 1 if axis == 0 else usual for axis, dim in enumerate(dims)]
    return f"{name}={','.join(map(str, sizes))}"
