"""Other engines to compare with. Each becomes a function without arguments that runs the model once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lutc.errors import VerifyError

BASELINES = ("onnxruntime", "onnxruntime-int8")
Inputs = Mapping[str, np.ndarray]


def check_baselines(names: tuple[str, ...]) -> None:
    """Raise VerifyError for an unknown engine or one that is not installed."""
    for name in names:
        if name not in BASELINES:
            raise _error(name, "no engine has this name", f"use {' or '.join(BASELINES)}")
        _onnxruntime(name)


def onnxruntime_run(model: Path, inputs: Inputs, threads: int, name: str = "onnxruntime") -> Callable[[], object]:
    """Run an .onnx file in ONNX Runtime; inputs go by name, or by position where the names differ.

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
        session.run(None, feed)
    except _onnxruntime_errors() as error:
        raise VerifyError(
            f"{name} cannot run the model",
            where=str(model),
            reason=str(error).strip().splitlines()[0],
            fix="give a model with the inputs of the artifact: lutc inspect shows both",
        ) from error
    return lambda: session.run(None, feed)


def quantize_int8(model: Path, samples: list[Inputs], folder: Path) -> Path:
    """An int8 copy of a float .onnx model: static QDQ, per channel, calibrated on the samples; written into `folder`.

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
