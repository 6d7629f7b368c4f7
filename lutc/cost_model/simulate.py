"""What kernels would take on an AArch64 core: executed blocks, each priced by a model of the core's pipeline.

Caches that always hit, branches that are always foreseen and an unlimited store buffer are assumed: this ranks kernels
and guards against regressions; it is no measurement.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from lutc.cost_model.arm_cores import Core
from lutc.cost_model.arm_issue import issue_cycles
from lutc.cost_model.block_counts import Executed
from lutc.cost_model.llvm_tools import llvm_tool
from lutc.cost_model.machine_code import FEATURES, Block
from lutc.runtime import emulator

_PRICED = 0.997  # share of executed instructions whose blocks are priced; the others take as long on average
_HOT = 0.05  # share of executed instructions that makes a block hot
_ITERATIONS = 200
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class KernelCost:
    """One call of a kernel on a core.

    cycles, instructions : of the whole call.
    hot_cycles : of the innermost loops: hot blocks that run at least half as often as any of them.
    hot_stack_accesses : loads and stores relative to the stack pointer that were executed in hot blocks: spilled
        registers.
    library_calls : calls into the C library, which have no price.
    """

    symbol: str
    cycles: float
    instructions: int
    hot_cycles: float
    hot_stack_accesses: int
    library_calls: int


def check_tools() -> None:
    """Raise TargetError, with what to install, unless everything a simulation runs is here."""
    for name in ("llvm-objdump", "llvm-mca"):
        llvm_tool(name)
    emulator.command()


def price(executed: Executed, core: Core) -> KernelCost:
    """Price a call on a core. Raises TargetError without llvm-mca."""
    total = sum(block.executed for block in executed.blocks)
    chosen, covered = [], 0
    for block in sorted(executed.blocks, key=lambda block: -block.executed):
        if covered >= _PRICED * total:
            break
        chosen.append(block)
        covered += block.executed
    cycles = [block.count * each for block, each in zip(chosen, block_cycles(chosen, core), strict=True)]
    hot = [block for block in chosen if block.executed > _HOT * total]
    often = max((block.count for block in hot), default=0) / 2
    loops = sum(each for each, block in zip(cycles, chosen, strict=True) if block in hot and block.count >= often)
    return KernelCost(
        executed.symbol, sum(cycles) * total / covered, total, loops,
        sum(block.stack_accesses * block.count for block in hot), executed.library_calls,
    )  # fmt: skip


def block_cycles(blocks: Sequence[Block], core: Core) -> list[float]:
    """Cycles of one execution of each block, as part of a loop of nothing else."""
    if not core.llvm_cpu:
        return [issue_cycles(block.instructions) for block in blocks]
    source = []
    for number, block in enumerate(blocks):
        body = "\n".join(map(core.rewrite, block.instructions))
        source.append(f"# LLVM-MCA-BEGIN block{number}\n{body}\n# LLVM-MCA-END\n")
    command = [llvm_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core.llvm_cpu}", f"-mattr={FEATURES}"]
    command += [f"-iterations={_ITERATIONS}", "-resource-pressure=0", "-instruction-info=0"]
    command += [f"-dispatch={core.dispatch}"] if core.dispatch else []
    done = subprocess.run(command, input="".join(source), capture_output=True, text=True, check=False)
    cycles = [int(found) / _ITERATIONS for found in _CYCLES.findall(done.stdout)]
    if done.returncode or len(cycles) != len(blocks):
        raise RuntimeError(f"llvm-mca cannot read the kernels: {done.stderr[-2000:]}")
    return [max(each, len(block.instructions) / core.decode) for each, block in zip(cycles, blocks, strict=True)]
