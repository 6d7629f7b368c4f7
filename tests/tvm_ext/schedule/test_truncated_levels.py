"""The kernel that reads upper halves gives the levels of the definition, in any layout, on and beside thresholds."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tvm

from tests import oracle_levels
from tests.execute import skip_unless_runnable
from tests.tvm_ext.learned_tables import F, beside, learned_thresholds
from tests.tvm_ext.schedule.assembly import busiest, innermost_loops, kernel_lines
from tests.tvm_ext.targets import TARGETS
from tvm_ext.compute.level_vectors import table_constants
from tvm_ext.compute.levels_input import LevelsInput
from tvm_ext.compute.levels_kernel import levels_kernel
from tvm_ext.compute.product import Plane
from tvm_ext.compute.staircase import Staircase, plan_staircase
from tvm_ext.tensor_intrin import get_isa

_PRODUCT = get_isa("avx512_vbmi").product
_TARGET = TARGETS["avx512_vbmi"]
# (source, plane): rows that fill the plane, or not; padded channels; images with few, odd and many channels
_LAYOUTS = {
    "matrix": (LevelsInput(1, 64, 1, 20, channels_last=True, is_matrix=True), Plane(1, 1, 20, 64)),
    "matrix, odd": (LevelsInput(1, 70, 1, 9, channels_last=True, is_matrix=True), Plane(1, 1, 12, 80)),
    "matrix, wider plane": (LevelsInput(1, 144, 1, 7, channels_last=True, is_matrix=True), Plane(1, 1, 8, 144)),
    "matrix, narrow": (LevelsInput(1, 21, 1, 5, channels_last=True, is_matrix=True), Plane(1, 1, 5, 32)),
    "last, bordered": (LevelsInput(2, 20, 5, 7, 1, 2, channels_last=True), Plane(2, 7, 11, 20)),
    "last, whole": (LevelsInput(2, 12, 6, 9, channels_last=True), Plane(2, 6, 9, 12)),
    "image": (LevelsInput(1, 32, 6, 7, 1, 1), Plane(1, 8, 9, 32)),
    "image, odd": (LevelsInput(2, 37, 5, 9, 1, 0), Plane(2, 6, 9, 40)),
    "image, few": (LevelsInput(1, 3, 8, 18, 1, 1), Plane(1, 10, 20, 4)),
    "image, small": (LevelsInput(1, 17, 3, 3), Plane(1, 3, 3, 20)),
}


@functools.cache
def _plans() -> dict[str, Staircase]:
    found = {}
    for name, bits, signed, offset in (("uint8", 4, False, 0), ("int8", 4, True, -7)):
        t = learned_thresholds(bits, 9, 2, twice=True, signed=signed)
        found[name] = plan_staircase(t, np.arange(2**bits) + offset, scale=None, truncates=True)
        assert found[name].truncated is not None
    rounded = ((np.arange(15) * 9 + np.random.default_rng(3).integers(0, 9, 15) + 0.5) * 0.0123).astype(F)
    found["cells"] = plan_staircase(rounded, np.arange(0, 160, 10), truncates=True)
    assert found["cells"].method != "grid" and found["cells"].truncated is not None
    exact = ((np.cumsum([3, 1, 7, 19, 1, 16, 17, 26, 11, 9, 9, 1]) + 0.5) / 8).astype(F)
    found["trusted"] = plan_staircase(exact, np.arange(13), truncates=True)
    assert found["trusted"].truncated is not None and not found["trusted"].truncated.doubtful
    return found


def _inputs(source: LevelsInput, thresholds: np.ndarray, near: bool) -> np.ndarray:
    rng, far = np.random.default_rng(1), float(np.abs(thresholds).max())
    x = rng.uniform(-1.4 * far, 1.4 * far, source.shape).astype(F)
    if near:
        edges = np.array([0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e10, -1e10], F)
        chosen = rng.random(source.shape) < 0.3
        x[chosen] = rng.choice(np.concatenate([beside(thresholds), edges]), int(chosen.sum()))
    return x


def _expected(plan: Staircase, source: LevelsInput, plane: Plane, x: np.ndarray, pad: int) -> np.ndarray:
    values = plan.values[oracle_levels.codes(x, plan.thresholds)]
    if source.is_matrix:
        values = values[None, None]
    elif not source.channels_last:
        values = values.transpose(0, 2, 3, 1)
    out = np.zeros(plane.shape, np.int64)
    out[..., : source.channels] = pad
    top, left = source.top, source.left
    out[:, top : top + source.height, left : left + source.width, : source.channels] = values
    out[:, top : top + source.height, left : left + source.width, source.channels :] = 0
    return out


@pytest.mark.parametrize("near", [False, True], ids=["spread", "near"])
@pytest.mark.parametrize("kind", ["uint8", "int8", "cells", "trusted"])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_levels_are_exact(layout: str, kind: str, near: bool) -> None:
    skip_unless_runnable(_TARGET)
    plan, (source, plane) = _plans()[kind], _LAYOUTS[layout]
    dtype, pad = ("int8", -1) if kind == "int8" else ("uint8", 2)
    kernel = levels_kernel(plan, source, plane, dtype, pad, _PRODUCT)
    built = tvm.compile(kernel, target=tvm.target.Target(_TARGET))["levels"]
    x, out = _inputs(source, plan.thresholds, near), tvm.runtime.tensor(np.full(plane.shape, 99, dtype))
    built(tvm.runtime.tensor(x), *map(tvm.runtime.tensor, table_constants(plan).values()), out)
    expected = _expected(plan, source, plane, x, pad)
    where = (slice(None), slice(source.top, source.top + source.height), slice(source.left, source.left + source.width))
    np.testing.assert_array_equal(out.numpy()[where], expected[where])
    if layout.startswith("image") or layout == "last, bordered":
        np.testing.assert_array_equal(out.numpy()[..., : source.channels], expected[..., : source.channels])


def test_a_vector_takes_nineteen_operations() -> None:
    """For 64 values: no conversion, no clipping of floats, one pack, two permutations; one is the table's."""
    source, plane = LevelsInput(1, 64, 1, 64, channels_last=True, is_matrix=True), Plane(1, 1, 64, 64)
    kernel = levels_kernel(_plans()["uint8"], source, plane, "uint8", 0, _PRODUCT)
    assembly = tvm.compile(kernel, target=tvm.target.Target(_TARGET)).mod.inspect_source("asm")
    body = [line for line in kernel_lines(assembly, "levels") if "zmm" in line]
    quick = body[: max(n for n, line in enumerate(body) if "vfmadd" in line and "rz-sae" in line) + 16]
    found = [line.split()[0] for line in quick]
    vectors = found.count("vpacksswb")
    assert vectors == 8 and found.count("vpermb") == vectors
    assert found.count("vpermi2b") + found.count("vpermt2b") == vectors
    assert sum("rz-sae" in line for line in quick) == 4 * vectors
    assert found.count("vpternlogd") == found.count("vpsrld") == found.count("vpsubusw") == 2 * vectors
    assert not {"vcvtps2dq", "vminps", "vmaxps", "vpermt2w", "vpermi2w"} & set(found)
    assert not any("%rsp" in line for line in body)
    assert busiest(innermost_loops(kernel_lines(assembly, "levels")), "vpackusdw").mnemonics["vcvtps2dq"] > 0
