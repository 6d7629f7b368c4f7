"""PackLUTConstants: which kernel each layer gets and the shapes its constants are packed to."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.target import Target

from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.targets import TARGETS, least_table_bits
from tests.tvm_ext.transform.codebook import module, tensor
from tvm_ext import op
from tvm_ext.tensor_intrin import get_isa
from tvm_ext.tensor_intrin.spec import table_bits
from tvm_ext.transform import DecomposeLUT, FuseLUTEpilogue, PackLUTConstants, ReuseCodes, layer_rows

_CONV = {"length": 9, "kernel": (3, 3), "pads": (1, 1, 1, 1)}


def _packed(mod: tvm.IRModule, isa: str) -> tvm.IRModule:
    passes = [
        DecomposeLUT(),
        ReuseCodes(),
        FuseLUTEpilogue(),
        PackLUTConstants(Target(TARGETS[isa]), least_table_bits(isa)),
    ]
    after = tvm.transform.Sequential(passes)(mod)
    relax.analysis.well_formed(after)
    return after


def _calls(mod: tvm.IRModule, name: str) -> list[relax.Call]:
    found, wanted = [], tvm.ir.Op.get(f"relax.lut.{name}")
    relax.analysis.post_order_visit(
        mod["main"], lambda e: found.append(e) if isinstance(e, relax.Call) and e.op == wanted else None
    )
    return found


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


def _loads_rows(layer: Layer, isa: str) -> bool:
    """AArch64 reads the int8 tables of dense layers by loading rows."""
    dense = layer.kernel is None and layer.table != "float32" and not layer.mult
    return dense and get_isa(isa).row_read is not None


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer("k16", (33, 12), 5), ""),
        (Layer("k4", (33, 12), 5, centroids=4), ""),
        (Layer("float_search", (33, 12), 5, search="f32"), ""),
        (Layer("eleven_rows", (11, 12), 5, search="f32"), ""),
        (Layer("rank3", (3, 11, 12), 5), ""),
        (Layer("conv", (1, 3, 5, 5), 5, **_CONV), ""),
        (Layer("conv_one_position", (1, 3, 1, 1), 5, **_CONV), ""),
        (Layer("k17", (33, 12), 5, centroids=17), "17 centroids do not fit a table register of 16"),
        (Layer("k256", (1, 3, 5, 5), 5, centroids=256, **_CONV), "256 centroids do not fit a table register of 16"),
        (Layer("two_rows", (2, 12), 5), "2 row(s): table rows are read directly"),
        (Layer("one_row", (1, 1, 12), 5), "1 row(s): table rows are read directly"),
        (Layer("float_table", (33, 12), 5, table="float32"), "float32 tables are not shuffled"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_choice(layer: Layer, reason: str, isa: str) -> None:
    after = _packed(module_of([layer]), isa)
    (row,) = layer_rows(after)
    size = layer.num_codebooks * layer.centroids * layer.outputs * (4 if layer.table == "float32" else 1)
    loads_rows = _loads_rows(layer, isa)
    kernel = (
        ("row loads" if loads_rows else "row gather")
        if reason
        else (f"row loads {isa}" if loads_rows else f"shuffle {isa}")
    )
    narrow = isa.endswith("_narrow") and (loads_rows or not reason)
    preadd = 2 if loads_rows else get_isa(isa).table_read.preadd
    assert (row.pop("table_error") > 0) == narrow
    assert row == {
        "name": layer.name,
        "op": "conv2d" if layer.kernel else "dense",
        "kind": "lut",
        "reason": reason,
        "kernel": kernel,
        "num_centroids": layer.centroids,
        "subvector_len": layer.length,
        "num_codebooks": layer.num_codebooks,
        "outputs": layer.outputs,
        "encoder": "l2",
        "encode_dtype": "float32" if layer.search == "f32" else "int8",
        "table_dtype": "float32" if layer.table == "float32" else "int8",
        "table_bytes": size,
        "table_bits": table_bits(preadd) if narrow else 32 if layer.table == "float32" else 8,
    }
    layout = "rowwise" if reason else get_isa(isa).of_rows.name if loads_rows else isa
    for call in (*_calls(after, "encode"), *_calls(after, "lookup_accumulate")):
        assert str(call.attrs["layout"]) == layout


@pytest.mark.parametrize("isa", TARGETS)
def test_multipliers(isa: str) -> None:
    read = get_isa(isa).table_read
    after = _packed(module_of([Layer("m", (33, 18), 5, mult=True)]), isa)
    (row,), (lookup,) = layer_rows(after), _calls(after, "lookup_accumulate")
    if read.intrin_mult:
        assert (row["kernel"], row["reason"]) == (f"shuffle {isa}", "")
        assert _shape(lookup.args[4]) == (-(-5 // read.group), read.group)
    else:
        assert row["kernel"] == "row gather"
        assert row["reason"] == f"{isa} has no table read with codebook multipliers"
        assert _shape(lookup.args[4]) == (5,)


@pytest.mark.parametrize("isa", ["avx2", "neon"])
def test_multipliers_of_one_are_dropped(isa: str) -> None:
    x, layer = tensor("x", 33, 12), Layer("m", (33, 12), 5)
    constants = {k: relax.const(v) for k, v in layer.constants().items()}
    call = op.dense(x, **constants, mult=relax.const(np.ones(3, "uint8")), **layer.attributes())
    after = _packed(module([x], lambda bb: call), isa)
    (row,), (lookup,) = layer_rows(after), _calls(after, "lookup_accumulate")
    assert row["kernel"] == {"avx2": "shuffle avx2", "neon": "row loads neon"}[isa]
    assert len(lookup.args[4].fields) == 0


@pytest.mark.parametrize("isa", [isa for isa in TARGETS if get_isa(isa).row_read is None])
@pytest.mark.parametrize("search", ["u8", "s8", "f32"])
def test_packed_shapes(isa: str, search: str) -> None:
    layer = Layer("shapes", (40, 30), 9, length=6, centroids=12, search=search, affine=True)
    after = _packed(module_of([layer]), isa)
    (encode,), (lookup,) = _calls(after, "encode"), _calls(after, "lookup_accumulate")
    read, dot = get_isa(isa).table_read, get_isa(isa).dot
    groups, depth = -(-5 // read.group), 1 if search == "f32" else dot.depth
    padded = groups * read.group
    assert _shape(encode.args[1]) == (padded, 12, -(-6 // depth), depth)
    assert str(encode.args[1].ty.dtype) == ("float32" if search == "f32" else dot.c_dtype)
    assert _shape(encode.args[3]) == (padded, 12)
    if search != "f32":
        assert _shape(encode.args[2]) == (padded,)
    tiles = int(encode.attrs["tiles"])
    assert tiles * read.rows >= 40
    assert _shape(encode) == (1, tiles, groups, *read.code_shape)
    blocks, *table = _shape(lookup.args[1])
    block = table[1]
    assert blocks == -(-9 // block) and block <= read.tiles  # 9 outputs rounded up to whole register tiles
    assert tuple(table) == (groups, block, read.group, 16)
    assert _shape(lookup.args[2]) == _shape(lookup.args[3]) == (9,)
    assert _shape(lookup) == (40, 9)


@pytest.mark.parametrize("isa", [isa for isa in TARGETS if get_isa(isa).row_read is not None])
@pytest.mark.parametrize("search", ["u8", "f32"])
def test_packed_shapes_of_row_loads(isa: str, search: str) -> None:
    layer = Layer("shapes", (40, 30), 150, length=6, centroids=12, search=search, affine=True)
    after = _packed(module_of([layer]), isa)
    (encode,), (lookup,) = _calls(after, "encode"), _calls(after, "lookup_accumulate")
    if get_isa(isa).by_element and search == "u8":
        (quantize,) = _calls(after, "quantize_rows")
        assert _shape(quantize) == (40 * 5 * 8 + 16,)  # subvectors of 6 in 8 bytes
        assert _shape(encode.args[1]) == (8, 2, 3, 16) and _shape(encode.args[3]) == (8, 4, 12)
    elif search == "f32":  # centroids in lanes: 12 of them in three vectors of each element
        assert _shape(encode.args[1]) == (8, 6, 3, 4) and _shape(encode.args[3]) == (8, 4, 12)
    else:
        assert not _calls(after, "quantize_rows")
        assert _shape(encode.args[1])[:2] == (8, 12) and _shape(encode.args[3]) == (8, 12)
    assert _shape(encode) == (1, 3, 2, 16, 4)  # 40 rows in tiles of 16, 5 codebooks in groups of 4
    assert _shape(lookup.args[1]) == (2, 2, 12, 4, 80)  # 150 outputs in two slabs of five vectors
    assert _shape(lookup) == (40, 150)


@pytest.mark.parametrize("isa", ["neon_dotprod", "neon_wide_narrow", "neon_little_narrow"])
@pytest.mark.parametrize(
    ("image", "rows"), [((1, 12, 3, 3), True), ((1, 40, 7, 7), True), ((1, 12, 4, 4), False), ((1, 2, 3, 3), False)]
)
def test_images_read_rows_where_padding_costs_more(image: tuple[int, ...], rows: bool, isa: str) -> None:
    """9 positions are 16 of tiles, 49 are 56 or 64; 16 are 16, and two codebooks do not repay the transpose."""
    after = _packed(module_of([Layer("c", image, 20, **_CONV)]), isa)
    (row,) = layer_rows(after)
    narrow = isa.endswith("_narrow")  # else tables keep 8 bits, of which int8 holds no sum
    assert row["kernel"] == (f"row loads {isa}" if rows and narrow else f"shuffle {isa}")


@pytest.mark.parametrize("isa", [isa for isa in TARGETS if get_isa(isa).by_element])
@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (Layer("same", (1, 3, 8, 9), 5, length=9, kernel=(3, 3), pads=(1, 1, 1, 1)), True),
        (Layer("stride", (1, 3, 16, 16), 5, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)), True),
        (Layer("one_by_one", (1, 4, 8, 8), 5, length=4, kernel=(1, 1)), True),
        (Layer("one_by_one_padded", (1, 4, 8, 8), 5, kernel=(1, 1), pads=(0, 0, 0, 1), strides=(1, 2)), False),
        (Layer("one_by_one_v2", (1, 4, 8, 8), 5, length=2, kernel=(1, 1)), False),
        (Layer("far", (1, 3, 16, 16), 5, length=9, kernel=(3, 3), dilations=(1, 7)), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_windows_by_element_must_fit_16_bytes(layer: Layer, fits: bool, isa: str) -> None:
    (encode,) = _calls(_packed(module_of([layer]), isa), "encode")
    assert bool(int(encode.attrs["by_element"])) == fits


def test_centroids_by_element_have_a_negative() -> None:
    """The search by element multiplies by minus a centroid, which int8 has for all but -128."""
    x, layer = tensor("x", 33, 12), Layer("m", (33, 12), 5)
    for least, by_element in ((-127, 1), (-128, 0)):
        constants = layer.constants()
        constants["centroids"] = np.clip(constants["centroids"], -127, 127)
        constants["centroids"][0, 0, 0] = least
        call = op.dense(x, **{k: relax.const(v) for k, v in constants.items()}, **layer.attributes())
        (encode,) = _calls(_packed(module([x], lambda bb, call=call: call), "neon_dotprod"), "encode")
        assert int(encode.attrs["by_element"]) == by_element


@pytest.mark.parametrize("isa", TARGETS)
def test_int16_sums_are_drained_only_where_tables_need_it(isa: str) -> None:
    def chunk(codebooks: int, table: str) -> int:
        layer = Layer("drain", (1, codebooks, 4, 4), 4, length=1, kernel=(1, 1), table=table)
        return int(_calls(_packed(module_of([layer]), isa), "lookup_accumulate")[0].attrs["chunk"])

    read = get_isa(isa).table_read
    assert chunk(256, "extreme") == 0  # 256 * 127 = 32512
    largest = 127 // read.preadd
    if read.acc_dtype == "int32" or 600 * largest <= 32767:
        assert chunk(600, "extreme") == 0
    else:
        assert chunk(600, "extreme") in range(32 // read.group, 32767 // (largest * read.group) + 1)
        assert 608 // read.group % chunk(600, "extreme") == 0  # whole stretches of 32 codebooks


def test_readers_of_shared_codes_agree_on_a_kernel() -> None:
    """One float32 table makes both readers take rows, since they share the codes."""
    x = tensor("x", 33, 12)
    first, second = Layer("a", (33, 12), 5), Layer("b", (33, 12), 5, table="float32")
    centroids = {k: v for k, v in first.constants().items() if k in ("centroids", "inv_scale", "score_bias")}

    def emit(bb: relax.BlockBuilder, tables: tuple[Layer, Layer]) -> relax.Expr:
        ys = []
        for layer in tables:
            values = {**layer.constants(), **centroids}
            call = op.dense(x, **{k: relax.const(v) for k, v in values.items()}, **layer.attributes(), layer=layer.name)
            ys.append(bb.emit(call))
        return relax.op.multiply(*ys)

    mixed = _packed(module([x], lambda bb: emit(bb, (first, second))), "avx2")
    assert len(_calls(mixed, "encode")) == 1
    assert [row["kernel"] for row in layer_rows(mixed)] == ["row gather"] * 2
    both = _packed(module([x], lambda bb: emit(bb, (first, Layer("c", (33, 12), 5)))), "avx2")
    assert len(_calls(both, "encode")) == 1
    assert [row["kernel"] for row in layer_rows(both)] == ["shuffle avx2"] * 2


@pytest.mark.parametrize(
    ("which", "reason"), [("centroids", "codebooks are not constant"), ("table", "the table is not constant")]
)
def test_values_from_outside_are_not_packed(which: str, reason: str) -> None:
    layer = Layer("outside", (33, 12), 5)
    values = layer.constants()
    x, param = tensor("x", 33, 12), tensor(which, *values[which].shape, dtype=str(values[which].dtype))
    args = {k: param if k == which else relax.const(v) for k, v in values.items()}
    call = op.dense(x, **args, **layer.attributes(), layer="outside")
    after = _packed(module([x, param], lambda bb: call), "avx512_vbmi")
    (row,) = layer_rows(after)
    assert (row["kernel"], row["reason"]) == ("row gather", reason)


def test_result_keeps_its_type() -> None:
    layer = Layer("rank3", (2, 9, 12), 7, residual=True)
    before = module_of([layer])
    after = _packed(before, "neon")
    tvm.ir.assert_structural_equal(after["main"].ret_ty, before["main"].ret_ty)
    (lookup,) = _calls(after, "lookup_accumulate")
    assert _shape(lookup.args[5]) == (18, 7)


def test_current_target_is_the_default() -> None:
    mod = DecomposeLUT()(module_of([Layer("current", (33, 12), 5)]))
    with Target(TARGETS["avx2"]):
        assert layer_rows(PackLUTConstants()(mod))[0]["kernel"] == "shuffle avx2"
    with pytest.raises(Exception, match=r"(?i)target"):
        PackLUTConstants()(mod)


@pytest.mark.parametrize(
    ("isa", "search", "rows"),
    [
        ("avx512_vbmi", "u8", 12), ("avx2", "u8", 16), ("avx512", "s8", 32), ("neon", "u8", 2),
        ("avx512_vbmi", "f32", 2), ("avx2", "f32", 5), ("avx512", "f32", 10), ("neon", "f32", 2),
    ],
)  # fmt: skip
def test_few_rows_are_read_directly(isa: str, search: str, rows: int) -> None:
    """Up to twelve, or half of the rows of a tile; up to a sixth where the search is float32, and on AArch64."""
    layers = [Layer("few", (n, 12), 5, search=search) for n in (rows, rows + 1)]
    kernels = [layer_rows(_packed(module_of([layer]), isa))[0]["kernel"] for layer in layers]
    assert kernels == (["row loads", "row loads neon"] if isa == "neon" else ["row gather", f"shuffle {isa}"])
