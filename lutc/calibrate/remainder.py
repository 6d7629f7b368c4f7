"""`--remainder int8`: the layers that are not tables are measured on calibration inputs and get 8-bit integers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from lutc.calibrate.data import SampleData
from lutc.calibrate.layers import Geometry
from lutc.calibrate.rows import RowSample
from lutc.errors import InputError, LoweringError
from lutc.inputs import load_inputs
from lutc.targets import Target, parse_target

if TYPE_CHECKING:
    from lutc.model import Model

REMAINDERS = ("float32", "int8")
_ROWS = 1024
"""Rows of a layer's input that scales are fitted to and errors are measured on."""


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What one layer read: the range of all values, and rows float32 [n, D], at most `_ROWS`, drawn by chance."""

    low: float
    high: float
    rows: np.ndarray


def check_remainder(remainder: str, calibration: object) -> None:
    """Raises LoweringError for a kind of remainder that there is not, InputError where inputs do not go with it."""
    if remainder not in REMAINDERS:
        raise LoweringError(
            f"cannot compute the remainder in {remainder!r}", where="--remainder",
            reason="layers that are not lookup tables are computed in float32, or in int8 with scales from inputs",
            fix=f"choose from {', '.join(REMAINDERS)}",
        )  # fmt: skip
    if remainder == "int8" and calibration is None:
        raise InputError(
            "an int8 remainder needs calibration inputs", where="--remainder int8",
            reason="the scales of activations are fitted to what the layers read",
            fix="give some inputs that the model will see: --calibration inputs.npz",
        )  # fmt: skip
    if remainder != "int8" and calibration is not None:
        raise InputError(
            "calibration inputs have no use here", where="--calibration",
            reason=f"a remainder in {remainder} has no scales to fit",
            fix="add --remainder int8, or leave --calibration out (codebooks are made by lutc calibrate)",
        )  # fmt: skip


def load_calibration(model: Model, calibration: Any) -> SampleData:
    """Inputs in the model's batches: from {input name: array}, one array, or an .npz or .npy file.

    Raises InputError where they cannot be read or do not fit the model.
    """
    where = "calibration"
    if isinstance(calibration, (str, os.PathLike)):
        calibration, where = load_inputs(calibration, model.inputs), str(Path(calibration))
    inputs = [
        helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
        for spec in model.inputs
    ]
    return SampleData(inputs, calibration, None, where)


def measure_inputs(mod: Any, names: Sequence[str], data: SampleData, inputs: Sequence[Any]) -> dict[str, LayerInput]:
    """What the named float layers of a rewritten module read on `data`; the module is compiled for this machine.

    inputs : the model's, in order.

    Raises InputError where a layer reads NaN or infinity.
    """
    import tvm
    from tvm import relax

    from tvm_ext import pipeline
    from tvm_ext.transform import expose_inputs, remainder_layers

    exposed, calls = expose_inputs(mod, set(names))
    geometries = {layer.name: layer.geometry for layer in remainder_layers(mod)}
    samples = {name: RowSample(_geometry(geometries[name]), 0, _ROWS) for name in names}
    built = pipeline.build(exposed, parse_target("native").llvm(), table_bits=8)
    main = relax.VirtualMachine(built.executable, tvm.cpu())["main"]
    for batch in data:
        values = main(*(tvm.runtime.tensor(batch[spec.name]) for spec in inputs))
        for name, item in calls:
            value = values[item].numpy()
            _check_finite(value, name)
            samples[name].add(value)
    return {name: _layer_input(sample) for name, sample in samples.items()}


def quantize_remainder(
    model: Model, mod: Any, target: Target, data: SampleData, kept: Mapping[str, str], instruments: Sequence[Any] = ()
) -> tuple[Any, str]:
    """(the rewritten module with its float layers in int8, what became of them in words).

    kept : layer name -> why it stays float.
    """
    from tvm_ext import pipeline
    from tvm_ext.transform import add_layer_rows, layer_rows, remainder_layers

    layers = remainder_layers(mod)
    reasons = {layer.name: layer.reason or kept.get(layer.name, "") for layer in layers}
    names = [layer.name for layer in layers if not reasons[layer.name]]
    floats = {name: reason for name, reason in reasons.items() if reason}
    mod = add_layer_rows(mod, [
        {"name": layer.name, "op": layer.op, "kind": "float", "reason": floats[layer.name]}
        for layer in layers if layer.name in floats
    ])  # fmt: skip
    if not names:
        return mod, _told([], floats)
    measured = measure_inputs(mod, names, data, model.inputs)
    mod = pipeline.quantize_remainder(mod, target.llvm(), measured, instruments)
    return mod, _told([row for row in layer_rows(mod) if row["name"] in measured], floats)


def _told(rows: Sequence[Mapping[str, Any]], floats: Mapping[str, str]) -> str:
    told = "no float layer becomes int8"
    if rows:
        worst = max(rows, key=lambda row: row["level_error"])
        layers = "float layer becomes" if len(rows) == 1 else "float layers become"
        told = f"{len(rows)} {layers} int8 (off by {worst['level_error']:.1%} at most, {worst['name']})"
    groups: dict[str, list[str]] = {}
    for name, why in floats.items():
        groups.setdefault(why, []).append(name)
    kept = (
        f"{', '.join(names)} {'stays' if len(names) == 1 else 'stay'} float: {why}" for why, names in groups.items()
    )
    return "; ".join([told, *kept])


def _layer_input(sample: RowSample) -> LayerInput:
    assert sample.rows is not None and sample.low is not None and sample.high is not None
    return LayerInput(float(sample.low.min()), float(sample.high.max()), sample.rows)


def _geometry(values: Mapping[str, Any] | None) -> Geometry | None:
    return None if values is None else Geometry(**values)


def _check_finite(value: np.ndarray, name: str) -> None:
    if not np.isfinite(value).all():
        raise InputError(
            "the model computes values that are not numbers", where=f'layer "{name}"',
            reason="it reads NaN or infinity on the calibration inputs",
            fix="check that the inputs are prepared as the model expects, and that the model runs well on them",
        )  # fmt: skip
