"""PackLUTConstants: choose the kernel of every encode and table read, and lay their constants out for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.target import Target

from tvm_ext.compute import pack
from tvm_ext.compute.windows import Windows, linear_slots
from tvm_ext.op._register import int_tuple, optional, present
from tvm_ext.op._search import patches_of
from tvm_ext.op.encode import NAME as ENCODE_NAME
from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.op.lookup_accumulate import OP as LOOKUP
from tvm_ext.op.plane import plane
from tvm_ext.target import best_isa
from tvm_ext.tensor_intrin import TABLE_ENTRIES, Isa
from tvm_ext.transform._rewrite import add_layer_rows, array, is_constant, rewrite_module, with_args

_RESHAPE = tvm.ir.Op.get("relax.reshape")
ROWWISE_SHARE = 6
"""A dense layer whose rows fill no more than this part of a tile reads table rows directly (measured on x86)."""


@dataclass(frozen=True)
class Rowwise:
    """The kernels that read table rows at each code, and why they were chosen."""

    reason: str
    layout = "rowwise"
    kernel = "row gather"


@dataclass(frozen=True)
class Shuffle:
    """The kernels of an ISA: its register tile, and C with padding."""

    isa: Isa
    tile: pack.RegisterTile
    codebooks: int
    reason = ""

    @property
    def layout(self) -> str:
        return self.isa.name

    @property
    def kernel(self) -> str:
        return f"shuffle {self.isa.name}"

    def tiles(self, rows: int) -> int:
        """Row tiles that hold `rows` rows, rounded up to whole register tiles."""
        block = self.tile.row_tiles
        return -(-rows // (self.isa.table_read.rows * block)) * block


Choice = Rowwise | Shuffle


@tvm.transform.module_pass(opt_level=0, name="PackLUTConstants")
class PackLUTConstants:
    """Uses `target`, or the current one, to choose between shuffle and row-wise kernels by features only."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        isa = best_isa(self.target or Target.current(allow_none=False))
        readers = _readers(mod)
        packed: dict[relax.Var, tuple[Choice, relax.Var]] = {}
        rows: list[dict] = []

        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            encode = rewriter.producer(call.args[0], ENCODE) if call.op == LOOKUP else None
            if encode is None or str(encode.attrs["layout"]):
                return None
            codes = call.args[0]
            if codes not in packed:
                choice = _choose(encode, readers.get(codes, [call]), isa)
                packed[codes] = choice, rewriter.builder_.emit(_pack_encode(rewriter, encode, choice))
            choice, packed_codes = packed[codes]
            rows.append(_row(call, encode, choice, f"layer_{len(rows)}"))
            flat = rewriter.builder_.emit(_pack_lookup(rewriter, call, encode, choice, packed_codes))
            return flat if tvm_ffi.structural_equal(flat.ty, call.ty) else relax.op.reshape(flat, call.ty.shape)

        return add_layer_rows(rewrite_module(mod, rewrite), rows)


def _readers(mod: tvm.IRModule) -> dict[relax.Var, list[relax.Call]]:
    """The table reads of every variable of codes."""
    readers: dict[relax.Var, list[relax.Call]] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.op == LOOKUP and isinstance(expr.args[0], relax.Var):
            readers.setdefault(expr.args[0], []).append(expr)

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return readers


