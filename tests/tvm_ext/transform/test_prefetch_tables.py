"""PrefetchTables: searches fetch the large tables that are read behind them, and give what they gave before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.execute import execute, skip_unless_runnable
from tests.tvm_ext.layers import Layer, check, inputs_of, module_of
from tests.tvm_ext.schedule.assembly import kernel_lines
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.schedule.encode import PREFETCH

# 256 codebooks for 256 outputs: 1 MiB; the other adds what makes them too much for the second cache together
LARGE = Layer("large", (1, 1024, 7, 7), 256, kernel=(1, 1), affine=True, relu=True)
SMALL = Layer("small", (1, 64, 5, 5), 32, kernel=(1, 1), search="s8")
LAYERS = [LARGE, SMALL]


def _inputs(mod: tvm.IRModule, name: str) -> int:
    (func,) = (func for gv, func in mod.functions_items() if gv.name_hint == f"lut_encode_{name}")
    return len(func.params)


def _passed(mod: tvm.IRModule, name: str) -> list[relax.Expr]:
    """The arguments of a kernel's call in "main"."""
    bindings = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    calls = [call for call in bindings if isinstance(call, relax.Call) and isinstance(call.args[0], tvm.ir.GlobalVar)]
    (call,) = (call for call in calls if call.args[0].name_hint == name)
    return list(call.args[1].fields)


@pytest.mark.parametrize("isa", ["avx512_vbmi", "avx2"])
def test_large_tables_come_during_the_search(isa: str) -> None:
    target = TARGETS[isa]
    skip_unless_runnable(target)
    mod = pipeline.schedule(module_of(LAYERS), target)
    table = _passed(mod, "lut_lookup_large")[1]
    assert _passed(mod, "lut_encode_large")[-1].same_as(table)
    assert not any(arg.same_as(_passed(mod, "lut_lookup_small")[1]) for arg in _passed(mod, "lut_encode_small"))
    built = pipeline.codegen(mod, target, lift_above=0)
    asm = built.executable.mod.imports[0].inspect_source("asm")
    assert any("prefetch" in line for line in kernel_lines(asm, "lut_encode_large"))
    assert not any("prefetch" in line for line in kernel_lines(asm, "lut_encode_small"))
    inputs = [*inputs_of(LAYERS), *(constant.numpy() for constant in built.constants)]
    values = execute(built.executable, inputs, target)
    for layer, value in zip(LAYERS, values, strict=False):
        check(layer, value)


def test_a_model_that_stays_in_the_cache_fetches_nothing() -> None:
    target = TARGETS["avx512_vbmi"]
    mod = pipeline.schedule(module_of([replace(LARGE, x=(1, 512, 7, 7)), SMALL]), target)
    assert len(_passed(mod, "lut_encode_large")) == _inputs(mod, "large") - 1
    assert not any(arg.same_as(_passed(mod, "lut_lookup_large")[1]) for arg in _passed(mod, "lut_encode_large"))
    assert PREFETCH not in mod.script()


def test_a_search_that_is_called_twice_fetches_nothing() -> None:
    """It has no one table to fetch."""
    x = relax.Var("x", relax.TensorType(LARGE.x, "float32"))
    y = relax.Var("y", relax.TensorType(LARGE.x, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y]):
        with builder.dataflow():
            results = [builder.emit(LARGE.expression(value, None)) for value in (x, y)]
            out = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(out)
    target = TARGETS["avx512_vbmi"]
    skip_unless_runnable(target)
    built = pipeline.build(builder.get(), target)
    inputs = LARGE.inputs()
    first, second = execute(built.executable, [inputs, inputs[:, ::-1].copy()], target)
    check(LARGE, first)
    assert not np.array_equal(first, second)
