"""The machine code of the kernels: what the inner loops hold, and that nothing spills or allocates there."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import replace

import pytest
from tvm.target import Target

from lutc.targets import parse_target
from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.schedule.assembly import Loop, busiest, innermost_loops, kernel_lines, stack_access
from tests.tvm_ext.targets import TARGETS, least_table_bits
from tvm_ext import pipeline
from tvm_ext.target import best_isa
from tvm_ext.tensor_intrin import get_isa

CONV = Layer("conv", (1, 64, 56, 56), 64, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), affine=True, relu=True)
# 200 codebooks: too few for a drain, enough for the loop to stay a loop
DENSE = Layer("dense", (1024, 800), 64, length=4, search="s8")
_CORES = ("cortex-a72", "cortex-a76", "neoverse-v1", "apple-m1")
CPUS: dict[str, dict] = TARGETS | {name: parse_target(name).llvm() for name in _CORES}
_PSHUFB = {"vpshufb": 1, "vpmaddubsw": 1, "vpaddw": 1, "vpunpcklbw": 0.5, "vpunpckhbw": 0.5}
_TBL = {"tbl": 1, "saddw": 1, "saddw2": 1}
# instructions for each table read (of a register) in the inner loop
_MIX: dict[str, dict[str, float]] = {
    "ssse3": {name.removeprefix("v"): count for name, count in _PSHUFB.items()},
    "avx2": _PSHUFB,
    "avx512": _PSHUFB,
    "avx512_vbmi": {"vpermb": 1, "vpdpbusd": 1},
    "neon": _TBL,
    "neon_dotprod": {"tbl": 1, "sadalp": 1},
    "neon_little": _TBL,
    "neon_little_narrow": {"tbl": 1, "saddw": 0.25, "saddw2": 0.25},
    "neon_wide_narrow": {"tbl": 1, "sadalp": 0.5},
    "neon_armv7": {"vtbl.8": 1, "vaddw.s8": 1},
    "wasm_simd128": {"i8x16.swizzle": 1, "i8x16.shuffle": 1, "i16x8.extadd_pairwise_i8x16_s": 1, "i16x8.add": 1},
}
_LOADS = {
    "vporq", "vpord", "vmovdqa", "vmovdqa64", "vmovdqu64", "movdqa", "movaps", "vbroadcasti128", "vbroadcasti32x4",
    "ldr", "ldp", "ldur", "vld1.8", "vld1.64", "v128.load",
}  # fmt: skip
_CONTROL = {
    "addq", "subq", "cmpq", "jne", "jb", "add", "sub", "subs", "cmp", "b.ne", "b.lo", "mov", "cbnz", "prfm", "lsr",
    "and", "ubfx", "ubfiz", "bne",
    "loop", "local.get", "local.set", "local.tee", "i32.const", "i32.add", "i32.ne", "br_if",
}  # fmt: skip


@functools.cache
def _built(name: str) -> pipeline.Built:
    bits = least_table_bits(name) if name in TARGETS else 0
    return pipeline.build(module_of([CONV, DENSE]), CPUS[name], table_bits=bits)


def _assembly(name: str) -> str:
    return _built(name).executable.mod.imports[0].inspect_source("asm")


def _isa(name: str) -> str:
    return best_isa(Target(CPUS[name]), least_table_bits(name) if name in TARGETS else 0).name


def _row_loads(name: str) -> bool:
    return get_isa(_isa(name)).row_read is not None


_SHUFFLING = [name for name in CPUS if name != "generic"]


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize("name", _SHUFFLING)
def test_inner_loop_of_the_table_read(name: str, layer: str) -> None:
    """Shuffles and adds, the loads they need, one loop counter, and nothing else."""
    if layer == "dense" and _row_loads(name):
        pytest.skip("dense layers load rows here: see the next test")
    mix = _MIX[_isa(name)]
    shuffle = next(iter(mix))
    loop = busiest(innermost_loops(kernel_lines(_assembly(name), f"lut_lookup_{layer}")), shuffle)
    found = loop.mnemonics
    reads = found[shuffle]
    assert reads >= 6, "the tile must reuse what it loads"
    assert {m: found[m] for m in mix} == {m: count * reads for m, count in mix.items()}
    rest = set(found) - set(mix)
    assert rest <= _LOADS | _CONTROL
    if _isa(name) not in ("ssse3", "wasm_simd128"):  # two-operand instructions copy registers, and so does a stack
        assert sum(found[m] for m in rest) <= 1.75 * reads


@pytest.mark.parametrize("name", [name for name in _SHUFFLING if _row_loads(name)])
def test_inner_loop_of_row_loads(name: str) -> None:
    """Every load of 16 entries is added once: by widening, or with its neighbour's in int8 first."""
    (row,) = (row for row in _built(name).layers if row["name"] == "dense")
    preadd = 2 if row["table_bits"] == 7 else 1
    loop = _hot_loop(name, "dense")
    found = loop.mnemonics
    vectors = sum(len(re.findall(r"\bq\d+", line)) for line in loop.lines if line.split()[0] in ("ldr", "ldp", "ldur"))
    assert found["saddw"] == found["saddw2"] == vectors / preadd
    added = sum(line.split()[0] == "add" and ".16b" in line for line in loop.lines)
    assert added == vectors - vectors / preadd
    assert set(found) <= {"saddw", "saddw2"} | _LOADS | _CONTROL
    assert len(loop.lines) <= 4.1 * vectors


