"""Simulated operators, beside ideal matrix kernels. The numbers are the model's: they do not depend on this machine."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lutc.benchmark.operators import parse_operator
from lutc.benchmark.simulated_report import SimulatedReport, SimulatedRow
from lutc.benchmark.simulated_suite import simulate_operators
from lutc.errors import TargetError
from tests.cost_model.simulation import need_simulation


@pytest.mark.parametrize(("target", "fp32", "int8"), [("cortex-a76", 8, 32), ("cortex-x1", 16, 64)])
def test_operator_beside_ideal_kernels(target: str, fp32: int, int8: int) -> None:
    """The ideal kernels run near the most multiply-adds a cycle that the core can do, and not above."""
    need_simulation()
    text = "dense 24x256 -> 64" if target == "cortex-a76" else "conv2d 4x10x10 -> 8 3x3"
    (row,) = simulate_operators([parse_operator(text)], target=target).rows
    products = row.rows * row.num_codebooks * row.v * row.outputs
    if target == "cortex-a76":  # deep enough for the loop to count
        assert 0.9 * fp32 < products / row.float_gemm_cycles <= fp32
        assert 0.5 * int8 < products / row.int8_gemm_cycles <= int8
    assert set(row.parts) >= {"encode", "read"} and row.library_calls == 0
    assert row.cycles == pytest.approx(sum(part["cycles"] for part in row.parts.values()))
    plain = row.to_dict()
    assert plain["simulated"] is True and plain["ms"] == pytest.approx(row.cycles / row.clock_ghz / 1e6)
    assert plain["read_loop_per_16_lookups"] <= plain["read_per_16_lookups"]
    assert plain["encode_per_subvector"] * row.rows * row.num_codebooks == pytest.approx(row.parts["encode"]["cycles"])


def test_mistakes() -> None:
    with pytest.raises(TargetError, match="cannot be simulated"):
        simulate_operators([], target="arm64")


def test_interrupted() -> None:
    need_simulation()

    def progress(name: str) -> None:
        raise KeyboardInterrupt

    report = simulate_operators([parse_operator("dense 20x32 -> 8")], target="cortex-a76", progress=progress)
    assert report.rows == [] and report.interrupted
    assert "Interrupted: 0 of 1 operators were simulated." in report.notes()


def test_text(golden) -> None:
    part = {"cycles": 1000.0, "instructions": 3000, "hot_cycles": 900.0}
    row = SimulatedRow(
        name="conv 64->64 3x3 @56", k=16, v=9, encode="int8", target="cortex-a76", core="Neoverse N1",
        num_codebooks=64, rows=3136, outputs=64, kernel="shuffle isa", table_bits=8, clock_ghz=2.5, cycles=2.5e6,
        parts={"quantize": part, "encode": {**part, "cycles": 2007040.0}, "read": {**part, "cycles": 802816.0}},
        float_gemm_cycles=1.5e7, int8_gemm_cycles=4e6, hot_stack_accesses=0,
    )  # fmt: skip
    details = {"simulated": True, "target": "cortex-a76", "clock_ghz": 2.5}
    report = SimulatedReport([row], details, ["A note."])
    golden(str(report), "benchmark/simulated.txt")
    plain = json.loads(report.to_json())
    assert plain["report"] == "simulated operators" and plain["rows"][0]["encode_per_subvector"] == 10
    assert plain["rows"][0]["read_per_16_lookups"] == 1 and plain["rows"][0]["float_gemm_ratio"] == 6


def test_quantizing_is_part_of_an_8_bit_layer() -> None:
    from lutc.benchmark.ideal_gemm import IdealGemm, _calls

    gemm: IdealGemm = _calls(8)
    o = parse_operator("dense 16x64 -> 32")
    assert gemm.float_cycles(o, (10.0, 5.0, 4096.0)) == 80
    assert gemm.int8_cycles(o, (10.0, 5.0, 4096.0)) == 40 + 16 * 64
    assert [call.arguments[-1].dtype for call in gemm.calls] == [np.float32, np.float32, np.int8]
