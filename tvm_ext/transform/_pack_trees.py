"""Packing an encode by hash trees for an ISA's kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.tree_kernel import TreeKernel
from tvm_ext.compute.tree_pack import pack_trees
from tvm_ext.op.plane import plane
from tvm_ext.tensor_intrin import Isa
from tvm_ext.transform._rewrite import array, with_args

_NOTHING = relax.Tuple([])


def packed_trees(
    rewriter, encode: relax.Call, x: relax.Expr, patches: Patches, isa: Isa, tiles: int, codebooks: int
) -> relax.Call:
    """The encode with its constants in the layout of `isa`; a conv reads a plane, which is emitted in front of it.

    The plane holds 8 bits where every channel has one scale, else float32, as a matrix does.
    """
    dims, thresholds, length = array(encode.args[5]), array(encode.args[6]), int(encode.attrs["subvector_len"])
    integer, signed = str(encode.attrs["encode_dtype"]) == "int8", bool(int(encode.attrs["input_signed"]))
    search = Search("int8" if integer else "float32", signed, 0 if signed or not integer else -128, "tree")
    inv_scale = array(encode.args[2]) if integer else None
    image = ()
    if patches.is_conv:
        image = patches.shape
        narrow = inv_scale is not None and patches.whole_channels(length)
        channel_scale = None
        if inv_scale is not None and narrow:
            channel_scale = inv_scale[np.arange(patches.shape[1]) * patches.taps // length]
        x = rewriter.builder_.emit(_plane(x, encode, patches, search, channel_scale, isa, tiles, codebooks))
        inv_scale = None if narrow else inv_scale
    kernel = TreeKernel(patches, search, isa, dims.shape[1], codebooks, tiles, str(x.ty.dtype), _size(x, patches))
    leaves, starts, packed = pack_trees(
        dims, thresholds, length=length, search=search, columns=kernel.columns, read=isa.table_read,
        codebooks=codebooks,
    )  # fmt: skip
    scale = _NOTHING
    if inv_scale is not None:
        scale = relax.const(np.pad(inv_scale, (0, codebooks - len(inv_scale))))
    return with_args(
        encode, [x, relax.const(leaves), scale, _NOTHING, _NOTHING, relax.const(starts), relax.const(packed)],
        layout=isa.name, tiles=tiles, num_codebooks=len(dims), zero_point=search.zero_point, image=list(image),
    )  # fmt: skip


def _size(x: relax.Expr, patches: Patches) -> int:
    return int(x.ty.shape[2]) if patches.is_conv else 0


def _plane(
    x,
    encode: relax.Call,
    patches: Patches,
    search: Search,
    scale: np.ndarray | None,
    isa: Isa,
    tiles: int,
    codebooks: int,
) -> relax.Call:
    dtype = "float32" if scale is None else "int8"
    if scale is None:
        search = replace(search, encode_dtype="float32", zero_point=0)
    columns = TreeKernel(patches, search, isa, 1, codebooks, tiles, dtype).columns
    return plane(
        x, None if scale is None else relax.const(scale), encode_dtype=search.encode_dtype,
        input_signed=search.input_signed, **patches.geometry(), size=columns.least_plane, dtype=dtype,
        zero_point=search.zero_point, layer=str(encode.attrs["layer"]),
    )  # fmt: skip
