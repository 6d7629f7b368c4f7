"""AArch64 cores whose time can be simulated: which model of LLVM prices each, and what is corrected in it.

LLVM has no model of its own for most Cortex cores: cortex-a72 to a78 and x1 are scheduled as a Cortex-A57, which is
wrong by factors of 2 to 5 for tbl, uzp and fmla. A server core with the same pipeline that has a model stands in for
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lutc.errors import TargetError
from lutc.targets import Target


@dataclass(frozen=True)
class Core:
    """A core that blocks of machine code can be priced for.

    Parameters
    ----------
    name : of the core, as Arm writes it.
    llvm_cpu : `-mcpu` of llvm-mca; "" where the issue bound of `lutc.cost_model.arm_issue` is used instead.
    decode : instructions decoded a cycle at most: no block takes less than its instructions over this.
    dispatch : micro-operations dispatched a cycle, where LLVM's number is wrong; else 0.
    one_uop_tbl : price tbl with one or two table registers as one operation of the first two vector pipes.
    source : what the numbers rest on.
    """

    name: str
    llvm_cpu: str
    decode: int
    dispatch: int = 0
    one_uop_tbl: bool = False
    source: str = ""

    def rewrite(self, instruction: str) -> str:
        """The instruction that llvm-mca is given in place of this one."""
        match = _TBL.fullmatch(instruction) if self.one_uop_tbl else None
        return _ONE_UOP.format(*match.groups()) if match else instruction


# LLVM 19 prices tbl with one or two table registers as two operations on the Neoverse V1. The optimization guides of
# its successors give one, with latency 2, on pipes V0 and V1: what LLVM's own model says of a byte addition of SVE.
_TBL = re.compile(r"tbl v(\d+)\.16b, \{ ?v(\d+)\.16b(?:, v\d+\.16b)? ?\}, v(\d+)\.16b")
_ONE_UOP = "add z{}.b, z{}.b, z{}.b"

_A55 = Core("Cortex-A55", "", 2, source="issue bound from Arm's optimization guide of the core")
_N1 = Core("Neoverse N1", "neoverse-n1", 4, source="LLVM's model of the Neoverse N1, the server form of the Cortex-A76")
_V1 = Core(
    "Neoverse V1", "neoverse-v1", 8, dispatch=8, one_uop_tbl=True,
    source="LLVM's model of the Neoverse V1, the server form of the Cortex-X1; tbl priced as one operation, "
    "8 operations dispatched a cycle (LLVM has twice as many)",
)  # fmt: skip
_N2 = Core(
    "Neoverse N2", "neoverse-n2", 5, dispatch=10,
    source="LLVM's model of the Neoverse N2, the server form of the Cortex-A710; 10 operations dispatched a cycle",
)  # fmt: skip
_V2 = Core(
    "Neoverse V2", "neoverse-v2", 8, dispatch=16,
    source="LLVM's model of the Neoverse V2, the server form of the Cortex-X3; 16 operations dispatched a cycle",
)  # fmt: skip

_CORES: dict[str, tuple[Core, float]] = {
    "cortex-a55": (_A55, 1.8),
    "cortex-a76": (_N1, 2.42),
    "cortex-a77": (_N1, 2.42),
    "raspberry-pi-5": (_N1, 2.4),
    "neoverse-n1": (_N1, 3.0),
    "graviton2": (_N1, 2.5),
    "cortex-a78": (_V1, 2.4),
    "cortex-x1": (_V1, 2.8),
    "neoverse-v1": (_V1, 2.6),
    "graviton3": (_V1, 2.6),
    "cortex-a710": (_N2, 2.5),
    "neoverse-n2": (_N2, 2.8),
    "cortex-x3": (_V2, 3.2),
    "neoverse-v2": (_V2, 3.4),
}
"""Target or CPU -> what prices it, and the clock in GHz of a usual product with it."""


def core_of(target: Target) -> tuple[Core, float]:
    """The core of a target that names one, and its clock in GHz. Raises TargetError for others."""
    name, *options = target.name.split(",")
    cpu = next((option[4:] for option in options if option.startswith("cpu=")), name)
    found = _CORES.get(cpu)
    if found is None:
        raise TargetError(
            f"the time of {target.name} cannot be simulated",
            where=f"--target {target.name} --simulate",
            reason="a simulation needs one core with a pipeline model, and this target has none",
            fix=f"name a core: --target NAME, one of {', '.join(_CORES)}; those that `lutc targets` does not list are "
            "written arm64-dotprod,cpu=NAME",
        )
    return found
