"""Time scalar-quantized operators beside other engines, and ways to quantize activations beside each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lutc.benchmark.baselines import BASELINES, usable_engines
from lutc.benchmark.clock import CLOCK_CYCLES, clock_call, nominal_ghz
from lutc.benchmark.operator_suite import Call, baseline_calls, machine_details, prepare_tvm
from lutc.benchmark.operators import Operator
from lutc.benchmark.protocol import pinned, time_in_turns
from lutc.benchmark.quantized_layer import QuantizedKernels, make_quantized, quantized_suite
from lutc.benchmark.quantizer_report import QuantizedRow, QuantizerReport, StaircaseRow
from lutc.benchmark.staircases import BITS, ELEMENTS, staircase_kernels
from lutc.targets import Target, check_runs_here, parse_target

_SAMPLE_US = 20.0
_OURS, _CLOCK = "lutc", "clock"
_PRODUCTS = {"avx512_vbmi": 128}
"""int8 products a cycle: two ports of 16 lanes of 4."""


def benchmark_quantizers(
    layers: Sequence[tuple[Operator, int]] | None = None,
    *,
    baselines: Sequence[str] = BASELINES,
    target: str | Target = "native",
    threads: int = 1,
    repeat: int = 100,
    progress: Callable[[str], None] = lambda name: None,
) -> QuantizerReport:
    """Whole quantized operators, float32 in to float32 out with bias and relu; then activation quantizers alone.

    Parameters are those of `benchmark_operators`; layers : (operator, bits of weights and activations).

    Raises
    ------
    TargetError : the target is unknown or this machine cannot run it.
    VerifyError : an engine is unknown or cannot run an operator, or a kernel's result is wrong.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    check_runs_here(goal)
    engines, remarks = usable_engines(baselines)
    rows: list[QuantizedRow] = []
    staircases: list[StaircaseRow] = []
    chosen, interrupted = list(layers if layers is not None else quantized_suite()), False
    with pinned(threads) as cpus:
        prepare_tvm(threads)
        try:
            progress("activation quantizers")
            staircases = _staircases(goal, repeat)
            clock = clock_call()
            for operator, bits in chosen:
                progress(f"{operator.name} W{bits}A{bits}")
                rows.append(_measure(operator, bits, engines, goal, threads, repeat, clock))
        except KeyboardInterrupt:
            interrupted = True
            remarks.append(f"Interrupted: {len(rows)} of {len(chosen)} operators were measured.")
    details = machine_details(goal, threads, cpus, repeat, engines)
    return QuantizerReport(rows, details, remarks, interrupted, staircases)


def _staircases(target: Target, repeat: int) -> list[StaircaseRow]:
    kernels = staircase_kernels(target)
    timings = time_in_turns({kernel.name: kernel.call for kernel in kernels}, repeat=repeat, least_us=_SAMPLE_US)
    uniform = timings[kernels[0].name].min_us
    return [
        StaircaseRow(kernel.name, kernel.method, BITS, ELEMENTS, time, time.min_us / uniform)
        for kernel, time in ((kernel, timings[kernel.name]) for kernel in kernels)
    ]


def _measure(
    operator: Operator, bits: int, engines: Sequence[str], target: Target, threads: int, repeat: int, clock: Call | None
) -> QuantizedRow:
    layer = make_quantized(operator, bits)
    kernels = QuantizedKernels(layer, target)
    kernels()
    layer.check(kernels.result())
    with tempfile.TemporaryDirectory(prefix="lutc-bench-") as folder:
        calls: dict[str, Call] = {_OURS: kernels, **baseline_calls(engines, layer, threads, Path(folder))}
        calls |= {_CLOCK: clock} if clock else {}
        timings = time_in_turns(calls, repeat=repeat, least_us=_SAMPLE_US)
        parts = time_in_turns(kernels.parts(), repeat=repeat, least_us=_SAMPLE_US)
    ghz = CLOCK_CYCLES / timings.pop(_CLOCK).min_us / 1e3 if clock else nominal_ghz()
    products = operator.positions * operator.depth * operator.outputs
    parts_us = {name: timing.min_us for name, timing in parts.items()}
    isa = str(kernels.row["kernel"]).rpartition(" ")[2]
    peak = _PRODUCTS[isa] * ghz if isa in _PRODUCTS and ghz and threads == 1 else None
    rate = products / parts_us["product"] / 1e3
    return QuantizedRow(
        name=layer.name, bits=bits, target=target.name, threads=threads, kernel=str(kernels.row["kernel"]),
        products=products, weight_bytes=int(kernels.row["table_bytes"]), lutc=timings.pop(_OURS), baselines=timings,
        parts_us=parts_us, products_per_ns=rate, peak_share=None if peak is None else rate / peak, clock_ghz=ghz,
    )  # fmt: skip
