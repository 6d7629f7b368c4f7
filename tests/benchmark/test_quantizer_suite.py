"""The quantizer suite on small operators: what it tells, and that a wrong kernel is not timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lutc.benchmark import staircases
from lutc.benchmark.operators import parse_operator
from lutc.benchmark.protocol import Timing
from lutc.benchmark.quantized_layer import QuantizedKernels, make_quantized, quantized_suite
from lutc.benchmark.quantizer_report import QuantizedRow, QuantizerReport, StaircaseRow
from lutc.benchmark.quantizer_suite import benchmark_quantizers
from lutc.errors import VerifyError
from lutc.targets import parse_target

CONV, DENSE = parse_operator("conv2d 8x6x6 -> 12 3x3"), parse_operator("dense 1x48 -> 20")


def test_the_suite_covers_conv_and_dense_at_4_3_and_2_bits() -> None:
    found = {(o.is_conv, bits) for o, bits in quantized_suite()}
    assert found == {(conv, bits) for conv in (True, False) for bits in (4, 3, 2)}
    assert any(o.rows == 1 and o.inputs * o.outputs > 4 << 20 for o, _ in quantized_suite() if not o.is_conv)


@pytest.mark.parametrize(("operator", "bits"), [(CONV, 4), (CONV, 2), (DENSE, 3)])
def test_rows_tell_times_and_ratios(operator, bits: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(staircases, "ELEMENTS", 64 * 64)
    report = benchmark_quantizers([(operator, bits)], baselines=("onnxruntime",), repeat=2)
    (row,) = report.rows
    assert row.kernel.startswith("product") and set(row.parts_us) == {"levels", "product"}
    assert row.ratio("onnxruntime")["min"] > 0 and row.weight_bytes > 0
    assert [stairs.method for stairs in report.staircases][:1] == ["grid"]
    report.save(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["report"] == "quantizers" and len(told["staircases"]) == 5 and "ratios" in told["rows"][0]


def test_a_wrong_result_is_an_error() -> None:
    layer = make_quantized(DENSE, 4)
    kernels = QuantizedKernels(layer, parse_target("native"))
    kernels()
    layer.check(kernels.result())
    with pytest.raises(VerifyError):
        replace(layer, levels=layer.levels * np.float32(1.01)).check(kernels.result())


def test_text(golden) -> None:
    time = Timing(100.0, 110.0, 10)
    row = QuantizedRow(
        "conv 64->64 3x3 @56 W4A4", 4, "x86-64-v4-vbmi", 1, "product avx512_vbmi", 115605504, 18432, time,
        {"onnxruntime": Timing(300.0, 310.0, 10)}, {"levels": 10.0, "product": 90.0}, 400.0, 0.75, 3.5,
    )  # fmt: skip
    stairs = [StaircaseRow("PACT, uniform", "grid", 4, 6400, time, 1.0)]
    golden(
        str(QuantizerReport([row], {"target": "x86-64-v4-vbmi"}, ["A remark."], staircases=stairs)),
        "benchmark/quantizers.txt",
    )