def _choose(encode: relax.Call, readers: list[relax.Call], isa: Isa) -> Choice:
    if not all(is_constant(a) for a in encode.args[1:] if present(a)):
        return Rowwise("codebooks are not constant")
    num_centroids = int(encode.args[1].ty.shape[1])
    if num_centroids > TABLE_ENTRIES:
        return Rowwise(f"{num_centroids} centroids do not fit a table register of {TABLE_ENTRIES}")
    patches = patches_of(ENCODE_NAME, encode.args[0], encode.attrs)
    if not patches.is_conv and patches.rows * ROWWISE_SHARE <= isa.table_read.rows:
        return Rowwise(f"{patches.rows} row(s): table rows are read directly")
    for reader in readers:
        if not is_constant(reader.args[1]):
            return Rowwise("the table is not constant")
        if str(reader.args[1].ty.dtype) != "int8":
            return Rowwise(f"{reader.args[1].ty.dtype} tables are not shuffled")
        if _has_mult(reader) and not isa.table_read.intrin_mult:
            return Rowwise(f"{isa.name} has no table read with codebook multipliers")
    read, outputs = isa.table_read, max(int(reader.args[2].ty.shape[0]) for reader in readers)
    tiles = -(-patches.rows // read.rows)
    codebooks = max(pack.padded_codebooks(array(reader.args[1]), read) for reader in readers)
    sides = [] if patches.is_conv else [pack.transpose_lanes(int(r.args[2].ty.shape[0]), isa) for r in readers]
    lanes = min((side for side in sides if side), default=0)
    return Shuffle(isa, pack.register_tile(tiles, outputs, codebooks, read, lanes), codebooks)


def _has_mult(lookup: relax.Call) -> bool:
    return present(lookup.args[4]) and not (is_constant(lookup.args[4]) and bool((array(lookup.args[4]) == 1).all()))


def _pack_encode(rewriter, encode: relax.Call, choice: Choice) -> relax.Call:
    x, centroids, inv_scale, score_bias, _ = encode.args
    patches = patches_of(ENCODE_NAME, x, encode.attrs)
    if not patches.is_conv and len(x.ty.shape) != 2:
        x = rewriter.builder_.emit(relax.op.reshape(x, patches.shape))
    if isinstance(choice, Rowwise):
        turned = relax.op.permute_dims(centroids, [0, 2, 1])
        if is_constant(centroids):
            turned = relax.const(np.ascontiguousarray(array(centroids).transpose(0, 2, 1)))
        return with_args(encode, [x, turned, *encode.args[2:]], layout="rowwise")
    encode_dtype = str(encode.attrs["encode_dtype"])
    integer = encode_dtype == "int8"
    c, _, v = (int(d) for d in centroids.ty.shape)
    dot, tiles = choice.isa.dot_for(encode_dtype), choice.tiles(patches.rows)
    windows = None
    if patches.is_conv and patches.whole_channels(v):
        windows = Windows(patches, v, dot.depth, tiles * choice.isa.table_read.rows)
    cents, inv, bias, zero_point = pack.pack_search(
        array(centroids), array(inv_scale) if integer else None, array(score_bias) if integer else None,
        choice.codebooks, dot, bool(int(encode.attrs["input_signed"])),
        linear_slots(v, dot.depth) if windows is None else windows.slots(), patches.depth,
    )  # fmt: skip
    image, pattern = (), None
    if windows is not None:
        image = patches.shape
        window = choice.isa.window_for(encode_dtype)
        if window is not None and windows.fits(window.span):
            pattern = windows.pattern().astype(window.index_dtype)
        x = rewriter.builder_.emit(
            _plane(x, encode, windows, choice.isa, array(inv_scale) if integer else None, zero_point)
        )
        inv = None
    constants = [None if a is None else relax.const(a) for a in (cents, inv, bias, pattern)]
    return with_args(
        encode, [x, *map(optional, constants)], layout=choice.layout, tiles=tiles, subvector_len=v, num_codebooks=c,
        zero_point=zero_point, image=list(image),
    )  # fmt: skip


def _plane(
    x, encode: relax.Call, windows: Windows, isa: Isa, inv_scale: np.ndarray | None, zero_point: int
) -> relax.Call:
    a, channels = encode.attrs, windows.patches.shape[1]
    integer = inv_scale is not None
    if integer:  # of the codebook that a channel belongs to
        inv_scale = inv_scale[np.arange(channels) * windows.patches.taps // windows.length]
    window = isa.window_for(str(a["encode_dtype"]))
    span = window.span if window else 0
    return plane(
        x, None if inv_scale is None else relax.const(inv_scale), encode_dtype=str(a["encode_dtype"]),
        input_signed=bool(int(a["input_signed"])), **windows.patches.geometry(), size=windows.plane_size(span),
        dtype=isa.dot.x_dtype if integer else "float32", zero_point=zero_point, layer=str(a["layer"]),
    )  # fmt: skip


def _pack_lookup(rewriter, lookup: relax.Call, encode: relax.Call, choice: Choice, codes: relax.Var) -> relax.Call:
    _, table, scale, bias, mult, residual, inv_scale = lookup.args
    rows = patches_of(ENCODE_NAME, encode.args[0], encode.attrs).rows
    outputs = int(scale.ty.shape[0])
    if present(residual) and not (int(lookup.attrs["axis"]) == -1 and len(residual.ty.shape) == 2):
        batch = int(codes.ty.shape[0])
        shape = (batch, outputs, rows) if int(lookup.attrs["axis"]) == 1 else (rows, outputs)
        residual = _reshaped(rewriter, residual, shape)
    if not _has_mult(lookup):
        mult = relax.Tuple([])
    chunk, narrow = 0, False
    if isinstance(choice, Rowwise):
        int8 = is_constant(table) and str(table.ty.dtype) == "int8"
        narrow = int8 and not present(mult) and pack.fits_int16(array(table))
    else:
        read, value, codebooks = choice.isa.table_read, array(table), choice.codebooks
        chunk = pack.drain_chunk(value, read, codebooks)
        table = relax.const(pack.pack_table(value, read, codebooks, min(choice.tile.outputs, outputs)))
        mult = relax.const(pack.pack_mult(array(mult), read, codebooks)) if present(mult) else mult
    args = [codes, table, scale, bias, mult, residual, inv_scale]
    return with_args(lookup, args, layout=choice.layout, rows=rows, chunk=chunk, narrow=int(narrow))


def _reshaped(rewriter, expr: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    """`expr` in another shape; taken from before a reshape where it had that shape, since two in a row cost a copy."""
    before = rewriter.producer(expr, _RESHAPE)
    if before is not None and int_tuple(before.args[0].ty.shape) == shape:
        return before.args[0]
    return rewriter.builder_.emit(relax.op.reshape(expr, shape))


def _row(lookup: relax.Call, encode: relax.Call, choice: Choice, fallback: str) -> dict:
    """What reports say about a layer."""
    c, k, v = (int(d) for d in encode.args[1].ty.shape)
    table = lookup.args[1]
    size = int(np.prod([int(d) for d in table.ty.shape])) * np.dtype(str(table.ty.dtype)).itemsize
    return {
        "name": str(lookup.attrs["layer"]) or fallback,
        "op": "conv2d" if int_tuple(encode.attrs["kernel_shape"]) else "dense",
        "kind": "lut",
        "reason": choice.reason,
        "kernel": choice.kernel,
        "num_centroids": k,
        "subvector_len": v,
        "num_codebooks": c,
        "outputs": int(lookup.args[2].ty.shape[0]),
        "encode_dtype": str(encode.attrs["encode_dtype"]),
        "table_dtype": str(table.ty.dtype),
        "table_bytes": size,
    }
