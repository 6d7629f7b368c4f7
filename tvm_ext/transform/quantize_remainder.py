"""QuantizeRemainder: float convs and matmuls with constant weights -> R.lut.quantized_conv2d, _dense in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tvm
from tvm import relax

from tvm_ext import op as lut
from tvm_ext.compute.uniform_levels import UniformLevels, fit_uniform, integer_layer
from tvm_ext.op._register import int_tuple
from tvm_ext.transform._rewrite import add_layer_rows, array, has_static_shape, is_constant, layer_name, rewrite_module

_CONV2D, _MATMUL, _TRANSPOSE = (tvm.ir.Op.get(f"relax.{name}") for name in ("nn.conv2d", "matmul", "permute_dims"))
_LARGEST_SUM = 2**31 - 1


class LayerInput(Protocol):
    """What a layer read on calibration inputs: the range of all values, and some rows float32 [n, D].

    The row of a conv is a patch in the order (channel, kernel row, kernel column).
    """

    low: float
    high: float
    rows: np.ndarray


@dataclass(frozen=True)
class RemainderLayer:
    """A float layer: its `op` is "conv2d" or "dense"; `reason` tells why it cannot be quantized, or is ""."""

    name: str
    op: str
    reason: str = ""
    geometry: Mapping[str, tuple[int, ...]] | None = None


def remainder_layers(mod: tvm.IRModule) -> list[RemainderLayer]:
    """The named float layers with constant weights that are left in a rewritten module, in its order."""
    found: dict[str, RemainderLayer] = {}

    def look(rewriter, call: relax.Call) -> None:
        weight = _constant_weight(rewriter, call)
        name = layer_name(call, "")
        if weight is not None and name:
            geometry = _geometry(call) if call.op == _CONV2D else None
            layer = RemainderLayer(name, _op_name(call), _unfit(call, weight), geometry)
            if name not in found or not found[name].reason:  # of several calls of one name, each must fit
                found[name] = layer

    rewrite_module(mod, look)
    return list(found.values())


@tvm.transform.module_pass(opt_level=0, name="QuantizeRemainder")
class QuantizeRemainder:
    """Rewrites the named float layers, and records what that changes in their sums.

    Inputs become `count` evenly spaced integers for the whole tensor, weights int8 with a scale for every output;
    the mean of what rounded weights change goes into a bias. Sums are exact in int32.

    Parameters
    ----------
    inputs : layer name -> what it read. Other layers stay as they are.
    count : levels of the inputs: 256, or 128 where the target's products of bytes would overflow.
    """

    def __init__(self, inputs: Mapping[str, LayerInput], count: int = 256) -> None:
        self.inputs, self.count = inputs, count

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        rows: list[dict] = []
        fitted: dict[str, UniformLevels] = {}

        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            name = layer_name(call, "")
            weight = _constant_weight(rewriter, call) if name in self.inputs else None
            if weight is None or _unfit(call, weight):
                return None
            read = self.inputs[name]
            if name not in fitted:
                fitted[name] = fit_uniform(read.low, read.high, read.rows, self.count)
            return _quantized(rewriter, call, name, weight, fitted[name], read.rows, rows)

        return add_layer_rows(rewrite_module(mod, rewrite), rows)


def _constant_weight(rewriter, call: relax.Call) -> np.ndarray | None:
    """[M, channels, kh, kw] of a conv, or [M, D] of a matmul with a constant matrix."""
    if call.op == _CONV2D:
        return array(call.args[1]) if is_constant(call.args[1]) else None
    if call.op != _MATMUL:
        return None
    turned = rewriter.producer(call.args[1], _TRANSPOSE)
    expr = call.args[1] if turned is None else turned.args[0]
    if not is_constant(expr) or len(expr.ty.shape) != 2:
        return None
    return np.ascontiguousarray(array(expr) if turned is not None else array(expr).T)


def _unfit(call: relax.Call, weight: np.ndarray) -> str:
    """Why a layer cannot be quantized, or ""."""
    if not has_static_shape(call.args[0]):
        return "the shape of its input is not static"
    if weight.dtype != np.float32 or str(call.ty.dtype) != "float32" or str(call.args[0].ty.dtype) != "float32":
        return "it does not compute in float32"
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinity"
    if 255 * 127 * weight[0].size > _LARGEST_SUM:
        return f"sums of {weight[0].size} products may not fit int32"
    if call.op == _MATMUL:
        return ""
    if int(call.attrs.groups) != 1:
        kind = "depthwise" if weight.shape[1] == 1 else "grouped"
        return f"{kind} convolution ({int(call.attrs.groups)} groups)"
    layouts = str(call.attrs.data_layout), str(call.attrs.kernel_layout)
    return "" if layouts == ("NCHW", "OIHW") else f"layout {'/'.join(layouts)} is not NCHW/OIHW"


def _geometry(call: relax.Call) -> dict[str, tuple[int, ...]]:
    attrs, pads = call.attrs, int_tuple(call.attrs.padding)
    return {
        "kernel_shape": int_tuple(call.args[1].ty.shape)[2:], "strides": int_tuple(attrs.strides),
        "pads": pads * (4 // len(pads)), "dilations": int_tuple(attrs.dilation),
    }  # fmt: skip


def _op_name(call: relax.Call) -> str:
    return "conv2d" if call.op == _CONV2D else "dense"


def _quantized(
    rewriter, call: relax.Call, name: str, weight: np.ndarray, levels: UniformLevels, sample: np.ndarray,
    rows: list[dict],
) -> relax.Call:  # fmt: skip
    mean = float(sample.mean(dtype=np.float64))
    integers, scale, bias = integer_layer(weight, levels, mean)
    x = call.args[0]
    key = ("uniform", x, levels)
    if key not in rewriter.memo:  # layers that read one tensor alike share its levels
        rewriter.memo[key] = rewriter.builder_.emit(lut.levels(x, *map(relax.const, levels.constants()), layer=name))
    args = [rewriter.memo[key], *map(relax.const, (integers, scale.astype(np.float32), bias.astype(np.float32)))]
    rows.append({
        "name": name, "op": _op_name(call), "kind": "integer", "reason": "", "outputs": len(weight),
        "input_levels": len(levels.values()), "weight_levels": 255,
        "level_error": _error(sample, weight, levels, integers, scale, bias),
        "inv_scale": levels.inv_scale, "input_low": levels.low, "input_high": levels.high, "input_mean": mean,
    })  # fmt: skip
    make: Callable[..., relax.Call] = lut.quantized_dense if call.op == _MATMUL else lut.quantized_conv2d
    return make(*args, layer=name, **({} if call.op == _MATMUL else _geometry(call)))


def _error(
    sample: np.ndarray, weight: np.ndarray, levels: UniformLevels, integers: np.ndarray, scale: np.ndarray,
    bias: np.ndarray,
) -> float:  # fmt: skip
    """Root mean square of what quantizing changes in the sums of sample rows, over that of the sums' spread."""
    exact = sample @ weight.reshape(len(weight), -1).T
    sums = levels.integers(sample).astype(np.float32) @ integers.reshape(len(weight), -1).T.astype(np.float32)
    error = np.square(sums * scale + bias - exact).sum()
    spread = np.square(exact - exact.mean(), dtype=np.float64).sum()
    return float(np.sqrt(error / spread)) if spread > 0 else 0.0
