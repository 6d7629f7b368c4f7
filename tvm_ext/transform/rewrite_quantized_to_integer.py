"""RewriteQuantizedToInteger: quantized inputs that meet a weight of few values -> R.lut.quantized_dense, _conv2d."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_ext import op as lut
from tvm_ext.compute.integer_levels import IntegerLevels, code_shares, factor_levels, fit_levels
from tvm_ext.op._register import int_tuple
from tvm_ext.op.quantize import OP as QUANTIZE
from tvm_ext.transform._rewrite import add_layer_rows, array, has_static_shape, is_constant, layer_name, rewrite_module

_CONV2D, _MATMUL, _TRANSPOSE, _RESHAPE, _TAKE, _BUCKETIZE = (
    tvm.ir.Op.get(f"relax.{name}") for name in ("nn.conv2d", "matmul", "permute_dims", "reshape", "take", "bucketize")
)
_LARGEST_WEIGHT, _LARGEST_LEVEL, _ROUNDED_LEVEL = 127, 255, 127
_LARGEST_SUM, _LARGEST_WORD = 2**31 - 1, 32767
_MOST_LEVELS = 256


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A quantizer with constant thresholds float32 [T] and levels float32 [T + 1], and what it quantizes."""

    x: relax.Expr
    thresholds: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True, eq=False)
class WeightLevels:
    """weight [M, ...] ~ scale[m] * integers; `exact` as in IntegerLevels."""

    integers: np.ndarray
    scale: np.ndarray
    exact: bool


@tvm.transform.module_pass(opt_level=0, name="RewriteQuantizedToInteger")
class RewriteQuantizedToInteger:
    """Rewrites convs and matmuls whose input is quantized per tensor and whose constant weight has few values.

    "Few" is at most 256 in all, or in every output channel. The input is a ``R.lut.quantize`` or
    ``R.take(levels, R.bucketize(x, thresholds, right=True), axis=0)``. Where levels are multiples of one number the
    layer is exact; else they are rounded to 8 bits and the mean of the error goes into a bias, or with `exact` to as
    many of 16 bits as sums of int32 allow. Layers whose names are in `keep_float` are left alone.
    Zero padding adds the integer 0, whether 0 is a level or not.
    """

    def __init__(self, exact: bool = False, keep_float: Collection[str] = ()) -> None:
        self.exact, self.keep_float = exact, keep_float

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        rows: list[dict] = []

        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if layer_name(call, "") in self.keep_float:
                return None
            if call.op == _CONV2D and _plain_conv(call):
                weight = array(call.args[1])
            elif call.op == _MATMUL:
                weight = _dense_weight(rewriter, call.args[1])
            else:
                return None
            found = None if weight is None or weight.dtype != np.float32 else _quantizer(rewriter, call.args[0])
            if weight is None or found is None or not has_static_shape(call.args[0]):
                return None
            quantizer, shape = found
            return _integer_layer(rewriter, call, quantizer, shape, weight, self.exact, rows)

        return add_layer_rows(rewrite_module(mod, rewrite), rows)


def _plain_conv(call: relax.Call) -> bool:
    attrs = call.attrs
    return (
        is_constant(call.args[1]) and int(attrs.groups) == 1 and str(attrs.data_layout) == "NCHW"
        and str(attrs.kernel_layout) == "OIHW"
    )  # fmt: skip


def _dense_weight(rewriter, expr: relax.Expr) -> np.ndarray | None:
    """[M, D] of a constant [D, M], or of a transposed constant."""
    if is_constant(expr):
        value = array(expr)
        return np.ascontiguousarray(value.T) if value.ndim == 2 else None
    turned = rewriter.producer(expr, _TRANSPOSE)
    return (
        array(turned.args[0])
        if turned is not None and is_constant(turned.args[0]) and len(turned.ty.shape) == 2
        else None
    )


def _quantizer(rewriter, expr: relax.Expr) -> tuple[Quantizer, tuple[int, ...]] | None:
    """The quantizer behind a layer's input, through reshapes, and the shape that the layer reads."""
    shape = int_tuple(expr.ty.shape) if has_static_shape(expr) else None
    while (reshaped := rewriter.producer(expr, _RESHAPE)) is not None:
        expr = reshaped.args[0]
    found = rewriter.producer(expr, QUANTIZE, _TAKE)
    if found is None or shape is None:
        return None
    if found.op == QUANTIZE:
        x, thresholds, levels = found.args
    else:
        levels, codes = found.args[:2]
        bucketize = rewriter.producer(codes, _BUCKETIZE)
        axis = found.attrs.axis
        if bucketize is None or not bool(bucketize.attrs.right) or axis is None or int(axis) != 0:
            return None
        x, thresholds = bucketize.args
    if not (is_constant(thresholds) and is_constant(levels)) or len(levels.ty.shape) != 1:
        return None
    values = Quantizer(x, array(thresholds), array(levels))
    fits = values.thresholds.shape == (len(values.levels) - 1,) and 1 <= len(values.levels) <= _MOST_LEVELS
    sound = fits and np.isfinite(values.levels).all() and not (np.diff(values.thresholds) < 0).any()
    return (values, shape) if sound and str(x.ty.dtype) == "float32" else None


