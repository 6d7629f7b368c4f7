"""Time operators beside other engines that run the float layer behind each, in turns, in one process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lutc.benchmark.baselines import (
    BASELINES,
    PACKAGES,
    onnxruntime_run,
    openvino_run,
    quantize_int8,
    usable_engines,
)
from lutc.benchmark.clock import CLOCK_CYCLES, clock_call, nominal_ghz
from lutc.benchmark.machine import amx_in_use, cpu_flags, cpu_name, versions
from lutc.benchmark.onnx_operator import FloatLayer, save_float_operator
from lutc.benchmark.operator_layer import make_layer
from lutc.benchmark.operator_report import OperatorReport, OperatorRow
from lutc.benchmark.operators import Operator
from lutc.benchmark.protocol import Timing, pinned, time_in_turns
from lutc.benchmark.stream import stream_call
from lutc.cost_model import LayerShape, bound, find_peak
from lutc.targets import Target, check_runs_here, parse_target

if TYPE_CHECKING:
    from lutc.benchmark.operator_kernels import OperatorKernels

_SAMPLE_US = 20.0
_STREAMED = 256 << 10  # bytes of table from which on loading them is timed; smaller ones come from near caches
_OURS, _CLOCK, _STREAM = "lutc", "clock", "stream"
Call = Callable[[], object]


def benchmark_operators(
    operators: Sequence[Operator],
    *,
    baselines: Sequence[str] = BASELINES,
    target: str | Target = "native",
    threads: int = 1,
    repeat: int = 100,
    progress: Callable[[str], None] = lambda name: None,
) -> OperatorReport:
    """Time whole operators, float32 in to float32 out with bias and relu, each beside the same float layer.

    Each result is compared with the definition before it is timed. Everything is pinned to `threads` CPUs; caches are
    warm. Ctrl-C ends the run early with the rows that are complete, and a note that says so.

    Parameters
    ----------
    operators : see `operator_suite` and `parse_operator`.
    baselines : engines to compare with; those that are not installed are left out with a note.
    target : what to compile for; this machine must run it.
    repeat : samples of each engine, in turns of 10; one lasts at least 20 us.
    progress : called with the name of each operator before it is made.

    Raises
    ------
    TargetError : the target is unknown or this machine cannot run it.
    VerifyError : an engine is unknown or cannot run an operator, or a kernel's result is wrong.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    check_runs_here(goal)
    engines, remarks = usable_engines(baselines)
    rows: list[OperatorRow] = []
    interrupted = False
    with pinned(threads) as cpus:
        prepare_tvm(threads)
        try:
            clock = clock_call()
            for operator in operators:
                progress(operator.name)
                rows.append(_measure(operator, engines, goal, threads, repeat, clock))
        except KeyboardInterrupt:
            interrupted = True
            remarks.append(f"Interrupted: {len(rows)} of {len(operators)} operators were measured.")
    details = machine_details(goal, threads, cpus, repeat, engines)
    return OperatorReport(rows, details, [*remarks, *_reading(engines)], interrupted)


def _measure(
    operator: Operator, engines: Sequence[str], target: Target, threads: int, repeat: int, clock: Call | None
) -> OperatorRow:
    from lutc.benchmark.operator_kernels import OperatorKernels

    layer = make_layer(operator)
    kernels = OperatorKernels(layer, target)
    kernels()
    layer.check(kernels.result(), kernels.table_bits)
    with tempfile.TemporaryDirectory(prefix="lutc-bench-") as folder:
        calls: dict[str, Call] = {_OURS: kernels, **baseline_calls(engines, layer, threads, Path(folder))}
        calls |= {_CLOCK: clock} if clock else {}
        table, streamed = _shape(operator, kernels).table_bytes, 0
        if table >= _STREAMED and not kernels.gathers:
            calls[_STREAM], streamed = stream_call(table, target.llvm())
        timings = time_in_turns(calls, repeat=repeat, least_us=_SAMPLE_US)
        parts = time_in_turns(kernels.parts(), repeat=repeat, least_us=_SAMPLE_US)
    ghz = CLOCK_CYCLES / timings.pop(_CLOCK).min_us / 1e3 if clock else nominal_ghz()
    cache = streamed / timings.pop(_STREAM).min_us / 1e3 if streamed else None
    parts_us = {name: timing.min_us for name, timing in parts.items()}
    return _row(operator, kernels, target, threads, timings, parts_us, ghz, cache)


