"""Price operators on AArch64 cores that are not here, beside ideal float32 and 8-bit matrix kernels priced alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lutc.benchmark import ideal_gemm
from lutc.benchmark.machine import versions
from lutc.benchmark.operator_layer import make_layer
from lutc.benchmark.operators import Operator
from lutc.benchmark.simulated_report import CAVEAT, SimulatedReport, SimulatedRow
from lutc.cost_model.arm_cores import Core, core_of
from lutc.cost_model.block_counts import Executed, execute
from lutc.cost_model.llvm_tools import llvm_version
from lutc.cost_model.simulate import KernelCost, check_tools, price
from lutc.errors import VerifyError
from lutc.runtime.emulator import cpu_for
from lutc.runtime.kernel_program import Call
from lutc.targets import Target, parse_target


def simulate_operators(
    operators: Sequence[Operator],
    *,
    target: str | Target,
    progress: Callable[[str], None] = lambda name: None,
) -> SimulatedReport:
    """Price whole operators, float32 in to float32 out with bias and relu, on the core of a target, on one thread.

    Each is compiled, run once under qemu and compared with the definition; the blocks it executed are priced by a model
    of the core (see `lutc.cost_model.simulate`). Nothing is timed. Ctrl-C ends the run early with the rows that are
    complete.

    Raises
    ------
    TargetError : the target names no core that has a model, or a tool is missing (llvm-mca, llvm-objdump, qemu).
    VerifyError : a kernel's result is wrong.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    core, ghz = core_of(goal)
    check_tools()
    rows: list[SimulatedRow] = []
    remarks = [CAVEAT]
    interrupted = False
    try:
        for operator in operators:
            progress(operator.name)
            rows.append(_row(operator, goal, core, ghz))
    except KeyboardInterrupt:
        interrupted = True
        remarks.append(f"Interrupted: {len(rows)} of {len(operators)} operators were simulated.")
    if any(row.library_calls for row in rows):
        remarks.append("Calls into the C library have no price: those rows are too low.")
    details = {
        "simulated": True, "target": goal.name, "core": core.name, "clock_ghz": ghz, "model": core.source,
        "versions": {**versions(["lutc", "apache-tvm"]), "llvm": str(llvm_version())},
    }  # fmt: skip
    return SimulatedReport(rows, details, remarks, interrupted)


def _row(operator: Operator, target: Target, core: Core, ghz: float) -> SimulatedRow:
    from lutc.benchmark.operator_kernels import OperatorKernels, part_of

    o, layer = operator, make_layer(operator)
    kernels = OperatorKernels(layer, target)
    with tempfile.TemporaryDirectory(prefix="lutc-simulate-") as scratch:
        objects = [Path(scratch) / "kernels.o", Path(scratch) / "gemm.o"]
        kernels.save_object(objects[0])
        ideal = ideal_gemm.build(o.depth, target, objects[1])
        calls = [Call(name, tuple(np.from_dlpack(t) for t in arguments)) for name, arguments in kernels.steps]
        done = execute(objects, [*calls, *ideal.calls], cpu=_cpu(target))
    layer.check(done[len(calls) - 1].result.reshape(o.output_shape), kernels.table_bits)
    _check_ideal(ideal, done[len(calls) :])
    costs = [price(executed, core) for executed in done]
    parts, gemm = {part_of(cost.symbol): cost for cost in costs[: len(calls)]}, costs[len(calls) :]
    total = sum(cost.cycles for cost in parts.values())
    gemm_cycles = (gemm[0].cycles, gemm[1].cycles, gemm[2].cycles)
    return SimulatedRow(
        name=o.name, k=o.num_centroids, v=o.subvector_len, encode=o.encode_dtype, target=target.name, core=core.name,
        num_codebooks=o.num_codebooks, rows=o.positions, outputs=o.outputs, kernel=kernels.kernel,
        table_bits=kernels.table_bits, clock_ghz=ghz, cycles=total,
        parts={name: _part(cost) for name, cost in parts.items()},
        float_gemm_cycles=ideal.float_cycles(o, gemm_cycles), int8_gemm_cycles=ideal.int8_cycles(o, gemm_cycles),
        hot_stack_accesses=sum(cost.hot_stack_accesses for cost in parts.values()),
        library_calls=sum(cost.library_calls for cost in parts.values()),
    )  # fmt: skip


def _cpu(target: Target) -> str:
    """The micro-kernels need dot products, also beside an operator that does without."""
    return cpu_for({*target.requires, "asimddp"})


def _part(cost: KernelCost) -> dict[str, float]:
    return {"cycles": cost.cycles, "instructions": cost.instructions, "hot_cycles": cost.hot_cycles}


def _check_ideal(ideal: ideal_gemm.IdealGemm, done: Sequence[Executed]) -> None:
    for executed, expected in zip(done, ideal.expected, strict=True):
        if not np.allclose(executed.result, expected, rtol=1e-3, atol=1e-3):
            raise VerifyError(
                f"{executed.symbol} is wrong", where="the matrix kernels that operators are compared with",
                reason="its result differs from the definition, so its price means nothing",
                fix="report this as a bug in lutc, with the target",
            )  # fmt: skip