@pytest.mark.parametrize("name", [name for name in _SHUFFLING if _row_loads(name)])
def test_row_loads_finish_in_registers(name: str) -> None:
    """Results come from the registers of the sums, with scales that are loaded where they are used: none is spilled.

    One constant, which takes two instructions to make, may wait on the stack: a store, and a load for all of a row.
    """
    lines = kernel_lines(_assembly(name), "lut_lookup_dense")
    assert any(line.split()[0] in ("fmla", "fmul") for line in lines)
    assert len([line for line in lines if stack_access(line) and re.search(r"\bq\d+", line)]) <= 2


def _hot_loop(name: str, layer: str) -> Loop:
    """The inner loop of a layer's table read."""
    instruction = "saddw" if layer == "dense" and _row_loads(name) else next(iter(_MIX[_isa(name)]))
    return busiest(innermost_loops(kernel_lines(_assembly(name), f"lut_lookup_{layer}")), instruction)


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize("name", [name for name in _SHUFFLING if get_isa(_isa(name)).by_element])
def test_search_by_element_stays_in_registers(name: str, layer: str) -> None:
    """For four rows of one codebook: 16 products a step, one index insertion a register, minima, no copy, no stack."""
    loop = busiest(innermost_loops(kernel_lines(_assembly(name), f"lut_encode_{layer}")), "sdot")
    steps, found = {"conv": 3, "dense": 1}[layer], loop.mnemonics
    times = found["sdot"] // (16 * steps)  # LLVM may unroll the loop over codebooks
    assert found["sdot"] == 16 * steps * times and found["sri"] == 16 * times
    assert found["smin"] == 12 * times and found["sminp"] == 3 * times
    assert not [line for line in loop.lines if stack_access(line)]
    vector = [line for line in loop.lines if re.search(r"\bv\d+\.", line)]
    assert len(vector) <= (16 * steps + 31 + 12) * times


@pytest.mark.parametrize("name", ["cortex-a76", "neoverse-v1", "avx512_vbmi"])
def test_search_on_six_bits_inserts_no_index(name: str) -> None:
    """Scores hold their index from the start: products and minima are all that is left, in registers."""
    built = pipeline.build(module_of([replace(CONV, name="six", search="u6")]), CPUS[name])
    lines = kernel_lines(built.executable.mod.imports[0].inspect_source("asm"), "lut_encode_six")
    dot, insert, best = ("vpdpbusd", "vpternlogd", "vpmaxsd") if name in TARGETS else ("sdot", "sri", "smin")
    found = busiest(innermost_loops(lines), dot)
    times = found.mnemonics[dot] // (16 * 3)
    assert times > 0 and found.mnemonics[dot] == 16 * 3 * times and found.mnemonics[insert] == 0
    waiting = 1 if name in TARGETS else 0  # what was best of a codebook, for the others of its group
    assert found.mnemonics[best] >= 12 * times and len(_spills(found.lines, name)) <= waiting


@pytest.mark.parametrize("name", ["neon", "cortex-a76"])
def test_float_search_by_element_stays_in_registers(name: str) -> None:
    """For four rows of one codebook: 16 products an input, no vector on the stack."""
    layer = Layer("exact", (1, 32, 14, 14), 16, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), search="f32")
    built = pipeline.build(module_of([layer]), CPUS[name])
    lines = kernel_lines(built.executable.mod.imports[0].inspect_source("asm"), "lut_encode_exact")
    loop = busiest(innermost_loops(lines), "fmla")
    times = loop.mnemonics["fmla"] // (16 * 9)
    assert times > 0 and loop.mnemonics["fmla"] == 16 * 9 * times
    assert loop.mnemonics["fcmgt"] == 15 * times and not _spills(loop.lines, name)


