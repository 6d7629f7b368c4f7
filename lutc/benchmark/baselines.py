"""Other engines to compare with. Each becomes a function without arguments that runs the model once."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lutc.errors import VerifyError
from lutc.targets import host_flags

BASELINES = ("onnxruntime", "onnxruntime-int8", "openvino-int8")
"""Engines that operators and artifacts are compared with by default."""
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-int8": "onnxruntime",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "openvino-int8": "openvino",
    "tvm": "apache-tvm",
}
_VNNI = {"avx512_vnni", "avx_vnni"}
Inputs = Mapping[str, np.ndarray]
Call = Callable[[], object]


def check_baselines(names: tuple[str, ...]) -> None:
    """Raise VerifyError for an unknown engine or one that is not installed."""
    for name in names:
        check_known((name,))
        _package(name)
        if name.endswith("-int8"):  # ONNX Runtime makes the int8 model, whoever runs it
            _onnxruntime(name)


def check_known(names: tuple[str, ...]) -> None:
    """Raise VerifyError for an unknown engine."""
    for name in names:
        if name not in PACKAGES:
            raise _error(name, "no engine has this name", f"use {' or '.join(BASELINES)}")


def why_missing(name: str) -> str:
    """Why an engine cannot be used here and what to do about it, or ""."""
    try:
        check_baselines((name,))
    except VerifyError as error:
        return f"{error.reason} ({error.fix})"
    return ""


def usable_engines(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that can be used here, and a sentence about each that cannot. Raises VerifyError for an unknown engine."""
    check_known(tuple(names))
    missing = {name: why for name in names if (why := why_missing(name))}
    told = [f"{name} is left out: {why}." for name, why in missing.items()]
    return [name for name in names if name not in missing], told


def baseline_run(name: str, model: Path, inputs: Inputs, threads: int) -> Call:
    """A function that runs an .onnx file in an engine; see `onnxruntime_run`."""
    if PACKAGES[name] == "openvino":
        return openvino_run(model, inputs, threads, name)
    if name == "tvm":
        return tvm_run(model, inputs)
    return onnxruntime_run(model, inputs, threads, name)


def onnxruntime_run(
    model: Path, inputs: Inputs, threads: int, name: str = "onnxruntime", *, bound: bool = False
) -> Call:
    """Run an .onnx file in ONNX Runtime; inputs go by name, or by position where the names differ.

    bound : inputs and outputs stay in place between runs and nothing is returned; the least overhead there is.

    Raises VerifyError when ONNX Runtime cannot load the model or run it on these inputs.
    """
    ort = _onnxruntime(name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        feed = _feed([value.name for value in session.get_inputs()], inputs, model)
        results = session.run(None, feed)
    except _onnxruntime_errors() as error:
        raise _cannot_run(name, model, error) from error
    return _bound_call(ort, session, feed, results) if bound else lambda: session.run(None, feed)


def _bound_call(ort: Any, session: Any, feed: dict[str, np.ndarray], results: list[np.ndarray]) -> Call:
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
    for value, result in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(value.name, ort.OrtValue.ortvalue_from_numpy(result))
    return lambda: session.run_with_iobinding(binding)


def openvino_run(model: Path, inputs: Inputs, threads: int, name: str = "openvino-int8") -> Call:
    """Run an .onnx file in OpenVINO on the CPU, for least latency; inputs and outputs stay.

    Layers are computed in the file's precision, or, as "openvino-bf16", where OpenVINO can in bfloat16.

    Raises VerifyError when OpenVINO cannot load the model or run it on these inputs.
    """
    openvino = _package(name)
    try:
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if name.endswith("-bf16") else "f32",
        }
        compiled = openvino.Core().compile_model(str(model), "CPU", settings)
        request = compiled.create_infer_request()
        feed = _feed([value.get_any_name() for value in compiled.inputs], inputs, model)
        for name, array in feed.items():
            request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(array)))
        request.infer()
    except (RuntimeError, ValueError) as error:
        raise _cannot_run(name, model, error) from error
    return lambda: request.infer(share_outputs=True)


def tvm_run(model: Path, inputs: Inputs) -> Call:
    """Run an .onnx file in TVM with its default pipeline for the CPU, which schedules nothing and takes far longer."""
    import tvm
    from tvm import relax

    from lutc.importers import import_model
    from lutc.targets import parse_target

    target = tvm.target.Target(dict(parse_target("native").llvm()))
    machine = relax.VirtualMachine(relax.build(import_model(model).mod, target), tvm.cpu())
    arguments = [tvm.runtime.tensor(array) for array in inputs.values()]
    return lambda: machine["main"](*arguments)


def quantize_int8(model: Path, samples: list[Inputs], folder: Path) -> Path:
    """An int8 copy of a float .onnx model: static QDQ, per channel, calibrated on the samples; written into `folder`.

    Weights have 7 bits where this machine's instructions for products of 8 bits saturate their pairwise sums at 16 (x86
    without VNNI), as ONNX Runtime advises: with 8 its results may be far off.

    Raises VerifyError when ONNX Runtime cannot quantize the model.
    """
    _onnxruntime("onnxruntime-int8")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
    try:
        with _quiet_root_logger():
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantized),
                _Reader(prepared, samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=platform.machine() in ("x86_64", "AMD64") and not host_flags() & _VNNI,
            )
    except Exception as error:  # the quantizer raises whatever its many passes meet
        raise VerifyError(
            "onnxruntime-int8 cannot quantize the model",
            where=str(model),
            reason=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            fix="compare with --baseline onnxruntime only, or give the float model it was made from",
        ) from error
    return quantized


class _Reader:
    """What the quantizer asks for samples: one at a time, then None."""

    def __init__(self, model: Path, samples: list[Inputs]) -> None:
        import onnx

        graph = onnx.load(str(model), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in weights]
        self._samples = iter([_feed(names, inputs, model) for inputs in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def _feed(names: list[str], inputs: Inputs, model: Path) -> dict[str, np.ndarray]:
    if set(names) == set(inputs):
        return dict(inputs)
    if len(names) != len(inputs):
        raise VerifyError(
            "the model does not match the artifact",
            where=str(model),
            reason=f"it takes {', '.join(names)}; the artifact takes {', '.join(inputs)}",
            fix="give the model the artifact was compiled from, or the float model before that",
        )
    return dict(zip(names, inputs.values(), strict=True))


def _package(name: str) -> Any:
    """The engine's Python package."""
    if PACKAGES[name] == "onnxruntime":
        return _onnxruntime(name)
    if name == "tvm":
        return None  # lutc needs it itself
    try:
        import openvino
    except ImportError as error:
        raise _error(name, "openvino is not installed", 'pip install "lutc[openvino]"') from error
    return openvino


def _onnxruntime(name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _error(name, "onnxruntime is not installed", 'pip install "lutc[bench]"') from error
    return onnxruntime


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (*(getattr(state, kind) for kind in kinds), RuntimeError, ValueError)


def _cannot_run(name: str, model: Path, error: Exception) -> VerifyError:
    lines = str(error).strip().splitlines()
    return VerifyError(
        f"{name} cannot run the model",
        where=str(model),
        reason=lines[0] if lines else type(error).__name__,
        fix="give a model with the inputs of the artifact: lutc inspect shows both",
    )


def _error(name: str, reason: str, fix: str) -> VerifyError:
    return VerifyError(f"cannot compare with {name}", where=f"baseline {name}", reason=reason, fix=fix)


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantizer logs advice to the root logger that nobody asked for."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
