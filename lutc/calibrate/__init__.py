"""Codebooks for a float ONNX model by k-means on sample inputs; needs numpy and onnx only (onnxruntime is faster)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lutc.calibrate.data import SampleData
from lutc.calibrate.kmeans import assign, kmeans, means
from lutc.calibrate.layers import FloatLayer, Geometry, choose_layers
from lutc.calibrate.metric import metric_root, output_metric
from lutc.calibrate.rows import RowSample
from lutc.config import LUTConfig
from lutc.errors import InputError, LutcError, ModelImportError
from lutc.files import check_writable
from lutc.importers.codebook import Codebook, inverse_scale
from lutc.importers.codebooks import Codebooks
from lutc.importers.input_shapes import graph_inputs
from lutc.importers.onnx_file import load_onnx
from lutc.importers.onnx_graph import prepare
from lutc.onnx_runner import OnnxRunner

__all__ = ["calibrate", "calibrate_file"]

Progress = Callable[[str, str, float], None]
_Reads = tuple[str, "Geometry | None", int]  # tensor, how it is cut, subvector length
_log = logging.getLogger(__name__)


def calibrate(
    model: str | os.PathLike[str] | onnx.ModelProto,
    data: Any,
    config: LUTConfig | None = None,
    *,
    layers: Sequence[str] | None = None,
    keep_float: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Codebooks:
    """Learn codebooks for the conv and dense layers of a float model.

    Every layer's input is taken from the float model, cut into subvectors, and clustered (product quantization: Jegou,
    Douze and Schmid, 2011; for layers: LUT-NN, Tang et al., 2023, section 3), by the errors that this makes in the
    layer's outputs, or with metric="inputs" by Euclidean distances. Layers that read one tensor the same way get the
    same codebooks, so their codes are computed once. A first conv on an image stays float unless ``layers`` names it.

    Parameters
    ----------
    model : path of an .onnx file, or a ModelProto (left unchanged). The batch size may be open.
    data : {input name: array [samples, ...]}, or one array for a model with one input.
    config : settings of every layer; LUTConfig() by default.
    layers : shell patterns of the layers to take; None takes all that can become tables.
    keep_float : shell patterns of layers to leave out.
    samples : use the first so many samples; None uses all. Memory does not grow with it.
    seed : the same data and seed give the same codebooks.
    progress : called as ``progress(phase, message, seconds)``; None logs.

    Raises
    ------
    ModelImportError : the model cannot be read.
    InputError : the data does not fit the model, or holds NaN.
    LoweringError : no layer can become a table, or a pattern matches none.
    VerifyError : the model cannot be run.
    """
    config, tell = config or LUTConfig(), progress or _log_progress
    _check_config(config)
    start = time.perf_counter()
    prepared, source = _prepare(model)
    chosen, skipped = choose_layers(prepared, source, layers, keep_float)
    for name, reason in skipped.items():
        _log.info("%s stays float: %s", name, reason)
    inputs = SampleData(graph_inputs(prepared.graph), data, samples, "data")
    floats = f"; {', '.join(skipped)} stay float" if skipped else ""
    tell("layers", f"{len(chosen)} of {len(chosen) + len(skipped)} can become lookup tables{floats}", _since(start))

    start = time.perf_counter()
    reads = {layer.name: _reads(layer, config) for layer in chosen}
    rows = _collect(prepared, source, inputs, dict.fromkeys(reads.values()), seed)
    tell("inputs", f"{inputs.count} samples in batches of {inputs.batch}", _since(start))

    start = time.perf_counter()
    weights = {key: [layer.weight for layer in chosen if reads[layer.name] == key] for key in rows}
    clustered = {key: _cluster(sample, key[2], weights[key], config, seed) for key, sample in rows.items()}
    tell("k-means", f"{sum(len(parts['centroids']) for parts in clustered.values())} codebooks", _since(start))
    return Codebooks(_codebook(name, clustered[key], config) for name, key in reads.items())


def calibrate_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: LUTConfig | None = None,
    layers: Sequence[str] | None = None,
    keep_float: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Codebooks:
    """`calibrate` from an .npz or .npy file into a codebook file, which is written in one step.

    Raises
    ------
    ModelImportError : also when ``output`` exists and ``overwrite`` is not set, or its folder does not.
    """
    from lutc.inputs import load_inputs

    check_writable(output, ModelImportError, overwrite=overwrite)
    proto = load_onnx(model)
    specs = [_Named(value.name) for value in graph_inputs(proto.graph)]
    arrays = load_inputs(data, specs)  # type: ignore[arg-type]  (only names are looked at)
    codebooks = calibrate(
        proto, arrays, config, layers=layers, keep_float=keep_float, samples=samples, seed=seed, progress=progress
    )
    codebooks.save(output)
    return codebooks


def _check_config(config: LUTConfig) -> None:
    if config.encoder != "l2":
        raise InputError(
            "cannot calibrate this kind of codebook",
            where="config",
            reason=f"k-means finds centroids for closest-centroid search, not for encoder={config.encoder!r}",
            fix='use encoder="l2"',
        )
    if config.table_bits != 8:
        raise LutcError(
            f"cannot calibrate for tables of {config.table_bits} bits",
            where="config.table_bits",
            reason="a codebook file holds centroids; the tables made of them have 8 bits",
            fix="leave table_bits at 8, or train with lutc.nn",
        )


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def _prepare(model: str | os.PathLike[str] | onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    if not isinstance(model, onnx.ModelProto):
        return prepare(load_onnx(model)), str(Path(model))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return prepare(copy), f"ModelProto {model.graph.name!r}"


def _reads(layer: FloatLayer, config: LUTConfig) -> _Reads:
    kernel = layer.geometry.kernel_shape if layer.geometry else None
    return layer.input, layer.geometry, config.subvector_len_for(kernel)


def _collect(
    model: onnx.ModelProto, source: str, inputs: SampleData, reads: dict[_Reads, None], seed: int
) -> dict[_Reads, RowSample]:
    """Run the model on every batch and sample the rows of each distinct input; layers share where they can."""
    samples = {key[:2]: RowSample(key[1], seed) for key in reads}
    runner = OnnxRunner(model, [tensor for tensor, _ in samples], source)
    for batch in inputs:
        values = runner.run(batch)
        for (tensor, _), sample in samples.items():
            _check_values(values[tensor], tensor, source)
            sample.add(values[tensor])
    return {key: samples[key[:2]] for key in reads}


def _check_values(values: np.ndarray, tensor: str, source: str) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            "the model computes values that are not numbers",
            where=f'{source}, tensor "{tensor}"',
            reason="it holds NaN or infinity on the sample data",
            fix="check that the data is prepared as the model expects, and that the model runs well on it",
        )


def _cluster(
    sample: RowSample, length: int, weights: Sequence[np.ndarray], config: LUTConfig, seed: int
) -> dict[str, Any]:
    """centroids, metric, inv_scale and input_signed for the rows that layers with these weights [M, D] read."""
    assert sample.rows is not None and sample.low is not None and sample.high is not None
    count = -(-sample.rows.shape[1] // length)
    pad = count * length - sample.rows.shape[1]
    data = np.pad(sample.rows, ((0, 0), (0, pad))).reshape(-1, count, length).transpose(1, 0, 2)
    data = np.ascontiguousarray(data)
    found: dict[str, Any] = {"input_signed": bool((sample.low < 0).any())}
    if config.metric == "outputs":
        found["metric"] = output_metric(weights, count, length).astype(np.float32)
        seen = (data @ metric_root(found["metric"])).astype(np.float32)
        codes, _ = assign(seen, kmeans(seen, config.num_centroids, seed=seed))
        found["centroids"] = means(data, codes, config.num_centroids)
    else:
        found["centroids"] = kmeans(data, config.num_centroids, seed=seed)
    if config.grid is None:
        return found
    low = np.pad(sample.low, (0, pad)).reshape(count, length).min(1)
    high = np.pad(sample.high, (0, pad)).reshape(count, length).max(1)
    return found | {"inv_scale": inverse_scale(low, high, found["input_signed"], config.grid)}


def _codebook(name: str, parts: dict[str, Any], config: LUTConfig) -> Codebook:
    options = {option: getattr(config, option) for option in ("encode_dtype", "encoder", "table_dtype")}
    return Codebook(name, **parts, **options)


def _since(start: float) -> float:
    return time.perf_counter() - start


def _log_progress(phase: str, message: str, seconds: float) -> None:
    _log.info("%s: %s (%.1f s)", phase, message, seconds)
