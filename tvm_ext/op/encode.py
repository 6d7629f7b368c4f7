"""R.lut.encode: closest-centroid search, x -> codes."""

from __future__ import annotations

import tvm
from tvm import relax, te, topi

from tvm_ext.compute.encode import encode_rowwise, encode_tiled
from tvm_ext.compute.encode_few_rows import encode_few_rows
from tvm_ext.compute.encode_float_lanes import encode_float_lanes
from tvm_ext.compute.encode_lanes import LaneRows, encode_lanes
from tvm_ext.compute.kernel import call_kernel, emit_kernel
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.windows import Windows
from tvm_ext.op._register import attributes, given, int_tuple, optional, present, register, static_shape
from tvm_ext.op._search import check_codebooks, patches_of, search_of, trees_of
from tvm_ext.op._tree import legalize_tree
from tvm_ext.tensor_intrin import Dot, get_isa
from tvm_ext.tensor_intrin._lane_search import DEPTH

NAME = "lut.encode"


def encode(
    x: relax.Expr, centroids: relax.Expr | None, inv_scale: relax.Expr | None = None,
    score_bias: relax.Expr | None = None, pattern: relax.Expr | None = None, split_dims: relax.Expr | None = None,
    split_thresholds: relax.Expr | None = None,
    *, encoder: str = "l2", encode_dtype: str = "float32", input_signed: bool = True,
    kernel_shape: tuple[int, ...] = (), strides: tuple[int, ...] = (1, 1), pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, ...] = (1, 1), image: tuple[int, ...] = (), layout: str = "",
    few_rows: str = "", tiles: int = 0, subvector_len: int = 0,
    num_codebooks: int = 0, zero_point: int = 0, by_element: bool = False, layer: str = "",
) -> relax.Call:  # fmt: skip
    """Codes (uint8) of the subvectors of `x`.

    Parameters
    ----------
    x : float32 [..., D], or [B, Cin, H, W] when `kernel_shape` is given. In an ISA's layout it may be quantized
        already, in the ISA's type.
    centroids : [C, K, V] float32, or int8 of an integer search: ``encode_dtype`` "int8" or "int6".
    inv_scale : float32 [C]; only of an integer search, where x is float32.
    score_bias : [C, K], int32 of an integer search; float32 of another makes the code that of the largest
        ``x . P + score_bias`` in place of the least distance.
    split_dims, split_thresholds : int32 [C, L], float32 [C, 2^L - 1]; with ``encoder="tree"``, in place of centroids
        and score_bias, for subvectors of `subvector_len` elements.
    layout : "" gives codes [..., C] or [B, C, OH, OW]. "rowwise" flattens the positions: [N, C] or [B, C, OH * OW],
        and takes centroids as [C, V, K]; or, with the name of an ISA as `few_rows`, as that ISA's dot product wants
        them in the lanes of a vector (see `pack_few_rows`; then `subvector_len` and `zero_point` are set).
        The name of an ISA gives that ISA's tiles; then the constants are packed and `tiles`, `subvector_len`,
        `num_codebooks`, `zero_point` are set (by PackLUTConstants). A conv whose subvectors are whole channels then
        reads a plane (see `plane`) of an image of shape `image`, by windows if there is a `pattern` for them. Trees
        are packed as `TreeKernel` takes them, with the codes of leaves as centroids.
    by_element : the packed constants are those of `encode_lanes` or `encode_float_lanes`; x is a plane, float32 rows,
        or what `quantize` gives for rows of shape `image`.
    layer : qualified name of the layer, for reports.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    attrs = attributes(
        encoder=encoder, encode_dtype=encode_dtype, input_signed=bool(input_signed), kernel_shape=tuple(kernel_shape),
        strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations), image=tuple(image), layout=layout,
        few_rows=few_rows, tiles=tiles, subvector_len=subvector_len, num_codebooks=num_codebooks, zero_point=zero_point,
        by_element=bool(by_element), layer=layer,
    )  # fmt: skip
    args = [x, *map(optional, (centroids, inv_scale, score_bias, pattern))]
    return relax.Call(OP, args + trees_of(split_dims, split_thresholds), attrs)


def _infer(call: relax.Call, _bb: relax.BlockBuilder) -> relax.TensorType:
    x, centroids, inv_scale, score_bias, _, *trees = call.args
    attrs = call.attrs
    layout = str(attrs["layout"])
    patches, search = patches_of(NAME, x, attrs, stored_dtype(attrs)), search_of(NAME, attrs)
    if layout not in ("", "rowwise"):
        read = get_isa(layout).table_read
        groups = static_shape(centroids, NAME, "centroids")[0] // read.group
        return relax.TensorType([patches.batch, int(attrs["tiles"]), groups, *read.code_shape], "uint8")
    if layout == "rowwise":
        c = static_shape(trees[0] if trees else centroids, NAME, "centroids")[0]
        shape = [patches.batch, c, patches.rows] if patches.is_conv else [patches.rows, c]
        return relax.TensorType(shape, "uint8")
    length = int(attrs["subvector_len"])
    c, _, _ = check_codebooks(NAME, patches, search, centroids, inv_scale, score_bias, trees, length)
    if patches.is_conv:
        shape = [patches.batch, c, *patches.output_size]
    else:
        shape = [*static_shape(x, NAME, "x")[:-1], c]
    return relax.TensorType(shape, "uint8")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    if str(call.attrs["encoder"]) == "tree":
        return legalize_tree(bb, call, patches_of(NAME, call.args[0], call.attrs, stored_dtype(call.attrs)))
    x, centroids, inv_scale, score_bias, pattern = call.args
    attrs = call.attrs
    layout = str(attrs["layout"])
    patches = patches_of(NAME, x, attrs, stored_dtype(attrs))
    search = search_of(NAME, attrs, int(attrs["zero_point"]))
    if int(attrs["by_element"]):
        return _legalize_lanes(bb, call, patches)
    shape = [int(d) for d in call.ty.shape]
    length = int(attrs["subvector_len"]) or int(centroids.ty.shape[1 if layout == "rowwise" else 2])

    def rowwise(x, centroids, inv_scale, score_bias, _) -> te.Tensor:
        rows = x if patches.is_conv else topi.reshape(x, patches.shape)
        codes = encode_rowwise(
            rows, centroids, inv_scale, score_bias, patches=patches, search=search, packed=layout == "rowwise"
        )
        return codes if layout else topi.reshape(codes, shape)

    def tiled(x, centroids, inv_scale, score_bias, pattern) -> te.Tensor:
        isa, tiles = get_isa(layout), int(attrs["tiles"])
        dot = isa.dot_for(search.encode_dtype)
        window = isa.window_of(search.encode_dtype, rows) if rows else None
        windows = None
        if int_tuple(attrs["image"]):
            windows = Windows(patches, length, dot.depth, tiles * isa.table_read.rows)
        return encode_tiled(
            x, centroids, inv_scale, score_bias, pattern, patches=patches, search=search, length=length,
            num_codebooks=int(attrs["num_codebooks"]), tiles=tiles, windows=windows, read=isa.table_read, dot=dot,
            window=window, regroup=loader == "regroup",
        )  # fmt: skip

    rows = int(pattern.ty.shape[1]) if present(pattern) else 0
    loader = ""
    if layout not in ("", "rowwise"):
        dot = get_isa(layout).dot_for(search.encode_dtype)
        if present(pattern):
            loader = "window"
        elif int_tuple(attrs["image"]):
            interleaved = dot.depth > 1 and Windows(patches, length, dot.depth, 0).interleaved
            loader = "interleave" if interleaved else ""
        elif _integer_runs(patches, search, length, dot):
            loader = "regroup"

    def few_rows(x, centroids, inv_scale, score_bias, _) -> te.Tensor:
        return encode_few_rows(
            x, centroids, inv_scale, score_bias, patches=patches, search=search, length=length, dot=get_isa(isa).dot
        )

    isa = str(attrs["few_rows"])
    kernel = "encode_few_rows" if isa else {"": "oracle", "rowwise": "encode_rowwise"}.get(layout, "encode_tiled")
    compute = {"encode_few_rows": few_rows, "encode_tiled": tiled}.get(kernel, rowwise)
    info = {"kind": kernel, "isa": isa or layout, "encode_dtype": search.encode_dtype, "layer": str(attrs["layer"]),
            "loader": loader, "window_rows": rows, "contiguous": int(_contiguous(patches, length))}  # fmt: skip
    args = [x, centroids, given(inv_scale), given(score_bias), given(pattern)]
    return emit_kernel(bb, compute, args, call.ty, "lut_encode", info)


def stored_dtype(attrs) -> str:
    """The dtype of inputs that are quantized already, in tiles of codes; else float32."""
    layout = str(attrs["layout"])
    if layout in ("", "rowwise"):
        return "float32"
    return "int8" if str(attrs["encoder"]) == "tree" else get_isa(layout).dot.x_dtype


def _legalize_lanes(bb: relax.BlockBuilder, call: relax.Call, patches: Patches) -> relax.Expr:
    x, centroids, _, score_bias, pattern = call.args
    attrs = call.attrs
    layout, length, codebooks = str(attrs["layout"]), int(attrs["subvector_len"]), int(attrs["num_codebooks"])
    read, tiles = get_isa(layout).table_read, int(attrs["tiles"])
    padded, steps, vectors = static_shape(centroids, NAME, "centroids")[:3]
    info = {"kind": "encode_lanes", "isa": layout, "encode_dtype": str(attrs["encode_dtype"]),
            "layer": str(attrs["layer"])}  # fmt: skip
    if str(attrs["encode_dtype"]) == "float32":
        kernel = encode_float_lanes(
            Windows(patches, length, 1, tiles * read.rows) if patches.is_conv else patches, length=length,
            vectors=vectors, plane=int(x.ty.shape[-1]), batch=patches.batch, tiles=tiles, groups=padded // read.group,
            codebooks=codebooks, read=read,
        )  # fmt: skip
        args = [x, centroids, score_bias]
        return call_kernel(bb, kernel.with_attr("tirx.is_scheduled", True), args, call.ty, "lut_encode", info)
    if patches.is_conv:
        inputs = Windows(patches, length, DEPTH, tiles * read.rows)
    else:
        inputs = LaneRows(patches.rows, codebooks, steps * DEPTH)
    kernel = encode_lanes(
        inputs, plane=int(x.ty.shape[-1]), periods=int(pattern.ty.shape[0]) if present(pattern) else 0,
        batch=patches.batch, tiles=tiles, groups=padded // read.group, steps=steps, vectors=vectors,
        codebooks=codebooks, read=read, search=search_of(NAME, attrs),
    )  # fmt: skip
    args = [x, centroids, score_bias, given(pattern)]
    return call_kernel(bb, kernel.with_attr("tirx.is_scheduled", True), args, call.ty, "lut_encode", info)


def _contiguous(patches: Patches, length: int) -> bool:
    """Whether every subvector is a whole run of x."""
    return not patches.is_conv and patches.depth % length == 0


def _integer_runs(patches: Patches, search: Search, length: int, dot: Dot) -> bool:
    """Whether quantized subvectors are whole runs of four dwords for dot products of dwords."""
    runs = dot.depth > 1 and length % (4 * dot.depth) == 0
    return search.integer and runs and _contiguous(patches, length)


OP: tvm.ir.Op = register("encode", ["x", "centroids", "inv_scale", "score_bias", "pattern"], _infer, _legalize, encode)