def _integer_layer(
    rewriter, call: relax.Call, quantizer: Quantizer, shape: tuple[int, ...], weight: np.ndarray, exact: bool,
    rows: list[dict],
) -> relax.Call | None:  # fmt: skip
    shares = code_shares(quantizer.thresholds, quantizer.levels)
    inputs, weights = _integers(quantizer, shares, weight, exact)
    if inputs is None or weights is None:
        return None
    masses = np.abs(weights.integers).reshape(len(weight), -1).sum(1)
    if np.abs(inputs.integers).max(initial=0) * masses.max(initial=0) > _LARGEST_SUM:
        return None  # sums of so many products may not fit int32
    name = layer_name(call, f"{'conv2d' if call.op == _CONV2D else 'matmul'}_{len(rows)}")
    mean, mean_integer = shares @ quantizer.levels.astype(np.float64), shares @ inputs.integers
    axes = tuple(range(1, weight.ndim))
    scale = inputs.scale * weights.scale
    bias = None
    if not (inputs.exact and weights.exact):
        bias = mean * weight.astype(np.float64).sum(axes) - scale * mean_integer * weights.integers.sum(axes)
        bias = relax.const(bias.astype(np.float32))
    wide = max(np.abs(weights.integers).max(initial=0), np.abs(inputs.integers).max(initial=0)) > _LARGEST_LEVEL
    wide = wide or np.abs(weights.integers).max(initial=0) > _LARGEST_WEIGHT
    dtype = "int16" if wide else "int8" if inputs.integers.min() < 0 else "uint8"
    x = quantizer.x
    if int_tuple(x.ty.shape) != shape:
        x = rewriter.builder_.emit(relax.op.reshape(x, shape))
    key = ("levels", x, dtype, inputs.integers.tobytes(), quantizer.thresholds.tobytes())
    if key not in rewriter.memo:  # layers that share a quantizer share its levels
        values = relax.const(inputs.integers.astype(dtype))
        call_levels = lut.levels(
            x,
            relax.const(quantizer.thresholds),
            values,
            scale=float(np.abs(quantizer.levels).max(initial=0)),
            layer=name,
        )
        rewriter.memo[key] = rewriter.builder_.emit(call_levels)
    args = [
        rewriter.memo[key], relax.const(weights.integers.astype("int16" if wide else "int8")),
        relax.const(scale.astype(np.float32)), bias,
    ]  # fmt: skip
    rows.append(_row(name, call, quantizer, weight, inputs, weights, shares))
    if call.op == _MATMUL:
        return lut.quantized_dense(*args, layer=name)
    a = call.attrs
    pads = int_tuple(a.padding)
    return lut.quantized_conv2d(
        *args, strides=int_tuple(a.strides), pads=pads * (4 // len(pads)), dilations=int_tuple(a.dilation), layer=name
    )


def _integers(
    quantizer: Quantizer, shares: np.ndarray, weight: np.ndarray, exact: bool
) -> tuple[IntegerLevels | None, WeightLevels | None]:
    """Integer levels of input and weight: exact where they can be, else of 8 bits, or 16 with `exact`."""
    flat = weight.reshape(len(weight), -1)
    inputs = factor_levels(quantizer.levels, _LARGEST_LEVEL, signed=False) or factor_levels(quantizer.levels, 127)
    weights = _factor_weight(flat)
    palettes = _palettes(flat)
    if palettes is None:
        return None, None
    if inputs is not None and weights is not None:
        return inputs, _shaped(weights, weight)
    largest_level, largest_weight = _ROUNDED_LEVEL, _LARGEST_WEIGHT
    if exact:
        largest_level, largest_weight = _wide_limits(flat, inputs, weights)
    inputs = inputs or fit_levels(quantizer.levels, shares, largest_level)
    weights = weights or _fit_weight(palettes, flat, largest_weight)
    return inputs, _shaped(weights, weight)


def _shaped(weights: WeightLevels, weight: np.ndarray) -> WeightLevels:
    return WeightLevels(weights.integers.reshape(weight.shape), weights.scale, weights.exact)


def _palettes(flat: np.ndarray) -> list[np.ndarray] | None:
    """The values of every channel, or None if one has too many to be a palette."""
    if flat.size == 0 or not np.isfinite(flat).all():
        return None
    shared = np.unique(flat)
    if len(shared) <= _MOST_LEVELS:
        return [shared] * len(flat)
    palettes = [np.unique(row) for row in flat]
    return palettes if max(map(len, palettes)) <= min(_MOST_LEVELS, flat.shape[1] // 2) else None


def _factor_weight(flat: np.ndarray) -> WeightLevels | None:
    """Exact integers with one scale for all or, if there is none, one a channel."""
    shared = np.unique(flat)
    whole = factor_levels(shared, _LARGEST_WEIGHT) if len(shared) <= _MOST_LEVELS else None
    if whole is not None:
        integers = whole.integers[np.searchsorted(shared, flat)]
        return WeightLevels(integers, np.full(len(flat), whole.scale), True)
    integers, scales = np.zeros(flat.shape, np.int64), np.ones(len(flat))
    for m, row in enumerate(flat):
        values = np.unique(row)
        found = factor_levels(values, _LARGEST_WEIGHT) if len(values) <= _MOST_LEVELS else None
        if found is None:
            return None
        integers[m], scales[m] = found.integers[np.searchsorted(values, row)], found.scale
    return WeightLevels(integers, scales, True)


def _fit_weight(palettes: list[np.ndarray], flat: np.ndarray, largest: int) -> WeightLevels:
    integers, scales = np.zeros(flat.shape, np.int64), np.ones(len(flat))
    shared = all(p is palettes[0] for p in palettes)
    whole = None
    if shared:
        _, counts = np.unique(flat, return_counts=True)
        whole = fit_levels(palettes[0], counts, largest)
    for m, row in enumerate(flat):
        values, counts = (palettes[0], None) if shared else np.unique(row, return_counts=True)
        found = whole or fit_levels(values, counts, largest)
        integers[m], scales[m] = found.integers[np.searchsorted(values, row)], found.scale
    return WeightLevels(integers, scales, False)


def _wide_limits(flat: np.ndarray, inputs: IntegerLevels | None, weights: WeightLevels | None) -> tuple[int, int]:
    """(largest level, largest weight) whose sums fit int32 for every channel, of 16 bits at most."""
    largest = np.abs(flat).max(1)
    mass = float(np.max(np.abs(flat).sum(1) / np.where(largest > 0, largest, 1), initial=1)) + flat.shape[1] / 64
    room = 0.9 * _LARGEST_SUM / mass
    known = inputs or weights
    if known is None:
        side = int(min(_LARGEST_WORD, np.sqrt(room)))
        return side, side
    one = max(1, int(np.abs(known.integers).max(initial=1)))
    other = int(min(_LARGEST_WORD, room / one))
    return (one, other) if inputs is not None else (other, one)


def _row(
    name: str, call: relax.Call, quantizer: Quantizer, weight: np.ndarray, inputs: IntegerLevels, weights: WeightLevels,
    shares: np.ndarray,
) -> dict:  # fmt: skip
    exact = inputs.exact and weights.exact
    return {
        "name": name, "op": "conv2d" if call.op == _CONV2D else "dense", "kind": "integer", "reason": "",
        "outputs": len(weight), "input_levels": len(quantizer.levels), "weight_levels": _most_values(weight),
        "level_error": 0.0 if exact else _level_error(quantizer, weight, inputs, weights, shares),
    }  # fmt: skip


def _most_values(weight: np.ndarray) -> int:
    shared = len(np.unique(weight))
    return shared if shared <= _MOST_LEVELS else max(len(np.unique(row)) for row in weight)


def _level_error(
    quantizer: Quantizer, weight: np.ndarray, inputs: IntegerLevels, weights: WeightLevels, shares: np.ndarray
) -> float:
    """RMS of what rounded levels change in the sums, relative to the sums' deviation, for independent inputs."""
    a, a2 = quantizer.levels.astype(np.float64), inputs.scale * inputs.integers
    w = weight.reshape(len(weight), -1).astype(np.float64)
    w2 = weights.integers.reshape(w.shape) * weights.scale[:, None]

    def variance(u: np.ndarray, v: np.ndarray) -> float:
        return float(shares @ (u * v) - (shares @ u) * (shares @ v))

    true = (w * w).sum() * variance(a, a)
    error = true - 2 * (w * w2).sum() * variance(a, a2) + (w2 * w2).sum() * variance(a2, a2)
    return float(np.sqrt(max(error, 0) / true)) if true > 0 else 0.0
