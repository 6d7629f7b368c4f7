"""PackLUTConstants: choose the kernel of every encode and table read, and lay their constants out for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.target import Target

from tvm_ext.compute import pack
from tvm_ext.compute.lookup_image_rows import SIDE
from tvm_ext.compute.lookup_rows import pack_rows
from tvm_ext.compute.lookup_tiles import step_tile
from tvm_ext.compute.narrow import added_error, is_narrow, narrow_table
from tvm_ext.compute.quantize_rows import PART
from tvm_ext.compute.windows import Windows, linear_slots
from tvm_ext.op._register import int_tuple, optional, present
from tvm_ext.op._search import codebook_shape, patches_of, search_of
from tvm_ext.op.encode import NAME as ENCODE_NAME
from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.op.lookup_accumulate import OP as LOOKUP
from tvm_ext.op.plane import plane
from tvm_ext.op.quantize_rows import quantize_rows
from tvm_ext.target import best_isa, core_of, usable_isas
from tvm_ext.tensor_intrin import TABLE_ENTRIES, Isa
from tvm_ext.tensor_intrin._lane_search import DEPTH, ROWS
from tvm_ext.tensor_intrin.spec import ROW_READ, table_bits
from tvm_ext.transform._pack_trees import packed_trees
from tvm_ext.transform._rewrite import add_layer_rows, array, is_constant, rewrite_module, with_args

_RESHAPE = tvm.ir.Op.get("relax.reshape")
_FEW_ROWS = 12
"""A dense layer of so many rows, or of half a tile, reads table rows directly: measured on x86, where that is twice as
fast as a tile of 16 filled by half. With a float32 search, which is slow for single rows, a sixth of a tile."""


_MAX_STEPS = 64
"""Steps of a subvector up to which the search of four rows is unrolled."""


@dataclass(frozen=True)
class Rowwise:
    """The kernels that read table rows at each code, and why they were chosen.

    `preadd`: codebooks that are added in int8, where the rows are those of `pack_rows`; 0 for logical tables.
    """

    reason: str
    preadd: int = 0
    layout = "rowwise"

    @property
    def kernel(self) -> str:
        return "row loads" if self.preadd else "row gather"


@dataclass(frozen=True)
class Shuffle:
    """The kernels of an ISA: its register tile, and C with padding."""

    isa: Isa
    tile: pack.RegisterTile
    codebooks: int
    preadd: int
    reason = ""

    @property
    def layout(self) -> str:
        return self.isa.name

    @property
    def loads_rows(self) -> bool:
        return not self.isa.table_read.intrin

    @property
    def kernel(self) -> str:
        return f"row loads {self.isa.name.partition('/')[0]}" if self.loads_rows else f"shuffle {self.isa.name}"

    def tiles(self, rows: int) -> int:
        """Row tiles that hold `rows` rows, rounded up to whole register tiles."""
        block = self.tile.row_tiles
        return -(-rows // (self.isa.table_read.rows * block)) * block


Choice = Rowwise | Shuffle


@tvm.transform.module_pass(opt_level=0, name="PackLUTConstants")
class PackLUTConstants:
    """Uses `target`, or the current one, to choose kernels by features and kind of core.

    Kernels that add entries in int8 are chosen where tables allow that, or may be narrowed for it: to `table_bits` bits
    at least.
    """

    def __init__(self, target: Target | None = None, table_bits: int = 0) -> None:
        self.target, self.table_bits = target, table_bits

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        target = self.target or Target.current(allow_none=False)
        best, readers = best_isa(target), _readers(mod)
        packed: dict[relax.Var, tuple[Choice, relax.Var]] = {}
        rows: list[dict] = []

        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            encode = rewriter.producer(call.args[0], ENCODE) if call.op == LOOKUP else None
            if encode is None or str(encode.attrs["layout"]):
                return None
            codes = call.args[0]
            if codes not in packed:
                choice = _choose(encode, readers.get(codes, [call]), target, self.table_bits)
                packed[codes] = choice, rewriter.builder_.emit(_pack_encode(rewriter, encode, choice, best))
            choice, packed_codes = packed[codes]
            lookup, bits, error = _narrow(call, choice)
            row = _row(lookup, encode, choice, f"layer_{len(rows)}")
            rows.append(row | {"table_bits": bits, "table_error": error})
            flat = rewriter.builder_.emit(_pack_lookup(rewriter, lookup, encode, choice, packed_codes))
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


def _choose(encode: relax.Call, readers: list[relax.Call], target: Target, least_bits: int) -> Choice:
    def allowed(preadd: int) -> bool:
        return preadd == 1 or least_bits <= table_bits(preadd) or all(_is_narrow(r, preadd) for r in readers)

    isa = next(isa for isa in usable_isas(target) if allowed(isa.table_read.preadd))
    patches = patches_of(ENCODE_NAME, encode.args[0], encode.attrs)
    rows = isa.row_read is not None and all(map(_loads_rows, readers))
    preadd = max(core_of(target).row_preadd, 2 if all(_is_narrow(r, 2) for r in readers) else 1)
    preadd = preadd if allowed(preadd) else 1
    if not rows or (patches.is_conv and not _image_rows(encode, readers, isa, preadd)):
        return _choose_packed(encode, readers, isa, 1)
    choice = _choose_packed(encode, readers, isa.of_rows, preadd)
    return replace(choice, preadd=preadd) if isinstance(choice, Rowwise) else choice


def _image_rows(encode: relax.Call, readers: list[relax.Call], isa: Isa, preadd: int) -> bool:
    """Whether an image's table is read by rows: int16 must hold the sums, and positions that are padding cost more.

    Two codebooks added in int8 make rows a tenth cheaper than shuffles where cores are not in order; transposing costs
    as much as 8 codebooks.
    """
    codebooks, centroids = codebook_shape(encode)[:2]
    rows, step = patches_of(ENCODE_NAME, encode.args[0], encode.attrs).rows, isa.table_read.step
    if preadd < 2 or centroids > TABLE_ENTRIES or rows < SIDE or not step or str(encode.attrs["encoder"]) != "l2":
        return False
    price = 1.0 if isa.core == "little" else 0.9
    if price * codebooks + 8 >= -(-rows // step) * step / rows * codebooks:
        return False
    tables = [narrow_table(array(r.args[1]), array(r.args[2]), preadd)[0] for r in readers]
    return all(map(pack.fits_int16, tables))


def _is_narrow(lookup: relax.Call, preadd: int) -> bool:
    table = lookup.args[1]
    return is_constant(table) and str(table.ty.dtype) == "int8" and is_narrow(array(table), preadd)


def _loads_rows(lookup: relax.Call) -> bool:
    table = lookup.args[1]
    return all(map(is_constant, lookup.args[1:3])) and str(table.ty.dtype) == "int8" and not _has_mult(lookup)


def _choose_packed(encode: relax.Call, readers: list[relax.Call], isa: Isa, row_preadd: int) -> Choice:
    if not all(is_constant(a) for a in encode.args[1:] if present(a)):
        return Rowwise("codebooks are not constant")
    num_centroids = codebook_shape(encode)[1]
    if num_centroids > TABLE_ENTRIES:
        return Rowwise(f"{num_centroids} centroids do not fit a table register of {TABLE_ENTRIES}")
    patches = patches_of(ENCODE_NAME, encode.args[0], encode.attrs)
    if not patches.is_conv and patches.rows <= _few_rows(encode, isa):
        return Rowwise(f"{patches.rows} row(s): table rows are read directly")
    for reader in readers:
        if not is_constant(reader.args[1]):
            return Rowwise("the table is not constant")
        if str(reader.args[1].ty.dtype) != "int8":
            return Rowwise(f"{reader.args[1].ty.dtype} tables are not shuffled")
        if isa.table_read.preadd > 1 and not is_constant(reader.args[2]):
            return Rowwise("the table scale is not constant")
        if _has_mult(reader) and not isa.table_read.intrin_mult:
            return Rowwise(f"{isa.name} has no table read with codebook multipliers")
    read, outputs = isa.table_read, max(int(reader.args[2].ty.shape[0]) for reader in readers)
    if not read.intrin:
        codebooks = -(-codebook_shape(encode)[0] // read.group) * read.group
        return Shuffle(isa, pack.RegisterTile(1, outputs), codebooks, row_preadd)
    tiles = -(-patches.rows // read.rows)
    codebooks = max(pack.padded_codebooks(array(reader.args[1]), read) for reader in readers)
    if read.step and patches.is_conv:
        tile = pack.RegisterTile(1, step_tile(patches.rows, outputs, read).outputs)
        return Shuffle(isa, tile, codebooks, read.preadd)
    sides = [] if patches.is_conv else [pack.transpose_lanes(int(r.args[2].ty.shape[0]), isa) for r in readers]
    lanes = min((side for side in sides if side), default=0)
    return Shuffle(isa, pack.register_tile(tiles, outputs, codebooks, read, lanes), codebooks, read.preadd)


def _few_rows(encode: relax.Call, isa: Isa) -> int:
    """Rows of a dense layer up to which table rows are read directly."""
    tile = isa.table_read.rows
    integer = search_of(ENCODE_NAME, encode.attrs).integer
    return max(_FEW_ROWS, tile // 2) if integer and isa.arch == "x86" else tile // 6


def _has_mult(lookup: relax.Call) -> bool:
    return present(lookup.args[4]) and not (is_constant(lookup.args[4]) and bool((array(lookup.args[4]) == 1).all()))


def _in_lanes(encode: relax.Call) -> bool:
    """Whether a row-wise search can have the centroids of a codebook in vector lanes."""
    constant = all(is_constant(a) for a in encode.args[1:] if present(a))
    return constant and search_of(ENCODE_NAME, encode.attrs).integer and codebook_shape(encode)[1] <= TABLE_ENTRIES


def _pack_few_rows(x: relax.Expr, encode: relax.Call, isa: Isa) -> relax.Call:
    _, centroids, inv_scale, score_bias, pattern = encode.args
    cents, bias, zero_point = pack.pack_few_rows(
        array(centroids), array(score_bias), isa.dot, search_of(ENCODE_NAME, encode.attrs)
    )
    args = [x, relax.const(cents), inv_scale, relax.const(bias), pattern]
    length = int(centroids.ty.shape[2])
    return with_args(encode, args, layout="rowwise", few_rows=isa.name, subvector_len=length, zero_point=zero_point)


def _pack_encode(rewriter, encode: relax.Call, choice: Choice, isa: Isa) -> relax.Call:
    x, centroids, inv_scale, score_bias, _, *trees = encode.args
    patches = patches_of(ENCODE_NAME, x, encode.attrs)
    if not patches.is_conv and len(x.ty.shape) != 2:
        x = rewriter.builder_.emit(relax.op.reshape(x, patches.shape))
    if trees and isinstance(choice, Rowwise):
        return with_args(encode, [x, *encode.args[1:]], layout="rowwise")
    if trees:
        return packed_trees(rewriter, encode, x, patches, choice.isa, choice.tiles(patches.rows), choice.codebooks)
    if isinstance(choice, Rowwise):
        if not patches.is_conv and _in_lanes(encode):
            return _pack_few_rows(x, encode, isa)
        turned = relax.op.permute_dims(centroids, [0, 2, 1])
        if is_constant(centroids):
            turned = relax.const(np.ascontiguousarray(array(centroids).transpose(0, 2, 1)))
        return with_args(encode, [x, turned, *encode.args[2:]], layout="rowwise")
    search = search_of(ENCODE_NAME, encode.attrs)
    encode_dtype, integer = search.encode_dtype, search.integer
    c, _, v = (int(d) for d in centroids.ty.shape)
    dot, tiles = choice.isa.dot_for(encode_dtype), choice.tiles(patches.rows)
    windows = None
    if patches.is_conv and patches.whole_channels(v):
        windows = Windows(patches, v, dot.depth, tiles * choice.isa.table_read.rows)
    cents, inv, bias, zero_point = pack.pack_search(
        array(centroids), array(inv_scale) if integer else None, array(score_bias) if present(score_bias) else None,
        choice.codebooks, dot, search,
        linear_slots(v, dot.depth) if windows is None else windows.slots(), patches.depth,
        dot.x_dtype if windows is None else choice.isa.plane_dtype,
    )  # fmt: skip
    image, pattern = (), None
    by_element = integer and choice.isa.by_element and cents.shape[2] <= _MAX_STEPS and int(cents.min()) > -128
    by_element &= not patches.is_conv if windows is None else windows.interleaved or windows.fits(PART, ROWS)
    float_lanes = not integer and choice.isa.arch == "aarch64" and (windows is not None or not patches.is_conv)
    if by_element:
        cents, bias = pack.pack_lanes(cents, bias, choice.isa.table_read, search)
    elif float_lanes:
        cents, bias = pack.pack_float_lanes(cents, bias, choice.isa.table_read)
    if windows is not None:
        image = patches.shape
        fitting = (w for w in choice.isa.windows_for(encode_dtype) if windows.fits(w.span, w.rows))
        window = next(fitting, None)
        if by_element and not windows.interleaved:
            pattern = windows.pattern(ROWS).reshape(-1, PART).astype(np.int8)
        elif not by_element and window is not None:
            pattern = (windows.pattern(window.rows) + window.index_offset).astype(window.index_dtype)
        x = rewriter.builder_.emit(
            _plane(x, encode, windows, choice.isa, array(inv_scale) if integer else None, zero_point)
        )
        inv = None
    elif by_element:
        image, inv = patches.shape, None
        x = rewriter.builder_.emit(_quantized(x, encode, cents.shape[1] * DEPTH, zero_point))
    constants = [None if a is None else relax.const(a) for a in (cents, inv, bias, pattern)]
    return with_args(
        encode, [x, *map(optional, constants)], layout=choice.layout, tiles=tiles, subvector_len=v, num_codebooks=c,
        zero_point=zero_point, image=list(image), by_element=int(by_element or float_lanes),
    )  # fmt: skip


def _quantized(x, encode: relax.Call, width: int, zero_point: int) -> relax.Call:
    a = encode.attrs
    return quantize_rows(
        x, encode.args[2], encode_dtype=str(a["encode_dtype"]), input_signed=bool(int(a["input_signed"])),
        subvector_len=int(encode.args[1].ty.shape[2]), width=width, zero_point=zero_point, layer=str(a["layer"]),
    )  # fmt: skip


def _plane(
    x, encode: relax.Call, windows: Windows, isa: Isa, inv_scale: np.ndarray | None, zero_point: int
) -> relax.Call:
    a, channels = encode.attrs, windows.patches.shape[1]
    integer = inv_scale is not None
    if integer:  # of the codebook that a channel belongs to
        inv_scale = inv_scale[np.arange(channels) * windows.patches.taps // windows.length]
    span = max((PART, *(window.span for window in isa.windows_for(str(a["encode_dtype"])))))
    return plane(
        x, None if inv_scale is None else relax.const(inv_scale), encode_dtype=str(a["encode_dtype"]),
        input_signed=bool(int(a["input_signed"])), **windows.patches.geometry(), size=windows.plane_size(span),
        dtype=isa.plane_dtype if integer else "float32", zero_point=zero_point, layer=str(a["layer"]),
    )  # fmt: skip


def _narrow(lookup: relax.Call, choice: Choice) -> tuple[relax.Call, int, float]:
    """The table read with a table that the chosen kernel may add in int8, the bits it has, and the error that adds."""
    table, scale = lookup.args[1:3]
    bits = np.dtype(str(table.ty.dtype)).itemsize * 8
    if choice.preadd < 2:
        return lookup, bits, 0.0
    before = array(table), array(scale)
    after = narrow_table(*before, choice.preadd)
    if (before[0] == after[0]).all():
        return lookup, bits, 0.0
    args = [lookup.args[0], *map(relax.const, after), *lookup.args[3:]]
    return with_args(lookup, args), table_bits(choice.preadd), added_error(*before, *after)


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
    if choice.preadd and (isinstance(choice, Rowwise) or choice.loads_rows):
        narrow = pack.fits_int16(array(table))
        table = relax.const(pack_rows(array(table), ROW_READ.group))
    elif isinstance(choice, Rowwise):
        int8 = is_constant(table) and str(table.ty.dtype) == "int8"
        narrow = int8 and not present(mult) and pack.fits_int16(array(table))
    else:
        read, value, codebooks = choice.isa.table_read, array(table), choice.codebooks
        chunk = pack.drain_chunk(value, read, codebooks)
        table = relax.const(pack.pack_table(value, read, codebooks, min(choice.tile.outputs, outputs)))
        mult = relax.const(pack.pack_mult(array(mult), read, codebooks)) if present(mult) else mult
    args = [codes, table, scale, bias, mult, residual, inv_scale]
    attrs = {"layout": choice.layout, "rows": rows, "chunk": chunk, "narrow": int(narrow), "preadd": choice.preadd}
    return with_args(lookup, args, **attrs)


def _reshaped(rewriter, expr: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    """`expr` in another shape; taken from before a reshape where it had that shape, since two in a row cost a copy."""
    before = rewriter.producer(expr, _RESHAPE)
    if before is not None and int_tuple(before.args[0].ty.shape) == shape:
        return before.args[0]
    return rewriter.builder_.emit(relax.op.reshape(expr, shape))


def _row(lookup: relax.Call, encode: relax.Call, choice: Choice, fallback: str) -> dict:
    """What reports say about a layer."""
    c, k, v = codebook_shape(encode)
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
        "encoder": str(encode.attrs["encoder"]),
        "encode_dtype": str(encode.attrs["encode_dtype"]),
        "table_dtype": str(table.ty.dtype),
        "table_bytes": size,
    }
