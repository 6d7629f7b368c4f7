"""Models of AArch64 cores: corrections, the issue bound of the in-order core, and what has no model."""

from __future__ import annotations

import shutil

import pytest

from lutc.cost_model import llvm_tools
from lutc.cost_model.arm_cores import core_of
from lutc.cost_model.arm_issue import issue_cycles
from lutc.errors import TargetError
from lutc.targets import parse_target


def test_which_core_prices_which_target() -> None:
    assert core_of(parse_target("cortex-a76"))[0].llvm_cpu == "neoverse-n1"
    assert core_of(parse_target("raspberry-pi-5")) == (core_of(parse_target("neoverse-n1"))[0], 2.4)
    assert core_of(parse_target("cortex-x1,-dotprod"))[0].llvm_cpu == "neoverse-v1"
    assert core_of(parse_target("arm64-dotprod,cpu=neoverse-n2"))[0].llvm_cpu == "neoverse-n2"
    assert core_of(parse_target("cortex-a55"))[0].llvm_cpu == ""


@pytest.mark.parametrize("target", ["arm64", "cortex-a72", "x86-64-v3"])
def test_a_target_without_a_model(target: str, golden) -> None:
    with pytest.raises(TargetError) as raised:
        core_of(parse_target(target))
    golden(f"error: {raised.value}", f"cost_model/no-model-{target}.txt")


def test_tbl_of_one_and_two_registers_is_one_operation_on_the_x1() -> None:
    x1, a76 = core_of(parse_target("cortex-x1"))[0], core_of(parse_target("cortex-a76"))[0]
    assert x1.rewrite("tbl v4.16b, { v1.16b, v2.16b }, v3.16b") == "add z4.b, z1.b, z3.b"
    assert x1.rewrite("tbl v4.16b, { v1.16b }, v3.16b") == "add z4.b, z1.b, z3.b"
    three = "tbl v4.16b, { v1.16b, v2.16b, v3.16b }, v3.16b"
    assert x1.rewrite(three) == three and a76.rewrite("tbl v4.16b, { v1.16b }, v3.16b").startswith("tbl")


@pytest.mark.parametrize(
    ("instructions", "cycles"),
    [
        (["tbl v0.16b, { v1.16b, v2.16b }, v3.16b"], 2),
        (["sadalp v0.8h, v1.16b", "add v0.16b, v1.16b, v2.16b", "add v0.8b, v1.8b, v2.8b"], 3.5),
        (["ldr q0, [x1]", "ldp q1, q2, [x1, #16]", "ldr d0, [x2]", "ldp x0, x1, [x2]"], 9),
        (["ld1r { v0.4s }, [x0]", "ld1 { v0.16b, v1.16b }, [x0]", "stp q0, q1, [x1]", "str q0, [x1]"], 8),
        (["add x0, x0, #1", "subs x1, x1, #1", "b.ne ."], 1.5),
        (["sdot v0.4s, v1.16b, v2.4b[0]"] * 8 + ["ldr q0, [x0]"] * 4, 8),
    ],
)
def test_issue_bound(instructions: list[str], cycles: float) -> None:
    assert issue_cycles(instructions) == cycles


def test_missing_tools_say_what_to_install(monkeypatch: pytest.MonkeyPatch, golden) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    llvm_tools._find.cache_clear()
    try:
        with pytest.raises(TargetError) as raised:
            llvm_tools.llvm_tool("llvm-mca")
    finally:
        llvm_tools._find.cache_clear()
    golden(f"error: {raised.value}", "cost_model/no-llvm.txt")


def test_an_old_llvm_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/llvm-mca" if name == "llvm-mca" else None)
    for version, path in ((14, None), (21, "/usr/bin/llvm-mca")):
        monkeypatch.setattr(llvm_tools, "_version", lambda path, version=version: version)
        llvm_tools._find.cache_clear()
        assert llvm_tools._find("llvm-mca") == path
    llvm_tools._find.cache_clear()
