"""Counted and priced runs of small kernels whose loops are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutc.cost_model.arm_cores import core_of
from lutc.cost_model.block_counts import Executed, execute
from lutc.cost_model.machine_code import Block
from lutc.cost_model.simulate import price
from lutc.errors import VerifyError
from lutc.runtime.kernel_program import Call
from lutc.targets import parse_target
from tests.cost_model.simulation import need_simulation

_OUTER, _INNER = 7, 600  # too long to be unrolled whole


def _kernel() -> Any:
    """out[i] = sum_j a[i, j] * b[j] in two loops of 16-byte vectors that cannot be made into one."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def known_loops(
        a: T.Buffer((_OUTER, _INNER, 4), "float32"), b: T.Buffer((_INNER, 4), "float32"),
        out: T.Buffer((_OUTER, 4), "float32"),
    ):  # fmt: skip
        T.func_attr({"global_symbol": "known_loops", "tirx.noalias": True})
        for i in T.serial(_OUTER):
            acc = T.alloc_buffer((4,), "float32")
            acc[T.ramp(0, 1, 4)] = T.broadcast(T.float32(0), 4)
            for j in T.serial(_INNER):
                acc[T.ramp(0, 1, 4)] = acc[T.ramp(0, 1, 4)] + a[i, j, T.ramp(0, 1, 4)] * b[j, T.ramp(0, 1, 4)]
            out[i, T.ramp(0, 1, 4)] = acc[T.ramp(0, 1, 4)]

    return known_loops


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Executed], np.ndarray]:
    need_simulation()
    import tvm

    path: Path = tmp_path_factory.mktemp("simulate") / "kernel.o"
    target = tvm.target.Target(parse_target("cortex-a76").llvm())
    tvm.compile(tvm.IRModule({"known_loops": _kernel()}), target=target).mod.write_to_file(str(path))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((_OUTER, _INNER, 4), np.float32), rng.standard_normal((_INNER, 4), np.float32)
    first, second = np.zeros((_OUTER, 4), np.float32), np.zeros((_OUTER, 4), np.float32)
    calls = [Call("known_loops", (a, b, first)), Call("known_loops", (a, b, second))]
    return execute([path], calls, cpu="cortex-a76"), (a * b).sum(1)


def test_counts_are_those_of_the_loops(executed: tuple[list[Executed], np.ndarray]) -> None:
    calls, _ = executed
    assert len(calls) == 2 and calls[0].blocks == calls[1].blocks
    multiplies = sum(
        block.count * sum(text.startswith(("fmul v", "fmla v")) for text in block.instructions)
        for block in calls[0].blocks
    )
    lanes = {"str q": 1, "stp q": 2}
    stores = sum(block.count * lanes.get(text[:5], 0) for block in calls[0].blocks for text in block.instructions)
    assert (multiplies, stores) == (_OUTER * _INNER, _OUTER)
    assert max(block.count for block in calls[0].blocks) >= _INNER // 8  # LLVM keeps a loop
    assert calls[0].library_calls == 0


def test_results_come_back(executed: tuple[list[Executed], np.ndarray]) -> None:
    calls, expected = executed
    for call in calls:
        np.testing.assert_allclose(call.result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", ["cortex-a55", "cortex-a76", "cortex-x1"])
def test_a_price_is_at_least_the_decoder_and_at_most_the_latency(executed, target: str) -> None:
    core, _ = core_of(parse_target(target))
    cost = price(executed[0][0], core)
    assert cost.instructions == sum(block.executed for block in executed[0][0].blocks)
    assert cost.instructions / core.decode <= cost.cycles < 20 * cost.instructions
    assert 0 < cost.hot_cycles <= cost.cycles and cost.hot_stack_accesses == 0


def test_known_throughputs() -> None:
    """Instructions that do not wait for each other: two vector pipes on the A76, four on the X1, one on the A55."""
    need_simulation()
    adds = Block(tuple(f"add v{i}.16b, v{i + 16}.16b, v31.16b" for i in range(8)), 1000)
    reads = Block(tuple(f"tbl v{i}.16b, {{ v30.16b, v31.16b }}, v{i + 16}.16b" for i in range(8)), 1000)
    for target, add, read in (("cortex-a76", 4, 4), ("cortex-x1", 2, 4), ("cortex-a55", 8, 16)):
        core, _ = core_of(parse_target(target))
        for block, cycles in ((adds, add), (reads, read)):
            cost = price(Executed("f", [block], np.zeros(0), 0), core)
            assert cost.cycles / block.count == pytest.approx(cycles, rel=0.02)


def test_stack_accesses_count_in_hot_blocks_only() -> None:
    spill, rest = ("ldr q0, [sp, #16]", "str q0, [sp, #16]"), ("add x0, x0, #1",) * 4
    core, _ = core_of(parse_target("cortex-a55"))
    blocks = [Block((*spill, *rest), 100), Block(spill, 1)]
    assert price(Executed("f", blocks, np.zeros(0), 0), core).hot_stack_accesses == 200


def test_innermost_loops_are_hot_blocks_that_run_about_as_often_as_any() -> None:
    core, _ = core_of(parse_target("cortex-a55"))
    loop, behind = ("add x0, x0, #1",) * 20, ("add x0, x0, #1",) * 400
    blocks = [Block(loop, 100), Block(loop[:10], 60), Block(behind, 10), Block(loop[:1], 100)]
    assert price(Executed("f", blocks, np.zeros(0), 0), core).hot_cycles == 100 * 10 + 60 * 5


def test_a_kernel_that_fails_says_so(tmp_path: Path, executed) -> None:
    import tvm

    path = tmp_path / "kernel.o"
    target = tvm.target.Target(parse_target("cortex-a76").llvm())
    tvm.compile(tvm.IRModule({"known_loops": _kernel()}), target=target).mod.write_to_file(str(path))
    wrong = np.zeros((_OUTER, 5), np.float32)
    with pytest.raises(VerifyError, match="a simulated run failed") as raised:
        execute([path], [Call("known_loops", (wrong, wrong, wrong))])
    assert "known_loops" in raised.value.reason