@pytest.mark.parametrize("name", ["cortex-a76", "neoverse-v1"])
def test_images_that_load_rows_stay_in_registers(name: str) -> None:
    """Sums of rows, and their transposes to results; with K = 8, a search holds half as many sums."""
    layer = Layer("rows", (1, 40, 7, 7), 256, length=9, centroids=8, kernel=(3, 3), pads=(1, 1, 1, 1), affine=True)
    built = pipeline.build(module_of([layer]), CPUS[name])
    assembly = built.executable.mod.imports[0].inspect_source("asm")
    loops = innermost_loops(kernel_lines(assembly, "lut_lookup_rows"))
    for instruction, count in (("saddw", 16), ("zip1", 20)):  # 4 codebooks of 128 outputs; 64 results
        loop = busiest(loops, instruction)
        assert loop.mnemonics[instruction] % count == 0 and not _spills(loop.lines, name)
    search = busiest(innermost_loops(kernel_lines(assembly, "lut_encode_rows")), "sdot")
    assert search.mnemonics["sdot"] == 4 * 24 and search.mnemonics["sri"] == 4 * 8
    assert not [line for line in search.lines if stack_access(line)]


@pytest.mark.parametrize("name", _SHUFFLING)
def test_accumulators_stay_in_registers(name: str) -> None:
    """No vector goes through the stack: nowhere with feature-major results, else not in the inner loop."""
    conv = kernel_lines(_assembly(name), "lut_lookup_conv")
    assert not _spills(_hot_loop(name, "conv").lines if _row_loads(name) else conv, name)
    assert not _spills(_hot_loop(name, "dense").lines, name)


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize("name", _SHUFFLING)
def test_the_table_read_calls_and_allocates_nothing(name: str, layer: str) -> None:
    """Row-major results pass through a tile in memory, which is got once, outside of the loops over codebooks."""
    lines = kernel_lines(_assembly(name), f"lut_lookup_{layer}")
    if layer == "dense":
        assert len(_calls(lines)) <= 6
        lines = _hot_loop(name, layer).lines
    assert not [line for line in lines if "Workspace" in line] + _calls(lines)


def _calls(lines: list[str]) -> list[str]:
    """Calls, but for the division that shares rows between threads, which 32-bit Arm has no instruction for."""
    found = [line for line in lines if line.split()[0] in ("callq", "bl", "blr", "blx", "call", "call_indirect")]
    return [line for line in found if "__aeabi_idiv" not in line]


_VECTORS = {"x86_64": ("%xmm", "%ymm", "%zmm"), "aarch64": ("q", "{"), "arm": ("q", "d", "{"), "wasm32": ()}
"""What a vector in a register is called; WebAssembly has neither registers nor a stack of its own in the code."""


def _spills(lines: list[str], name: str) -> list[str]:
    """Instructions that move a vector to or from the stack."""
    vector = _VECTORS[CPUS[name]["mtriple"].split("-")[0]]
    return [line for line in lines if stack_access(line) and any(o.strip().startswith(vector) for o in _operands(line))]


def _operands(line: str) -> list[str]:
    return line.split(None, 1)[1].split(",") if len(line.split()) > 1 else []


@pytest.mark.parametrize("layer", ["conv", "dense"])
@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("ssse3", "pmaddwd"),
        ("avx2", "vpmaddwd"),
        ("avx512", "vpmaddwd"),
        ("avx512_vbmi", "vpdpbusd"),
        ("neon", "smlal"),
        ("neon_dotprod", "sdot"),
        ("neon_armv7", "vmlal.s16"),
        ("wasm_simd128", "i32x4.dot_i16x8_s"),
    ],
)
def test_search_uses_the_dot_product(name: str, instruction: str, layer: str) -> None:
    """One for each vector of rows, centroid and step; nothing is called and rounding is one instruction."""
    lines = kernel_lines(_assembly(name), f"lut_encode_{layer}")
    found = [line.split()[0] for line in lines]
    assert found.count(instruction) >= 16
    assert not [line for line in _calls(lines) if "Parallel" not in line]


