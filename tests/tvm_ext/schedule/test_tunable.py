"""The space that rules expose with ``tunable=True``: schedules that differ, and compute the same."""

from __future__ import annotations

import pytest
import tvm
from tvm.target import Target

from tests.execute import execute
from tests.tvm_ext.layers import Layer, check, inputs_of, module_of
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.schedule import RULES

LAYERS = [
    Layer("conv", (1, 12, 13, 13), 24, length=9, kernel=(3, 3), pads=(1, 1, 1, 1)),
    Layer("dense", (130, 32), 48, search="s8"),
    Layer("gathered", (3, 32), 24, search="s8"),
]


def _sampled(target: Target) -> tvm.IRModule:
    """The module of LAYERS with a schedule drawn from the space for every lut kernel."""
    passes = tvm.transform.Sequential([*pipeline.lut_passes(target), *pipeline.legalize_passes(target)])
    with target:
        mod = passes(module_of(LAYERS))
        for gv, func in mod.functions_items():
            if not gv.name_hint.startswith("lut_"):
                continue
            spaces = (rule().apply(func, target, True) for rule in RULES)
            space = next((s for s in spaces if s is not None), None)
            if space is not None:
                mod[gv] = space.mod["main"].with_attr("tirx.is_scheduled", True)
    return mod


@pytest.mark.parametrize("isa", ["avx2", "avx512_vbmi"])
def test_samples_differ_and_compute_the_same(isa: str) -> None:
    target = Target(TARGETS[isa])
    seen = set()
    for _ in range(4):
        mod = _sampled(target)
        seen.add(mod.script())
        with target:
            scheduled = tvm.transform.Sequential(pipeline.schedule_passes())(mod)
        built = pipeline.codegen(scheduled, TARGETS[isa])
        for layer, y in zip(LAYERS, execute(built.executable, inputs_of(LAYERS), TARGETS[isa]), strict=True):
            check(layer, y)
    assert len(seen) > 1
