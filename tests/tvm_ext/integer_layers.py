"""Random layers over integer levels: constants, the Relax expression, and what the definition gives in int64."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tests import oracle_levels
from tvm_ext import op

APOT = (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)


@dataclass(frozen=True)
class IntegerLayer:
    """One layer. `x` is the input's shape; `kernel` makes it a convolution. Sums are exact: scale is 1, bias whole.

    levels, weights : values of activations and weights.
    uneven : thresholds lie anywhere, else at half-integers times a step.
    """

    name: str
    x: tuple[int, ...]
    outputs: int
    levels: tuple[int, ...] = tuple(range(16))
    weights: tuple[int, ...] = tuple(range(-7, 8))
    uneven: bool = False
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    relu: bool = False
    residual: bool = False

    @property
    def level_dtype(self) -> str:
        low, high = min(self.levels), max(self.levels)
        return "int16" if high > 255 or low < -128 else "int8" if low < 0 else "uint8"

    @property
    def weight_dtype(self) -> str:
        return "int16" if self.level_dtype == "int16" or max(map(abs, self.weights)) > 127 else "int8"

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.name.encode()))

    def thresholds(self) -> np.ndarray:
        count = len(self.levels) - 1
        if self.uneven:
            return np.cumsum(self.rng().uniform(0.05, 1, count)).astype("float32") - np.float32(count / 5)
        first = -count // 2 if min(self.levels) < 0 else 0
        step = np.float32(0.37)
        # where float32 division by the step rounds to the next level
        return np.array([_first_above((k + 0.5), step) for k in range(first, first + count)], "float32")

    def inputs(self) -> np.ndarray:
        """Spread over the levels, with values on and beside thresholds, and infinities."""
        rng, t = self.rng(), self.thresholds()
        x = rng.uniform(float(t[0]) - 1, float(t[-1]) + 1, self.x).astype("float32")
        near = np.concatenate([t, np.nextafter(t, np.float32(-np.inf)), np.nextafter(t, np.float32(np.inf))])
        flat = x.reshape(-1)
        places = rng.permutation(flat.size)[: flat.size // 2]
        flat[places] = rng.choice(near, len(places))
        flat[rng.integers(0, flat.size, 3)] = [np.inf, -np.inf, -0.0]
        return x

    def weight(self) -> np.ndarray:
        shape = (self.outputs, self.x[1], *self.kernel) if self.kernel else (self.outputs, self.x[-1])
        return self.rng().choice(np.array(self.weights), shape).astype(self.weight_dtype)

    def constants(self) -> dict[str, np.ndarray]:
        rng = self.rng()
        return {
            "weight": self.weight(),
            "scale": np.ones(self.outputs, "float32"),
            "bias": rng.integers(-40, 40, self.outputs).astype("float32"),
            "start": rng.integers(-40, 40, self.outputs).astype("int32"),
        }

    def residual_value(self) -> np.ndarray:
        return self.rng().integers(-50, 50, self.sums().shape).astype("float32")

    def expression(self, x: relax.Expr, residual: relax.Expr | None) -> relax.Expr:
        values = relax.const(np.array(self.levels, self.level_dtype))
        levels = op.levels(x, relax.const(self.thresholds()), values, layer=self.name)
        constants = {name: relax.const(value) for name, value in self.constants().items()}
        if self.kernel:
            y = op.quantized_conv2d(
                levels, **constants, strides=self.strides, pads=self.pads, dilations=self.dilations, layer=self.name
            )
        else:
            y = op.quantized_dense(levels, **constants, layer=self.name)
        y = y if residual is None else relax.op.add(y, residual)
        return relax.op.nn.relu(y) if self.relu else y

    def sums(self) -> np.ndarray:
        """int64 sums, shaped like the result."""
        codes = oracle_levels.codes(self.inputs(), self.thresholds())
        x, w = np.array(self.levels, np.int64)[codes], self.weight().astype(np.int64)
        if not self.kernel:
            return x @ w.T
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.strides, self.dilations
        top, left, bottom, right = self.pads
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
        width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
        total = np.zeros((x.shape[0], self.outputs, height, width), np.int64)
        for i in range(kh):
            for j in range(kw):
                part = x[
                    :, :, i * dh : i * dh + (height - 1) * sh + 1 : sh, j * dw : j * dw + (width - 1) * sw + 1 : sw
                ]
                total += np.einsum("bchw,mc->bmhw", part, w[:, :, i, j])
        return total

    def reference(self) -> np.ndarray:
        c = self.constants()
        along = (slice(None), None, None) if self.kernel else (slice(None),)
        y = (self.sums() + c["start"][along]).astype("float32") + c["bias"][along]
        y = y + self.residual_value() if self.residual else y
        return np.maximum(y, 0) if self.relu else y


def _first_above(half: float, step: np.float32) -> np.float32:
    """The least float32 x with round_half_even(x / step) above `half`."""
    x = np.float32(half * float(step))
    for _ in range(8):
        x = np.nextafter(x, np.float32(-np.inf))
    while np.rint(x / step) < half:
        x = np.nextafter(x, np.float32(np.inf))
    return x


def module_of(layers: Sequence[IntegerLayer]) -> tvm.IRModule:
    """main(x of every layer, residuals) -> the result of every layer."""
    xs = [relax.Var(f"x_{layer.name}", relax.TensorType(layer.x, "float32")) for layer in layers]
    extra = {
        layer.name: relax.Var(f"r_{layer.name}", relax.TensorType(layer.residual_value().shape, "float32"))
        for layer in layers
        if layer.residual
    }
    bb = relax.BlockBuilder()
    with bb.function("main", [*xs, *extra.values()]):
        with bb.dataflow():
            results = [bb.emit(layer.expression(x, extra.get(layer.name))) for layer, x in zip(layers, xs, strict=True)]
            result = bb.emit_output(relax.Tuple(results))
        bb.emit_func_output(result)
    return bb.get()


def inputs_of(layers: Sequence[IntegerLayer]) -> list[np.ndarray]:
    return [layer.inputs() for layer in layers] + [layer.residual_value() for layer in layers if layer.residual]
