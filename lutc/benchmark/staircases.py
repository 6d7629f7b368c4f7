"""Kernels that turn activations into integer levels, one a method: what the LLT paper's Table II compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lutc.targets import Target

ELEMENTS = 56 * 56 * 64
BITS = 4
_STEP = np.float32(0.2)


@dataclass(frozen=True)
class StaircaseKernel:
    """A method on ELEMENTS activations of BITS bits, float32 in, bytes out."""

    name: str
    method: str
    call: Callable[[], object]


def staircase_kernels(target: Target) -> list[StaircaseKernel]:
    """PACT, LLT and any thresholds as lutc compiles them; QNet and QIL as they are published.

    PACT rounds and clips. LLT reads a table of 9 cells a step. QNet counts thresholds. QIL raises to a power, then
    rounds. Any thresholds (nuLSQ, and QNet or QIL after training): an index, and one comparison where the ISA can.
    """
    from tvm.target import Target as TVMTarget

    from tvm_ext.compute.staircase import Staircase, plan_staircase
    from tvm_ext.target import best_isa

    llvm = target.llvm()
    isa = best_isa(TVMTarget(dict(llvm)))
    product, count = isa.product, 2**BITS - 1
    rng = np.random.default_rng(0)
    values = np.arange(count + 1)
    even = np.array([_reaches(k + 0.5, _STEP) for k in range(count)], np.float32)
    fine = np.float32(_STEP / np.float32(9))
    cells = np.arange(count) * 9 + rng.integers(0, 9, count)
    table = np.array([_reaches(c + 0.5, fine) for c in cells], np.float32)
    any_thresholds = np.cumsum(rng.uniform(0.1, 0.3, count)).astype(np.float32)
    settings = {
        "fused": product.fused, "tables": product.table_entries, "cells": 32 if product.permute_words else 0,
        "truncates": product.truncates,
    }  # fmt: skip
    plans = {
        "PACT, uniform": plan_staircase(even, values, **settings),
        "LLT, table": plan_staircase(table, values, **settings),
        "any thresholds": plan_staircase(any_thresholds, values, **settings),
        "QNet, compare and count": Staircase("count", any_thresholds, values),
    }
    x = np.abs(rng.standard_normal((ELEMENTS // 64, 64), np.float32)) * np.float32(1.3)
    found = [StaircaseKernel(name, plan.method, _compiled(plan, x, product, llvm)) for name, plan in plans.items()]
    return [*found, StaircaseKernel("QIL, power and round", "power", _power(x, llvm))]


def _reaches(half: float, step: np.float32) -> np.float32:
    """The least float32 that, divided by `step`, rounds up from `half`."""
    x = np.float32(half * float(step))
    for _ in range(8):
        x = np.nextafter(x, np.float32(0))
    while np.rint(x / step) < half:
        x = np.nextafter(x, np.float32(np.inf))
    return x


def _compiled(plan: Any, x: np.ndarray, product: Any, llvm: dict[str, Any]) -> Callable[[], object]:
    import tvm

    from tvm_ext.compute.level_vectors import table_constants
    from tvm_ext.compute.levels_input import LevelsInput
    from tvm_ext.compute.levels_kernel import levels_kernel
    from tvm_ext.compute.product import Plane

    rows, width = x.shape
    source = LevelsInput(1, width, 1, rows, channels_last=True, is_matrix=True)
    kernel = levels_kernel(plan, source, Plane(1, 1, rows, width), "uint8", 0, product)
    function = tvm.compile(kernel, target=tvm.target.Target(llvm))["levels"]
    out = tvm.runtime.empty((1, 1, rows, width), "uint8")
    arguments = [tvm.runtime.tensor(x), *map(tvm.runtime.tensor, table_constants(plan).values()), out]
    function(*arguments)
    expected = plan.values[(x[:64, :, None] >= plan.thresholds).sum(-1)]
    assert (out.numpy()[0, 0, :64] == expected).all(), "the kernel differs from its definition"
    return lambda: function(*arguments)


def _power(x: np.ndarray, llvm: dict[str, Any]) -> Callable[[], object]:
    """round(clip(0.5 x, 0, 1)^0.7 * 15)"""
    import tvm
    from tvm import te, tirx

    a = te.placeholder(x.shape, "float32", name="x")
    one, zero = tirx.const(1, "float32"), tirx.const(0, "float32")
    b = te.compute(
        x.shape,
        lambda *i: tirx.nearbyint(
            tirx.power(te.max(te.min(a[i] * tirx.const(0.5, "float32"), one), zero), tirx.const(0.7, "float32")) * 15.0
        ).astype("uint8"),
        name="y",
    )
    function = tvm.compile(
        te.create_prim_func([a, b]).with_attr("global_symbol", "power"), target=tvm.target.Target(llvm)
    )["power"]
    arguments = [tvm.runtime.tensor(x), tvm.runtime.empty(x.shape, "uint8")]
    return lambda: function(*arguments)
