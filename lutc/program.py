"""The compiled code of a model: one library, or one for each size of its dimensions, over one set of constants."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lutc.artifact.constants import write_constants
from lutc.artifact.manifest import Dimension, ShapeCode
from lutc.artifact.store import CONSTANTS_NAME, LIBRARY_NAME
from lutc.linker import Linker
from lutc.targets import Target
from lutc.trace import Trace

if TYPE_CHECKING:
    from lutc.importers.dynamic import DynamicModel
    from lutc.model import Model

AUTO = "auto"
"""Among the patterns of layers that stay float: those that are faster so."""


@dataclass
class Program:
    """What an artifact is written from.

    Parameters
    ----------
    dimensions : sizes that are chosen at a run.
    codes : each code with its executable; the first, of the largest sizes, is the library model.so.
    constants : what codes take behind the inputs, by name; each value is there once.
    """

    dimensions: Sequence[Dimension] = ()
    codes: list[tuple[ShapeCode, Any]] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    _names: dict[tuple[str, str, tuple[int, ...]], str] = field(default_factory=dict)
    _first: tuple[Model, Any] | None = None

    def add(self, model: Model, built: Any, sizes: Mapping[str, int]) -> None:
        """The code of a model, a `tvm_ext.pipeline.Built`, at one size of every dimension; the largest comes first."""
        name = f"model-{'x'.join(map(str, sizes.values()))}.so" if self.codes else LIBRARY_NAME
        names = [self._name(np.from_dlpack(tensor)) for tensor in built.constants]
        self.codes.append((ShapeCode(sizes=dict(sizes), library=name, constants=names), built.executable))
        self._first = self._first or (model, built)

    @property
    def model(self) -> Model:
        """The model at its largest sizes."""
        assert self._first is not None
        return self._first[0]

    @property
    def built(self) -> Any:
        """Its code."""
        assert self._first is not None
        return self._first[1]

    def _name(self, array: np.ndarray) -> str:
        key = (hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(), str(array.dtype), array.shape)
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names):04d}"
            self.constants[self._names[key]] = array
        return self._names[key]

    def payload(self, linker: Linker, emit: Sequence[str]) -> Callable[[Path], None]:
        """Writes the artifact's files into a folder."""

        def write(folder: Path) -> None:
            for code, executable in self.codes:
                executable.export_library(str(folder / code.library), fcompile=linker.fcompile())
            if self.constants:
                write_constants(folder / CONSTANTS_NAME, self.constants)
            if "asm" in emit:
                text = self.built.executable.mod.imports[0].inspect_source("asm")
                (folder / "model.s").write_text(text, encoding="utf-8")
            if "ir" in emit:
                (folder / "model.ir").write_text(self.built.scheduled, encoding="utf-8")

        return write


def build_shapes(
    source: Any, dynamic: Mapping[str, str | Sequence[int]], codebooks: Any, input_shapes: Any, goal: Target,
    keep_float: Sequence[str], exact: bool, trace: Trace, build: Callable[[Model, Trace, Sequence[str], bool], Any],
) -> Program:  # fmt: skip
    """The code of a model for every combination of sizes; all compute the same, by the same layers and tables.

    build : gives the code of a model, with the patterns of layers that stay float, and `exact`.
    """
    from lutc.cost_model.estimate import slower_as_tables
    from lutc.importers.dynamic import import_dynamic

    with trace.phase("import") as message:
        shapes = import_dynamic(source, dynamic, codebooks=codebooks, input_shapes=input_shapes)
        message.append("; ".join(map(str, shapes.dimensions)))
    if AUTO in keep_float:
        slower = slower_as_tables(shapes.at(shapes.shapes()[0]), goal)
        keep_float = [*(name for name in keep_float if name != AUTO), *map(glob.escape, slower)]
    program, same = _build_all(shapes, keep_float, exact, trace, build)
    if not same:  # tables are narrowed for some kernels only
        program, _ = _build_all(shapes, keep_float, True, trace, build)
    return program


def _build_all(
    shapes: DynamicModel, keep_float: Sequence[str], exact: bool, trace: Trace,
    build: Callable[[Model, Trace, Sequence[str], bool], Any],
) -> tuple[Program, bool]:  # fmt: skip
    """The program, and whether tables have the same bits in all of it."""
    program, bits = Program(shapes.dimensions), set()
    for sizes in shapes.shapes():
        with trace.phase("shape") as message:
            told: dict[str, str] = {}
            inner = Trace(lambda phase, text, _, told=told: told.update({phase: text}), trace.instruments)
            model = shapes.at(sizes)
            built = build(model, inner, keep_float, exact)
            program.add(model, built, sizes)
            bits.add(tuple(sorted((row["name"], row.get("table_bits", 0)) for row in built.layers)))
            message.append(", ".join(f"{name} {size}" for name, size in sizes.items()) + ":")
            message.append(told["schedule"])
    return program, len(bits) == 1
