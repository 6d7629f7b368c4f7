"""A compiled encode by itself, with the kernel the pipeline chooses, to look at a layer's codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

from tvm_ext import op as lut
from tvm_ext import transform as t
from tvm_ext.op._register import int_tuple
from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.pipeline import build
from tvm_ext.tensor_intrin import get_isa

Geometry = Mapping[str, tuple[int, ...]]


def build_encode(
    x_shape: tuple[int, ...], centroids: np.ndarray | None, inv_scale: np.ndarray | None = None,
    score_bias: np.ndarray | None = None, split_dims: np.ndarray | None = None,
    split_thresholds: np.ndarray | None = None,
    *, target: Mapping, geometry: Geometry | None = None, table_dtype: str = "int8", **search,
) -> EncodeKernel:  # fmt: skip
    """The search of a layer whose input has this shape, for any target.

    Parameters
    ----------
    geometry : kernel_shape, strides, pads, dilations of a conv; None for a dense layer.
    table_dtype : of the layer's table, on which the choice of the kernel depends.
    search : encoder, encode_dtype, input_signed of the layer, and subvector_len of trees.
    """
    constants = {
        "centroids": centroids, "inv_scale": inv_scale, "score_bias": score_bias, "split_dims": split_dims,
        "split_thresholds": split_thresholds,
    }  # fmt: skip
    packed = _packed_encode(x_shape, constants, target, geometry, table_dtype, search)
    return EncodeKernel(build(packed.mod, target).executable, packed, bool(geometry))


@dataclass(frozen=True)
class EncodeKernel:
    """A compiled search. `executable` has a function "main" that takes `rows(x)`, and gives what `codes` reads."""

    executable: relax.VMExecutable
    _packed: _Packed
    _is_conv: bool

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The layer's input as the kernel takes it, float32."""
        return np.ascontiguousarray(x, np.float32).reshape(self._packed.shape)

    def codes(self, result: np.ndarray) -> np.ndarray:
        """Codes uint8, [..., C] (dense) or [B, C, OH, OW] (conv), of the kernel's result."""
        if self._packed.layout != "rowwise":
            result = _unpack(
                result, self._packed.layout, self._packed.positions, self._packed.num_codebooks
            )  # [B, N, C]
            result = result.transpose(0, 2, 1) if self._is_conv else result
        return np.ascontiguousarray(result).reshape(self._packed.result_shape)


@dataclass(frozen=True)
class _Packed:
    """A module that gives packed codes, and how to read them."""

    mod: tvm.IRModule
    layout: str
    shape: tuple[int, ...]
    result_shape: tuple[int, ...]
    positions: int
    num_codebooks: int


def _packed_encode(x_shape, constants, target, geometry, table_dtype: str, search: dict) -> _Packed:
    """Builds the layer around the search with an empty table of one output, and cuts off what follows the search."""
    if constants["centroids"] is None:
        c, k = len(constants["split_thresholds"]), constants["split_thresholds"].shape[1] + 1
    else:
        c, k, _ = constants["centroids"].shape
    given = {n: None if a is None else relax.const(np.ascontiguousarray(a)) for n, a in constants.items()}
    table, scale = relax.const(np.zeros((c, k, 1), table_dtype)), relax.const(np.ones(1, np.float32))
    shape = tuple(x_shape) if geometry else (int(np.prod(x_shape[:-1])), x_shape[-1])
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(list(shape), "float32"))
    layer = lut.conv2d if geometry else lut.dense
    with bb.function("main", [x]):
        with bb.dataflow():
            y = layer(x, table=table, table_scale=scale, **given, **(geometry or {}), **search)
            y = bb.emit_output(y)
        bb.emit_func_output(y)
    packed = t.PackLUTConstants(Target(dict(target)))(t.DecomposeLUT()(bb.get()))
    mod, layout = _cut_behind_encode(packed["main"])
    out = int_tuple(y.ty.shape)
    logical = (out[0], c, *out[2:]) if geometry else (*x_shape[:-1], c)
    return _Packed(mod, layout, shape, logical, int(np.prod(out[2:])) if geometry else shape[0], c)


def _cut_behind_encode(main: relax.Function) -> tuple[tvm.IRModule, str]:
    """The function up to its encode, whose codes it returns, and their layout."""
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    values = [binding.value for binding in bindings]
    last = next(i for i, v in enumerate(values) if isinstance(v, relax.Call) and v.op == ENCODE)
    codes = relax.Var("codes", bindings[last].var.ty)
    block = relax.DataflowBlock([*bindings[: last + 1], relax.VarBinding(codes, bindings[last].var)])
    func = relax.Function(main.params, relax.SeqExpr([block], codes), codes.ty)
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), str(values[last].attrs["layout"])


def _unpack(codes: np.ndarray, layout: str, positions: int, num_codebooks: int) -> np.ndarray:
    """Tiles of codes [B, tiles, groups, *tile] as [B, N, C], padding dropped."""
    read = get_isa(layout).table_read
    batch, tiles, groups = codes.shape[:3]
    rows = np.empty((batch, tiles, read.rows, groups, read.group), np.uint8)
    for index in np.ndindex(*read.code_shape):
        row, codebook = read.code_position(*index)
        rows[:, :, row, :, codebook] = codes[(slice(None), slice(None), slice(None), *index)] - read.code_start(
            codebook
        )
    return rows.reshape(batch, tiles * read.rows, -1)[:, :positions, :num_codebooks]