@pytest.mark.parametrize("name", ["neon", "neon_armv7"])
def test_inputs_of_a_row_are_quantized_as_a_vector(name: str) -> None:
    """Neither branches nor flags decide the bounds of single ones."""
    lines = kernel_lines(_assembly(name), "lut_encode_dense")
    found = Counter(line.split()[0] for line in lines)
    assert not {"fcmp", "vcmp.f32", "vmrs", "b.mi", "b.gt"} & set(found)
    assert found["fminnm"] + found["vbif"] >= 1


ODD = [
    Layer(f"odd_{h * w}", (1, 64, h, w), 32, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), affine=True, relu=True)
    for h, w in ((14, 14), (7, 7), (3, 9))
]


@functools.cache
def _odd(name: str) -> str:
    return pipeline.build(module_of(ODD), TARGETS[name]).executable.mod.imports[0].inspect_source("asm")


@pytest.mark.parametrize("layer", ODD, ids=lambda layer: layer.name)
@pytest.mark.parametrize("name", ["ssse3", "avx2", "avx512", "avx512_vbmi"])
def test_results_of_odd_images_leave_in_vectors(name: str, layer: Layer) -> None:
    """Nothing is gathered, and but for the end of an image no value leaves alone."""
    found = Counter(line.split()[0].removeprefix("v") for line in kernel_lines(_odd(name), f"lut_lookup_{layer.name}"))
    assert not [m for m in found if "gather" in m]
    assert found["mulss"] + found["fmadd213ss"] + found["fmadd231ss"] <= 2 * 4 * (layer.x[2] * layer.x[3] % 16 % 4 or 1)


LOADERS = [
    Layer("stride", (1, 64, 28, 28), 32, length=9, kernel=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    Layer("one_by_one", (1, 64, 28, 28), 32, kernel=(1, 1), strides=(2, 2), search="s8"),
    Layer("rows", (128, 128), 32, length=16, search="s8"),
    Layer("few_rows", (1, 768), 768, length=16, search="s8"),
]
_SINGLE = {
    "movzbl", "movzwl", "movsbl", "movswl", "pinsrb", "pinsrw", "pextrb", "pextrw", "movss", "insertps", "gatherqps",
    "gatherdps", "pgatherdd",
}  # fmt: skip
_WINDOW = {"pshufb", "permb", "permi2w", "permt2w"}


@functools.cache
def _loaders(name: str) -> str:
    built = pipeline.build(module_of(LOADERS), TARGETS[name])
    return built.executable.mod.imports[0].inspect_source("asm")


@pytest.mark.parametrize("layer", LOADERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize(
    ("name", "dot"), [("ssse3", "pmaddwd"), ("avx2", "vpmaddwd"), ("avx512", "vpmaddwd"), ("avx512_vbmi", "vpdpbusd")]
)
def test_search_takes_its_inputs_as_vectors(name: str, dot: str, layer: Layer) -> None:
    """Inputs are moved by shuffles, not one at a time; the loop over the products holds as many as the search has."""
    lines = kernel_lines(_loaders(name), f"lut_encode_{layer.name}")
    found = Counter(line.split()[0].removeprefix("v") for line in lines)
    # codes leave one by one in some tiles: 16 of every codebook of a group
    assert sum(found[m] for m in _SINGLE) <= 8
    if layer.name == "stride":
        assert sum(found[m] for m in _WINDOW) >= 3
    steps = 4 if layer.name == "few_rows" else 16
    assert found[dot.removeprefix("v")] >= steps
    assert not [line for line in lines if line.split()[0] == "callq" and "Parallel" not in line]


@pytest.mark.parametrize("name", ["avx2", "avx512", "avx512_vbmi"])
def test_search_keeps_its_inputs_in_registers(name: str) -> None:
    """The widest loop of products moves no vector to or from the stack."""
    lines = kernel_lines(_loaders(name), "lut_encode_one_by_one")
    loop = busiest(innermost_loops(lines), "vpdpbusd" if name == "avx512_vbmi" else "vpmaddwd")
    stored = [line for line in _spills(loop.lines, name) if _operands(line)[-1].strip().endswith(")")]
    assert len(stored) <= 2  # what was best of a codebook may wait there for the others of its group


def test_generic_needs_no_shuffle() -> None:
    text = _assembly("generic")
    assert "pshufb" not in text and "vp" not in {line.split()[0][:2] for line in text.splitlines() if line.split()}
