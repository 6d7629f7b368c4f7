"""ONNX to Relax: TVM's importer, extended by the lutc operators and by names for conv and dense layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import onnx.checker
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from lutc.errors import LutcError, ModelImportError
from lutc.importers.codebooks import Codebooks
from lutc.importers.input_shapes import InputShapes, graph_inputs, static_shapes
from lutc.importers.lut_call import lut_call
from lutc.importers.lut_layer import LUTLayer, layer_error
from lutc.importers.onnx_domains import STANDARD_DOMAINS
from lutc.importers.onnx_file import without_large_tensors
from lutc.importers.onnx_fold import fold_shapes
from lutc.importers.onnx_graph import all_nodes, describe, name_nodes, prepare
from lutc.importers.onnx_layers import convert_layer
from lutc.importers.onnx_lut_nodes import read_lut_nodes
from lutc.importers.onnx_support import check_supported
from lutc.importers.palette import expand_palettes
from lutc.importers.quantizer import Quantizer, quantizer_error, read_quantizers
from lutc.importers.relax_types import static_shape, tensor_specs
from lutc.model import Model

_CHECKER_LIMIT = 2**31  # the checker serializes the model, which protobuf cannot do beyond 2 GB


def import_onnx(
    model: onnx.ModelProto,
    *,
    source: str,
    source_sha256: str,
    codebooks: Codebooks | None = None,
    input_shapes: InputShapes | None = None,
) -> Model:
    """Import an annotated or float ONNX model; ``model`` may be changed.

    Raises
    ------
    ModelImportError : the model is not valid ONNX, has operators without a converter, inputs without a fixed shape,
        or inconsistent lutc nodes.
    """
    _check_valid(model, source)
    name_nodes(model.graph)
    places = {node.name: describe(index, node) for index, node in enumerate(all_nodes(model.graph))}
    expand_palettes(model, source)
    model = prepare(model)
    shapes = static_shapes(model.graph, input_shapes, source)
    model = fold_shapes(model, shapes)
    check_supported(model, source)
    layers = read_lut_nodes(model.graph, source, places)
    quantizers = read_quantizers(model.graph, source, places)
    importer = _Importer(shapes, layers, quantizers, places, source)
    mod = importer.run(model)
    inputs = [value.name for value in graph_inputs(model.graph)]
    outputs = [value.name for value in model.graph.output]
    return Model(mod, source, source_sha256, *tensor_specs(mod, inputs, outputs, source), codebooks, places)


class _Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer with more converters. tests/importers pins what is overridden here."""

    def __init__(
        self, shapes: Mapping[str, list[int]], layers: Mapping[str, LUTLayer], quantizers: Mapping[str, Quantizer],
        places: Mapping[str, str], source: str,
    ) -> None:  # fmt: skip
        super().__init__(dict(shapes), "float32")
        self._layers, self._quantizers, self._places, self._source = layers, quantizers, places, source

    def run(self, model: onnx.ModelProto) -> tvm.IRModule:
        opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns about every renamed input
                return self.from_onnx(model.graph, opset)
        except _ConversionFailed as failure:
            raise failure.error from failure.error.__cause__
        except Exception as error:
            raise _import_error(self._source, error) from error

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """check_supported has done this, for all operators, branches and domains."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> relax.Expr:
        name = attrs["tvm_custom"]["name"]
        place = f"{self._source}, {self._places.get(name, name)}"
        try:
            if name in self._layers:
                return self._convert_lut(self._layers[name], inputs[0])
            if name in self._quantizers:
                return self._convert_quantizer(self._quantizers[name], inputs[0], place)
            converted = convert_layer(self.bb, op_name, inputs, attrs)
            if converted is None:
                converted = super()._convert_operator(op_name, inputs, attrs, opset)
            # bound now: a call nested in another would be rebuilt there, without its span
            return self.bb.emit(converted) if isinstance(converted, relax.Call) else converted
        except LutcError as error:
            raise _ConversionFailed(error) from error
        except Exception as error:
            raise _ConversionFailed(_import_error(place, error)) from error

    def _convert_lut(self, layer: LUTLayer, x: relax.Expr) -> relax.Expr:
        shape = static_shape(x)
        problem = ("the shape of its input is not fixed", "export the model with fixed shapes")
        if shape is not None:
            problem = layer.input_problem(shape)
        if problem is not None:
            raise layer_error([(self._places.get(layer.name, layer.name), problem)], self._source)
        return self.bb.emit(lut_call(layer, x))

    def _convert_quantizer(self, quantizer: Quantizer, x: relax.Expr, place: str) -> relax.Expr:
        problem = quantizer.input_problem(static_shape(x) or ())
        if problem is not None:
            raise quantizer_error(place, problem)
        return self.bb.emit(quantizer.call(x))


class _ConversionFailed(BaseException):
    """Carries an error past TVM's `except Exception`, which would print the node's inputs to stdout."""

    def __init__(self, error: LutcError) -> None:
        super().__init__(error)
        self.error = error


def _check_valid(model: onnx.ModelProto, source: str) -> None:
    try:
        light = without_large_tensors(model)  # damaged text shows here
        if light.ByteSize() < _CHECKER_LIMIT:
            onnx.checker.check_model(light)
    except Exception as error:
        raise ModelImportError(
            "the model is not valid ONNX",
            where=source,
            reason=_first_line(error),
            fix="export it again; `python -m onnx.checker` tells more",
        ) from error


def _import_error(where: str, error: Exception) -> ModelImportError:
    return ModelImportError(
        "cannot import the model",
        where=where,
        reason=_first_line(error),
        fix="export the model with another opset or without this operator; a fixed --input-shape may help",
    )


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
