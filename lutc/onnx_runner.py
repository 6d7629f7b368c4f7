"""Run an ONNX model and fetch any of its tensors: ONNX Runtime where it is installed, else onnx's own reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lutc.errors import VerifyError


class OnnxRunner:
    """A loaded model that gives its outputs and chosen intermediate float32 tensors.

    Parameters
    ----------
    model : the model; its own outputs come first.
    fetch : names of further tensors; names of graph inputs are allowed.
    source : what the model is called in errors.

    Raises
    ------
    VerifyError : the model cannot be loaded.
    """

    def __init__(self, model: onnx.ModelProto, fetch: Sequence[str], source: str) -> None:
        self._source = source
        inputs = {value.name for value in model.graph.input}
        self.outputs = [value.name for value in model.graph.output]
        self._fetched_inputs = [name for name in fetch if name in inputs]
        self._names = list(dict.fromkeys([*self.outputs, *(name for name in fetch if name not in inputs)]))
        self._run = _load(_with_outputs(model, self._names), source)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs and fetched tensors by name. Raises VerifyError when the run fails."""
        try:
            values = self._run(self._names, dict(feeds))
        except Exception as error:
            raise _failed("the model cannot be run", self._source, error) from error
        outputs: dict[str, Any] = dict(zip(self._names, values, strict=True))
        return outputs | {name: feeds[name] for name in self._fetched_inputs}


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    for name in names:
        if name not in present:
            extended.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return extended


def _load(model: onnx.ModelProto, source: str):
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model).run
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    except Exception as error:
        raise _failed("ONNX Runtime cannot load the model", source, error) from error


def _failed(message: str, source: str, error: Exception) -> VerifyError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return VerifyError(
        message,
        where=source,
        reason=lines[0] if lines else type(error).__name__,
        fix="check that ONNX Runtime runs the model on these inputs",
    )
