"""Every registered intrinsic: the instruction sequence computes what its plain loops say, on random and edge bytes."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import pytest
from tvm import IRModule, relax, s_tir, te

from tests.execute import execute, skip_unless_runnable
from tests.tvm_ext.targets import TARGETS
from tvm_ext.tensor_intrin import Dot, Isa, TableRead, Window, get_isa, list_isas
from tvm_ext.tensor_intrin.horizontal_max import horizontal_max_intrin
from tvm_ext.tensor_intrin.interleave import interleave_desc, interleave_impl
from tvm_ext.tensor_intrin.regroup import regroup_desc, regroup_impl
from tvm_ext.tensor_intrin.spec import llvm_intrinsic
from tvm_ext.tensor_intrin.transpose import transpose_intrin

ISAS = [isa.name for isa in list_isas()]


@dataclass(frozen=True)
class Case:
    """Arguments of one call of an intrinsic; the last one is the accumulator, which it updates."""

    intrin: str
    arguments: tuple[np.ndarray, ...]
    expected: np.ndarray


def _values(style: int, shape: tuple[int, ...], dtype: str, low: int, high: int) -> np.ndarray:
    """Style 0: all low; 1: all high; 2: low and high mixed; others: random in low..high."""
    rng = np.random.default_rng(style)
    edges = {0: [low], 1: [high], 2: [low, high]}
    values = rng.choice(edges[style], shape) if style in edges else rng.integers(low, high + 1, shape)
    return values.astype(dtype)


def _read_case(read: TableRead, mult: bool, style: int) -> Case:
    code = _values(style, read.code_shape, "uint8", 0, 15)
    low, high = -(128 // read.preadd), 127 // read.preadd
    table = _values(5 - style, (read.group, 16), "int8", low, high)  # edge codes meet random tables, and the reverse
    factor = _values(style, (read.group,), "uint8", 1, 127) if mult else np.ones(read.group, "uint8")
    acc = _values(7, (read.rows,), read.acc_dtype, -20000, 20000)
    expected = acc.astype("int64")
    for row in range(read.rows):
        for c in range(read.group):
            index = read.code_index(row, c)
            expected[row] += int(factor[c]) * int(table[c, code[index]])
            code[index] += read.code_start(c)
    arguments = (code, table[0] if read.order == "row" else table, *((factor,) if mult else ()), acc)
    return Case(read.intrin_mult if mult else read.intrin, arguments, expected)


def _dot_case(dot: Dot, style: int) -> Case:
    low, high = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-128, 255)}[dot.x_dtype]
    x = _values(style, (dot.rows, dot.depth), dot.x_dtype, low, high)
    c = _values(5 - style, (dot.depth,), dot.c_dtype, -128, 127)
    acc = _values(7, (dot.rows,), "int32", -(2**30), 2**30)
    return Case(dot.intrin, (x, c, acc), acc + x.astype("int64") @ c.astype("int64"))


def _dot_lanes_case(dot: Dot, style: int) -> Case:
    _, (x, c, acc), _ = astuple(_dot_case(dot, style))
    c = np.stack([np.roll(c, row) for row in range(dot.rows)])
    return Case(dot.lanes_intrin, (c, x[0], acc), acc + c.astype("int64") @ x[0].astype("int64"))


def _horizontal_max_case(style: int) -> Case:
    vector = _values(style, (16,), "int32", -(2**30), 2**30)
    best = _values(7, (1,), "int32", -(2**30), 2**30)
    return Case(horizontal_max_intrin(), (vector, best), np.maximum(best, vector.max()))


def _window_case(window: Window, style: int) -> Case:
    pattern = _values(style, (window.rows, window.depth), window.index_dtype, 0, window.span - 1)
    source = _values(5 - style, (window.span,), window.dtype, 0 if window.dtype == "uint8" else -128, 255)
    out, stored = np.zeros((window.rows, window.depth), window.collected), pattern + window.index_offset
    return Case(window.intrin, (stored.astype(window.index_dtype), source, out), source[pattern])


def _cases(isa: Isa) -> list[Case]:
    cases = [_read_case(isa.table_read, False, style) for style in range(6)]
    if isa.table_read.intrin_mult:
        cases += [_read_case(isa.table_read, True, style) for style in range(6)]
    if isa.dot.intrin:
        cases += [_dot_case(isa.dot, style) for style in range(6)]
        cases += [_dot_lanes_case(isa.dot, style) for style in range(6)]
    cases += [_horizontal_max_case(style) for style in range(6)]
    for window in (isa.window, isa.narrow_window, isa.float_window):
        if window is not None:
            cases += [_window_case(window, style) for style in range(6)]
    return cases


def _module(cases: list[Case]) -> IRModule:
    """main(arguments of every case, twice) -> (accumulator by the implementation, by the meaning) of every case."""
    bb, funcs = relax.BlockBuilder(), {}
    params = [
        relax.Var(f"p{i}_{which}_{j}", relax.TensorType(a.shape, str(a.dtype)))
        for i, case in enumerate(cases)
        for which in ("impl", "desc")
        for j, a in enumerate(case.arguments)
    ]
    with bb.function("main", params):
        outputs, rest = [], list(params)
        for case in cases:
            intrin = s_tir.TensorIntrin.get(case.intrin)
            for which in ("impl", "desc"):
                symbol = f"{case.intrin}_{which}"
                if symbol not in funcs:
                    func = getattr(intrin, which).with_attr("tirx.noalias", True).without_attr("global_symbol")
                    funcs[symbol] = bb.add_func(s_tir.renew_defs(func), symbol)
                args, rest = rest[: len(case.arguments)], rest[len(case.arguments) :]
                last = len(args) - 1
                outputs.append(bb.emit(relax.op.call_tir_inplace(funcs[symbol], args, [last], args[last].ty)))
        bb.emit_func_output(relax.Tuple(outputs))
    return bb.get()


@pytest.mark.parametrize("name", ISAS)
def test_implementation_equals_meaning(name: str) -> None:
    skip_unless_runnable(TARGETS[name])
    cases = _cases(get_isa(name))
    inputs = [a.copy() for case in cases for _ in range(2) for a in case.arguments]
    results = execute(_module(cases), inputs, TARGETS[name])
    for case, impl, desc in zip(cases, results[::2], results[1::2], strict=True):
        np.testing.assert_array_equal(desc, case.expected, err_msg=case.intrin)
        np.testing.assert_array_equal(impl, desc, err_msg=case.intrin)


@pytest.mark.parametrize("name", ISAS)
def test_code_index_and_position_are_inverse(name: str) -> None:
    read = get_isa(name).table_read
    seen = set()
    for row in range(read.rows):
        for codebook in range(read.group):
            index = read.code_index(row, codebook)
            assert all(0 <= i < extent for i, extent in zip(index, read.code_shape, strict=True))
            assert read.code_position(*index) == (row, codebook)
            seen.add(index)
    assert len(seen) == int(np.prod(read.code_shape))


def test_every_isa_has_a_test_target() -> None:
    assert set(ISAS) == set(TARGETS)
    assert ISAS[-1] == "generic", "the fallback must be the last choice"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no intrinsic 'llvm\.x86\.no\.such\.thing'"):
        llvm_intrinsic("llvm.x86.no.such.thing")
    assert llvm_intrinsic("llvm.x86.avx512.vpdpbusd.512") == "llvm.x86.avx512.vpdpbusd.512"
    with pytest.raises(ValueError, match=r"no ISA named 'sse9'; there are .*generic"):
        get_isa("sse9")


_TURNING = [
    (16, "avx512"),
    (8, "avx2"),
    *((4, name) for name in ("ssse3", "neon", "neon_armv7", "wasm_simd128", "generic")),
]


@pytest.mark.parametrize(("lanes", "name"), _TURNING)
def test_tiles_are_transposed(lanes: int, name: str) -> None:
    """The intrinsic in a schedule of a plain transpose, with rows further apart than a tile."""
    skip_unless_runnable(TARGETS[name])
    a = te.placeholder((2 * lanes, 3 * lanes), "float32", name="a")
    func = te.create_prim_func([a, te.compute((3 * lanes, 2 * lanes), lambda n, m: a[m, n], name="turned")])
    sch = s_tir.Schedule(func)
    n, m = sch.get_loops(sch.get_sblock("turned"))
    (no, ni), (mo, mi) = sch.split(n, [None, lanes]), sch.split(m, [None, lanes])
    sch.reorder(no, mo, ni, mi)
    sch.tensorize(ni, transpose_intrin(lanes))
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((2 * lanes, 3 * lanes), "float32"))
    with bb.function("main", [x]):
        turn = bb.add_func(sch.mod["main"].without_attr("global_symbol"), "turn")
        y = bb.emit(relax.call_tir(turn, [x], relax.TensorType((3 * lanes, 2 * lanes), "float32")))
        bb.emit_func_output(y)
    value = np.random.default_rng(0).standard_normal((2 * lanes, 3 * lanes)).astype("float32")
    (got,) = execute(bb.get(), [value], TARGETS[name])
    np.testing.assert_array_equal(got, value.T)


@pytest.mark.parametrize(
    ("dtype", "count", "name"),
    [
        ("uint8", 16, "avx512_vbmi"),
        ("int8", 16, "neon_dotprod"),
        ("int16", 8, "avx2"),
        ("int16", 16, "ssse3"),
        ("int16", 16, "wasm_simd128"),
    ],
)
def test_bytes_are_regrouped(dtype: str, count: int, name: str) -> None:
    skip_unless_runnable(TARGETS[name])
    depth = 4 // np.dtype(dtype).itemsize
    rows = np.arange(4 * count * depth).astype(dtype).reshape(4, count // 4, 4 * depth)
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(rows.shape, dtype))
    with bb.function("main", [x]):
        outputs = []
        for symbol, func in (("impl", regroup_impl(dtype, count)), ("desc", regroup_desc(dtype, count))):
            gv = bb.add_func(s_tir.renew_defs(func.with_attr("tirx.noalias", True)), symbol)
            outputs.append(bb.emit(relax.call_tir(gv, [x], relax.TensorType((4, count, depth), dtype))))
        bb.emit_func_output(relax.Tuple(outputs))
    impl, desc = execute(bb.get(), [rows], TARGETS[name])
    np.testing.assert_array_equal(impl, desc)
    np.testing.assert_array_equal(desc, rows.transpose(1, 0, 2).reshape(count, 4, depth).transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("rows", "depth", "source", "dtype", "name"),
    [
        (16, 4, "uint8", "uint8", "avx512_vbmi"), (8, 2, "uint8", "int16", "avx2"), (16, 2, "uint8", "int16", "ssse3"),
        (16, 4, "int8", "int8", "neon_dotprod"),
    ],
)  # fmt: skip
def test_channels_are_interleaved(rows: int, depth: int, source: str, dtype: str, name: str) -> None:
    skip_unless_runnable(TARGETS[name])
    channels = np.random.default_rng(0).integers(0, 256, (depth, rows)).astype(source)
    bb, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(channels.shape, source))
    with bb.function("main", [x]):
        outputs = []
        for symbol, make in (("impl", interleave_impl), ("desc", interleave_desc)):
            func = make(rows, depth, source, dtype).with_attr("tirx.noalias", True)
            gv = bb.add_func(s_tir.renew_defs(func), symbol)
            outputs.append(bb.emit(relax.call_tir(gv, [x], relax.TensorType((rows, depth), dtype))))
        bb.emit_func_output(relax.Tuple(outputs))
    impl, desc = execute(bb.get(), [channels], TARGETS[name])
    np.testing.assert_array_equal(desc, channels.T.astype(dtype))
    np.testing.assert_array_equal(impl, desc)