def _shape(o: Operator, kernels: OperatorKernels) -> LayerShape:
    return LayerShape(
        o.positions,
        o.num_codebooks,
        o.num_centroids,
        o.subvector_len,
        o.outputs,
        o.encode_dtype,
        kernels.gathers,
        o.encoder,
    )


def baseline_calls(engines: Sequence[str], layer: FloatLayer, threads: int, folder: Path) -> dict[str, Call]:
    if not engines:
        return {}
    inputs = {"x": layer.x}
    model = save_float_operator(layer, folder / "float.onnx")
    int8 = quantize_int8(model, [inputs], folder) if any(name.endswith("-int8") for name in engines) else model
    calls: dict[str, Call] = {}
    for name in engines:
        if name == "openvino-int8":
            calls[name] = openvino_run(int8, inputs, threads)
        else:
            calls[name] = onnxruntime_run(int8 if name.endswith("-int8") else model, inputs, threads, name, bound=True)
    return calls


def _row(
    operator: Operator, kernels: OperatorKernels, target: Target, threads: int, timings: dict[str, Timing],
    parts_us: dict[str, float], ghz: float | None, cache: float | None,
) -> OperatorRow:  # fmt: skip
    o, ours, shape = operator, timings[_OURS], _shape(operator, kernels)
    peak = find_peak(kernels.isa) if threads == 1 and ghz else None
    least = bound(shape, peak, ghz, cache).total_us if peak is not None and ghz else None
    return OperatorRow(
        name=o.name, k=o.num_centroids, v=o.subvector_len, encode=o.encode_dtype, target=target.name, threads=threads,
        num_codebooks=o.num_codebooks, rows=o.positions, outputs=o.outputs, kernel=kernels.kernel,
        lutc=ours, parts_us=parts_us,
        baselines={name: timing for name, timing in timings.items() if name != _OURS},
        lookups_per_ns=shape.lookups / ours.min_us / 1e3,
        table_gb_per_s=kernels.table_traffic / ours.min_us / 1e3,
        bound_us=least, bound_share=None if least is None else least / ours.min_us, clock_ghz=ghz, cache_gb_per_s=cache,
        encoder=o.encoder,
    )  # fmt: skip


def prepare_tvm(threads: int) -> None:
    """The number of threads, also where TVM was loaded with another one before; and Ctrl-C reaches us through TVM."""
    import tvm  # noqa: F401 (its library holds the functions that set the number)
    import tvm_ffi

    from lutc.runtime.threads import leave_threads_unbound, use_threads

    leave_threads_unbound()
    use_threads(threads)
    tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)


def machine_details(
    target: Target, threads: int, cpus: list[int], repeat: int, engines: Sequence[str]
) -> dict[str, Any]:
    packages = ["lutc", "apache-tvm", *dict.fromkeys(PACKAGES[name] for name in engines)]
    return {
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
        "target": target.name,
        "threads": threads,
        "pinned_to_cpus": cpus,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "samples": repeat,
        "versions": versions(packages),
    }


def _reading(engines: Sequence[str]) -> list[str]:
    """How to read the columns."""
    told = ["Ratios are the engine's time over ours: above 1 the table is faster. The bound is a model."]
    if engines and amx_in_use():
        told.append(
            "An engine of this process asked for AMX, the matrix unit of this CPU: its int8 times may be AMX's."
        )
    return told
