"""Models with dimensions whose size is chosen at each run: imported at one size after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lutc.artifact.manifest import Dimension, TensorSpec
from lutc.dimensions import MOST_SHAPES, Declared, declare
from lutc.errors import ModelImportError
from lutc.importers import import_model
from lutc.importers.input_shapes import Dim, InputShapes, dims_of, graph_inputs, resolve_shapes
from lutc.importers.names import did_you_mean
from lutc.model import Model

if TYPE_CHECKING:
    from tvm_ext.transform.padding_sites import Site

Sizes = Mapping[str, int]
_PROBE = 16
"""A size that any model should take: to see what it does with a dimension."""


@dataclass(frozen=True, eq=False)
class DynamicModel:
    """A model at every size that code is made for.

    Parameters
    ----------
    dimensions : what there is to choose at a run, and how.
    at : gives the model of one size of each dimension. Its "main" takes a mask for each padded dimension behind its
        inputs (see `tvm_ext.transform.MaskPadding`), which `inputs` do not list; these and `outputs` know their
        dimensions.
    """

    dimensions: Sequence[Dimension]
    at: Callable[[Sizes], Model]

    def shapes(self) -> list[dict[str, int]]:
        """Every combination of sizes, the largest first."""
        names = [dimension.name for dimension in self.dimensions]
        combined = itertools.product(*(dimension.sizes[::-1] for dimension in self.dimensions))
        return [dict(zip(names, sizes, strict=True)) for sizes in combined]


def import_dynamic(
    source: Any, dynamic: Mapping[str, str | Sequence[int]], *, codebooks: Any = None,
    input_shapes: InputShapes | None = None,
) -> DynamicModel:  # fmt: skip
    """The model of a file or program with named open dimensions (ONNX: dim_param; PyTorch: the symbol, s0).

    Parameters
    ----------
    dynamic : dimension -> "1..8", "1..512:64,512", "16,64", or exact sizes as numbers; see `lutc.dimensions`.
    source, codebooks, input_shapes : as `import_model` takes them; open dimensions not in `dynamic` need sizes.

    A dimension is "split" if entries do not depend on each other (a batch), else "pad" if the graph can be masked so
    that no entry sees padding (a sequence in a transformer); this is found out from the graph at two sizes.

    Raises
    ------
    ModelImportError : a dimension is unknown, is used in a way that cannot be masked, or the model cannot be imported.
    """
    importer = _Importer(source, declare(dynamic), codebooks, input_shapes)
    importer.check_names()
    probes = {d.name: importer.probe(d) for d in importer.declared}
    for declared, probe in zip(importer.declared, probes.values(), strict=True):
        importer.check_outputs(declared, probe)
    dimensions = [_dimension(d, probes[d.name].sites) for d in importer.declared]
    count = len(list(itertools.product(*(d.sizes for d in dimensions))))
    if count > MOST_SHAPES:
        raise ModelImportError(
            f"code for {count} shapes is more than an artifact holds", where=importer.name,
            reason=f"it is made for all sizes together, {'; '.join(map(str, dimensions))}: at most {MOST_SHAPES}",
            fix="give fewer sizes, for example --dynamic NAME=1..512:64,128,512",
        )  # fmt: skip
    padded = [d for d in dimensions if d.handling == "pad"]
    return DynamicModel(dimensions, lambda sizes: importer.masked(sizes, padded, probes))


@dataclass(frozen=True)
class _Probe:
    """What a dimension does in the model.

    sites : where entries meet; None if nobody wants other sizes than are compiled.
    outputs : the dimension's axes of each output.
    """

    sites: Sequence[Site] | None
    outputs: Sequence[Sequence[int]]


def _dimension(declared: Declared, sites: Sequence[Site] | None) -> Dimension:
    return Dimension(
        name=declared.name, lowest=declared.lowest, highest=declared.highest,
        sizes=list(declared.sizes if sites is None else declared.chosen_sizes(not sites)),
        handling="exact" if sites is None else "pad" if sites else "split",
    )  # fmt: skip


class _Importer:
    """Imports a source at given sizes, the last two of which are kept."""

    def __init__(self, source: Any, declared: Sequence[Declared], codebooks: Any, given: InputShapes | None) -> None:
        self.source, self.declared, self.codebooks, self.given = source, declared, codebooks, given
        self.name = str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
        self.dims = _open_dims(source)
        self._last: dict[tuple[int, ...], Model] = {}

    def check_names(self) -> None:
        known = [d for dims in self.dims.values() for d in dims or [] if isinstance(d, str) and d != "?"]
        for declared in self.declared:
            if declared.name not in known:
                told = "; ".join(f"{name} [{','.join(map(str, dims or '?'))}]" for name, dims in self.dims.items())
                raise ModelImportError(
                    f'the model has no dimension "{declared.name}"', where=f"{self.name}, dynamic dimensions",
                    reason=f"its inputs are {told}{did_you_mean(declared.name, known)}",
                    fix=f"name one of them: {', '.join(dict.fromkeys(known))}" if known
                    else "export the model with names for the open dimensions (dynamic_shapes, dynamic_axes)",
                )  # fmt: skip

    def model(self, sizes: Sizes) -> Model:
        """The model at these sizes, its index arithmetic folded."""
        from tvm_ext.transform import FoldSizes

        key = tuple(sizes[d.name] for d in self.declared)
        model = self._last.pop(key, None)
        if model is None:
            model = import_model(self.source, codebooks=self.codebooks, input_shapes=self._shapes(sizes))
            model = replace(model, mod=FoldSizes()(model.mod))
        self._last = dict([*self._last.items()][-1:])
        self._last[key] = model
        return model

    def _shapes(self, sizes: Sizes) -> dict[str, list[int]]:
        fixed: dict[str, list[Dim] | None] = {}
        given = {name: list(shape) for name, shape in (self.given or {}).items()}
        for name, dims in self.dims.items():
            fixed[name] = None if dims is None else [sizes.get(d, d) if isinstance(d, str) else d for d in dims]
            for axis, dim in enumerate(dims or []):
                if dim in sizes and axis < len(given.get(name, [])):
                    given[name][axis] = sizes[str(dim)]
        return resolve_shapes(fixed, given, self.name)

    def probe(self, declared: Declared) -> _Probe:
        """Compare the model at two sizes of a dimension."""
        from tvm_ext.transform import PaddingError

        base = {d.name: _probe_size(d) for d in self.declared}
        size, other = base[declared.name], _other_size(declared)
        pair = self.model(base), self.model(base | {declared.name: other})
        outputs = [[axis for axis, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if a != b]
                   for x, y in zip(pair[0].outputs, pair[1].outputs, strict=True)]  # fmt: skip
        if declared.exact:
            return _Probe(None, outputs)
        try:
            return _Probe(self._sites(declared, pair, size, other), outputs)
        except PaddingError as error:
            raise ModelImportError(
                f'"{declared.name}" cannot be any size', where=self.name,
                reason=f"the model must give the same for padded inputs, and here it is not known to: {error}",
                fix=f"name the sizes that you need: --dynamic {declared.name}=16,64,128",
            ) from error  # fmt: skip

    def _sites(self, declared: Declared, pair: tuple[Model, Model], size: int, other: int) -> list[Site]:
        from tvm_ext.transform import padding_sites

        return padding_sites(pair[0].mod, pair[1].mod, size, other, declared.lowest)

    def check_outputs(self, declared: Declared, probe: _Probe) -> None:
        """Results can only be cut to size along axes that hold the dimension alone."""
        if declared.exact:
            return
        base = {d.name: _probe_size(d) for d in self.declared}
        for spec, axes in zip(self.model(base).outputs, probe.outputs, strict=True):
            if any(spec.shape[axis] != base[declared.name] for axis in axes):
                raise ModelImportError(
                    f'"{declared.name}" cannot be any size', where=f'{self.name}, output "{spec.name}"',
                    reason=f"an axis of its shape {spec.shape} holds this dimension and another",
                    fix="export the model with outputs that keep them apart, or name the sizes that you need: "
                    f"--dynamic {declared.name}=16,64,128",
                )  # fmt: skip

    def masked(self, sizes: Sizes, padded: Sequence[Dimension], probes: Mapping[str, _Probe]) -> Model:
        from tvm_ext.transform import MaskPadding

        sites = {}
        for dimension in padded:
            size = sizes[dimension.name]
            if size > 1:  # else there is no padding
                other = self.model(dict(sizes) | {dimension.name: _smaller(size)})  # often the next one
                declared = next(d for d in self.declared if d.name == dimension.name)
                sites[dimension.name] = self._sites(declared, (self.model(sizes), other), size, _smaller(size))
        model = self.model(sizes)
        mod = MaskPadding(sites, {d.name: sizes[d.name] for d in padded})(model.mod) if padded else model.mod
        inputs = [TensorSpec(spec.name, spec.dtype, spec.shape, self._names_of(self.dims[spec.name]))
                  for spec in model.inputs]  # fmt: skip
        outputs = [TensorSpec(spec.name, spec.dtype, spec.shape, _output_dims(spec, index, probes))
                   for index, spec in enumerate(model.outputs)]  # fmt: skip
        return replace(model, mod=mod, inputs=tuple(inputs), outputs=tuple(outputs))

    def _names_of(self, dims: Sequence[Dim] | None) -> list[str]:
        names = {declared.name for declared in self.declared}
        found = [str(dim) if dim in names else "" for dim in dims or []]
        return found if any(found) else []


def _output_dims(spec: TensorSpec, index: int, probes: Mapping[str, _Probe]) -> list[str]:
    found = [""] * len(spec.shape)
    for name, probe in probes.items():
        for axis in probe.outputs[index]:
            found[axis] = name
    return found if any(found) else []


def _probe_size(declared: Declared) -> int:
    """At least 2: an axis of one entry could be any."""
    if declared.exact:
        return declared.sizes[-1]
    return max(2, declared.lowest, min(declared.highest, _PROBE))


def _other_size(declared: Declared) -> int:
    size = _probe_size(declared)
    if declared.exact:
        return declared.sizes[0]
    return _smaller(size)


def _smaller(size: int) -> int:
    """Another size, at least 2."""
    return size // 2 if size >= 4 else 5 - size


def _open_dims(source: Any) -> dict[str, list[Dim] | None]:
    """Input name -> sizes and names of its dimensions, as the file has them."""
    origin = type(source).__module__.partition(".")[0]
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix != ".pt2":
        from lutc.importers.onnx_file import load_onnx

        source, origin = load_onnx(Path(source)), "onnx"
    if origin == "onnx" and type(source).__name__ == "ModelProto":
        return {value.name: dims_of(value) for value in graph_inputs(source.graph)}
    if isinstance(source, (str, os.PathLike)) or type(source).__name__ == "ExportedProgram":
        from lutc.importers.pt2 import open_dims

        return open_dims(source)
    raise ModelImportError(
        "this object has no dynamic dimensions", where="source", reason=f"it is a {type(source).__qualname__}",
        fix="give a file, a ModelProto or an ExportedProgram that was exported with dynamic_shapes",
    )  # fmt: skip
