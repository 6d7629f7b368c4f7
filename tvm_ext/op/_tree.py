"""How encodes by hash trees become PrimFuncs."""

from __future__ import annotations

from tvm import relax, te, topi

from tvm_ext.compute.kernel import call_kernel, emit_kernel
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.tree import encode_tree
from tvm_ext.compute.tree_kernel import TreeKernel
from tvm_ext.op._register import given
from tvm_ext.op._search import search_of
from tvm_ext.tensor_intrin import get_isa


def legalize_tree(bb: relax.BlockBuilder, call: relax.Call, patches: Patches) -> relax.Expr:
    """The PrimFunc of an encode with ``encoder="tree"``."""
    x, _, inv_scale, _, _, split_dims, split_thresholds = call.args
    attrs = call.attrs
    layout, shape = str(attrs["layout"]), [int(d) for d in call.ty.shape]
    search, length = search_of("lut.encode", attrs, int(attrs["zero_point"])), int(attrs["subvector_len"])
    if layout not in ("", "rowwise"):
        return _packed(bb, call, patches, search)

    def logical(x, inv_scale, split_dims, split_thresholds) -> te.Tensor:
        rows = x if patches.is_conv or layout else topi.reshape(x, patches.shape)
        codes = encode_tree(
            rows, inv_scale, split_dims, split_thresholds, patches=patches, search=search, length=length
        )
        return codes if layout else topi.reshape(codes, shape)

    info = {"kind": "encode_tree", "isa": layout, "layer": str(attrs["layer"])}
    args = [x, given(inv_scale), split_dims, split_thresholds]
    return emit_kernel(bb, logical, args, call.ty, "lut_encode", info)


def _packed(bb: relax.BlockBuilder, call: relax.Call, patches: Patches, search: Search) -> relax.Expr:
    x, leaves, inv_scale, _, _, starts, thresholds = call.args
    isa, x_shape = get_isa(str(call.attrs["layout"])), tuple(int(d) for d in x.ty.shape)
    codebooks, levels = (int(d) for d in starts.ty.shape)
    kernel = TreeKernel(
        patches, search, isa, levels, codebooks, int(call.attrs["tiles"]), str(x.ty.dtype),
        x_shape[2] if patches.is_conv else 0,
    )  # fmt: skip
    info = {"kind": "tree", "isa": isa.name, "layer": str(call.attrs["layer"])}
    args = [x, leaves, given(inv_scale), starts, thresholds]
    return call_kernel(bb, kernel.build(x_shape), args, call.ty, "lut_encode", info)
