"""The compiled kernels of one operator, called one after the other on buffers that were made before.

The virtual machine is left out: its bookkeeping (some microseconds) belongs to a model, not to an operator. The kernels
are those of the library that an artifact would hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lutc.benchmark.call_steps import call_steps
from lutc.benchmark.operator_layer import OperatorLayer
from lutc.cost_model.bound import TABLE_ENTRIES
from lutc.importers.lut_layer import ARGUMENTS
from lutc.targets import Target

PARTS = {"lut_plane": "quantize", "lut_quantize": "quantize", "lut_encode": "encode", "lut_lookup": "read"}
"""Prefix of a kernel's symbol -> what it does: input to 8 bits, search, table read and all behind it."""


class OperatorKernels:
    """An operator compiled for a target. Calling it runs it once, on this machine.

    kernel, table_bits : what the compiler chose, as `lutc inspect` tells it.
    isa, gathers : the instruction set it is made for, and whether it reads table rows one by one.
    table_traffic : bytes of table that a call reads: all of it for every block of rows kept in registers, or a gather's
        rows.
    steps : symbol and arguments (TVM tensors) of each kernel call, in order; the last argument is the result.
    """

    def __init__(self, layer: OperatorLayer, target: Target) -> None:
        from tvm.target import Target as TVMTarget

        from tvm_ext import pipeline
        from tvm_ext.target import best_isa

        llvm = target.llvm()
        scheduled = pipeline.schedule(_module(layer), llvm)
        built = pipeline.codegen(scheduled, llvm)
        self.kernel: str = built.layers[0]["kernel"]
        self.table_bits: int = built.layers[0]["table_bits"]
        self.gathers = self.kernel.startswith(("row gather", "row loads"))
        self.isa = best_isa(TVMTarget(dict(llvm))).name
        self.table_traffic = self._traffic(layer)
        self._library = built.executable.mod.imports[0]
        self.steps, (self._result,) = call_steps(scheduled, [layer.x])
        self._shape = layer.operator.output_shape

    @property
    def names(self) -> list[str]:
        """Symbols of the kernels, in order."""
        return [name for name, _ in self.steps]

    @functools.cached_property
    def _calls(self) -> list[tuple[Any, list[Any]]]:
        return [(self._library[name], arguments) for name, arguments in self.steps]

    def __call__(self) -> None:
        for function, arguments in self._calls:
            function(*arguments)

    def parts(self) -> dict[str, Callable[[], object]]:
        """Each kernel alone, on what is in the buffers; by its part, "quantize", "encode" or "read"."""
        found: dict[str, Callable[[], object]] = {}
        for symbol, (function, arguments) in zip(self.names, self._calls, strict=True):
            found[part_of(symbol)] = functools.partial(function, *arguments)
        return found

    def save_object(self, path: Path) -> None:
        """Write the kernels' machine code as an object file."""
        self._library.write_to_file(str(path))

    def _traffic(self, layer: OperatorLayer) -> int:
        from tvm_ext.compute import pack
        from tvm_ext.tensor_intrin import get_isa

        o, table = layer.operator, layer.lut.constants["table"]
        assert table is not None
        if self.gathers:
            return o.positions * o.num_codebooks * o.outputs * table.itemsize
        read = get_isa(self.isa).table_read
        codebooks = pack.padded_codebooks(table, read)
        tile = pack.register_tile(-(-o.positions // read.rows), o.outputs, codebooks, read)
        return -(-o.positions // (tile.row_tiles * read.rows)) * o.num_codebooks * TABLE_ENTRIES * o.outputs

    def result(self) -> np.ndarray:
        """What the last call computed."""
        return self._result.numpy().reshape(self._shape)


def part_of(symbol: str) -> str:
    """ "quantize", "encode", "read", or the symbol of any other kernel."""
    return next((part for prefix, part in PARTS.items() if symbol.startswith(prefix)), symbol)


def _module(layer: OperatorLayer) -> Any:
    """A Relax module with the layer and its relu."""
    from tvm import relax

    from tvm_ext import op

    lut = layer.lut
    constants = [None if lut.constants.get(n) is None else relax.const(lut.constants[n]) for n in ARGUMENTS]
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(layer.x.shape), "float32"))
    call = op.conv2d if layer.operator.is_conv else op.dense
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(call(x, *constants, **lut.attributes()))
            y = builder.emit_output(relax.op.nn.relu(y))
        builder.emit_func_output(y)
    return builder.get()
