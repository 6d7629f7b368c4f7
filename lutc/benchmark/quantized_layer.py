"""A quantized operator with numbers in it, compiled as a model would be, and the right answer for some rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lutc.benchmark.call_steps import call_steps
from lutc.benchmark.operator_layer import input_rows
from lutc.benchmark.operators import Operator, operator_suite
from lutc.errors import VerifyError
from lutc.targets import Target

PARTS = {"lut_levels": "levels", "lut_quantized": "product"}
"""Prefix of a kernel's symbol -> what it does: float input to integer levels, and sums with all behind them."""
_CHECKED = 16


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """x float32, weight [M, D] of 2^bits - 1 levels, bias [M]; thresholds and levels of the input, uniform (LSQ)."""

    operator: Operator
    bits: int
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    thresholds: np.ndarray
    levels: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.operator.name.rpartition(' V')[0] or self.operator.name} W{self.bits}A{self.bits}"

    def check(self, y: np.ndarray) -> None:
        """Compare some rows of the result y with the definition; raises VerifyError if they differ."""
        o = self.operator
        rows = np.random.default_rng(1).choice(o.positions, min(_CHECKED, o.positions), replace=False)
        x = input_rows(o, self.x, rows)
        codes = (x[..., None] >= self.thresholds).sum(-1)
        exact = self.levels[codes].astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        got = y.reshape(o.outputs, -1).T[rows] if o.is_conv else y[rows]
        if not np.allclose(got, np.maximum(exact, 0), rtol=1e-5, atol=1e-5 * float(np.abs(exact).max())):
            raise VerifyError(
                f'the kernel of "{self.name}" is wrong', where=f"{len(rows)} rows that were looked at",
                reason="its result differs from the definition, so its time means nothing",
                fix="report this as a bug in lutc, with the target",
            )  # fmt: skip


def quantized_suite() -> list[tuple[Operator, int]]:
    """(operator, bits): ResNet-18's 3x3 convs and BERT-base's widest dense layer, and dense layers of one row."""
    operators = operator_suite()
    convs = [o for o in operators if o.is_conv and o.inputs == o.outputs and o.encode_dtype == "int8"][:4]
    wide = next(o for o in operators if not o.is_conv and (o.inputs, o.outputs) == (768, 3072))
    single = replace(wide, rows=1)
    large = replace(single, inputs=4096, outputs=4096)
    return [
        *((o, bits) for bits in (4, 3, 2) for o in (*convs, wide)),
        *((o, bits) for o in (single, large) for bits in (4, 2)),
    ]


def make_quantized(operator: Operator, bits: int, seed: int = 0) -> QuantizedLayer:
    """Gaussian weights and input (cut off below 0), both quantized in even steps."""
    o, rng = operator, np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal(o.input_shape, np.float32), 0)
    step, count = np.float32(2.5 / (2**bits - 1)), 2**bits - 1
    levels = (np.arange(count + 1) * step).astype(np.float32)
    thresholds = ((np.arange(count) + 0.5) * float(step)).astype(np.float32)
    largest = 2 ** (bits - 1) - 1
    weight = np.clip(np.rint(rng.standard_normal((o.outputs, o.depth)) * largest / 2), -largest, largest)
    weight = (weight * np.float32(2 / largest / np.sqrt(o.depth))).astype(np.float32)
    return QuantizedLayer(o, bits, x, weight, rng.standard_normal(o.outputs).astype(np.float32), thresholds, levels)


class QuantizedKernels:
    """A quantized operator compiled for a target of this machine. Calling it runs it once."""

    def __init__(self, layer: QuantizedLayer, target: Target) -> None:
        from tvm_ext import pipeline

        llvm = target.llvm()
        scheduled = pipeline.schedule(pipeline.rewrite(_module(layer), {}), llvm)
        built = pipeline.codegen(scheduled, llvm)
        self.row: dict[str, Any] = built.layers[0]
        library = built.executable.mod.imports[0]
        steps, (self._result,) = call_steps(scheduled, [layer.x])
        self._calls = [(name, library[name], arguments) for name, arguments in steps]
        self._shape = layer.operator.output_shape

    def __call__(self) -> None:
        for _, function, arguments in self._calls:
            function(*arguments)

    def parts(self) -> dict[str, Callable[[], object]]:
        """Each kernel alone, by its part, "levels" or "product"."""
        found = {}
        for symbol, function, arguments in self._calls:
            part = next((part for prefix, part in PARTS.items() if symbol.startswith(prefix)), symbol)
            found[part] = functools.partial(function, *arguments)
        return found

    def result(self) -> np.ndarray:
        """What the last call computed."""
        return self._result.numpy().reshape(self._shape)


def _module(layer: QuantizedLayer) -> Any:
    """A Relax module with the quantizer, the float layer, its bias and its relu."""
    from tvm import relax

    from tvm_ext import op

    o, builder = layer.operator, relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(o.input_shape), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(op.quantize(x, relax.const(layer.thresholds), relax.const(layer.levels)))
            if o.is_conv:
                weight = relax.const(layer.weight.reshape(o.outputs, o.inputs, *o.kernel_shape))
                y = relax.op.nn.conv2d(q, weight, strides=[o.stride] * 2, padding=o.pads, dilation=[o.dilation] * 2)
                bias = layer.bias[:, None, None]
            else:
                y, bias = relax.op.matmul(q, relax.const(np.ascontiguousarray(layer.weight.T))), layer.bias
            y = builder.emit(relax.op.add(builder.emit(y), relax.const(np.ascontiguousarray(bias))))
            y = builder.emit_output(relax.op.nn.relu(y))
        builder.emit_func_output(y)
    return builder.get()
