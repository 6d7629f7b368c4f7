"""Where the time of an artifact's run goes: every layer by its parts, and the rest by kernel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lutc.artifact.manifest import LayerRow
from lutc.artifact.store import Artifact, read_artifact
from lutc.benchmark.clock import CLOCK_CYCLES, clock_call, nominal_ghz
from lutc.benchmark.epilogue import ReadCall, epilogue_us
from lutc.benchmark.kernel_arguments import kernel_arguments
from lutc.benchmark.machine import cpu_name
from lutc.benchmark.operator_kernels import PARTS
from lutc.benchmark.protocol import pinned, time_in_turns
from lutc.cost_model import Bound, LayerShape, bound, find_peak
from lutc.inputs import random_inputs
from lutc.report.base import Column, Report
from lutc.targets import check_runs_here, llvm_target

Arguments = tuple[tuple[tuple[int, ...], str], ...]
_READ = "lut_lookup"
_INTEGER_PARTS = {"lut_levels": "quantize", "lut_quantized_conv2d": "product", "lut_quantized_dense": "product"}
_SYMBOL = re.compile(rf"({'|'.join([*_INTEGER_PARTS, *PARTS])})_?(.*)")


@dataclass
class ProfileRow:
    """A layer of tables (kind "lut") or of integers ("integer") with its parts, or a kernel of the float remainder.

    Parameters
    ----------
    total_us, share : microseconds of a run, and their share of all kernels.
    quantize_us, encode_us, read_us, epilogue_us : the parts; None where the layer has no such kernel, e.g. because the
        search reads floats itself, or another layer searched the same input. The epilogue (scale, bias, residual, relu,
        order and type of the result) is one kernel with the read: it is timed apart (see `epilogue`), and the read is
        the rest; None for both parts' split where it was not.
    product_us : sums of products of an integer layer, with all behind them.
    encode_bound_share, read_bound_share : the least time of the part by the cost model over its time.
    rows : N, positions that the layer computes.
    calls : kernel calls.
    encoder : "l2" or "tree", of a layer of tables.
    """

    name: str
    kind: str
    total_us: float = 0.0
    share: float = 0.0
    quantize_us: float | None = None
    encode_us: float | None = None
    read_us: float | None = None
    epilogue_us: float | None = None
    encode_bound_share: float | None = None
    read_bound_share: float | None = None
    kernel: str = ""
    rows: int | None = None
    calls: int = 0
    encoder: str | None = None
    product_us: float | None = None


@dataclass
class ProfileReport(Report):
    """Rows: ProfileRow, in the order of their first kernels."""

    details: dict[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "profile"

    def columns(self) -> Sequence[Column]:
        return [
            Column("name", "layer or kernel"),
            Column("kind", "kind"),
            Column("total_us", "us", 1),
            Column("share_percent", "% of all", 1),
            Column("quantize_us", "quantize us", 1),
            Column("encode_us", "encode us", 1),
            Column("read_us", "read us", 1),
            Column("epilogue_us", "epilogue us", 1),
            Column("product_us", "product us", 1),
            Column("encode_percent", "encode % of bound", 0),
            Column("read_percent", "read % of bound", 0),
            *([Column("encoder", "encoder")] if any(row.encoder == "tree" for row in self.rows) else []),
            Column("kernel", "kernel"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        told = [
            "Read and epilogue are one kernel; the epilogue is what it takes with one group of codebooks. "
            "The bound is a model."
        ]
        return [*_amdahl(self.rows), *told]

    def _dicts(self) -> list[dict[str, Any]]:
        percents = {
            "share_percent": "share",
            "encode_percent": "encode_bound_share",
            "read_percent": "read_bound_share",
        }
        rows = super()._dicts()
        for row in rows:
            row |= {shown: 100 * row[key] for shown, key in percents.items() if row[key] is not None}
        return rows


def split(rows: Sequence[ProfileRow]) -> dict[str, float | None]:
    """Time in lookup tables and outside of them, what free tables would bring, and how much of that there is.

    Returns
    -------
    tables_us, rest_us : microseconds of a run.
    amdahl_times : how many times faster the run would be if tables took no time, the rest as it is; None if all are
        tables.
    amdahl_share : 0..1, the speed of the run over that with free tables.
    """
    tables = sum(row.total_us for row in rows if row.kind == "lut")
    rest = sum(row.total_us for row in rows if row.kind != "lut")
    whole = tables + rest
    return {
        "tables_us": tables,
        "rest_us": rest,
        "amdahl_times": whole / rest if rest else None,
        "amdahl_share": rest / whole if whole else 0.0,
    }


def _amdahl(rows: Sequence[ProfileRow]) -> list[str]:
    """What faster tables could bring at most, as the rest stays (Amdahl's law)."""
    parts = split(rows)
    if not parts["tables_us"]:
        return [f"{parts['rest_us']:.1f} us, all of it, are spent outside of lookup tables."]
    told = f"{parts['rest_us']:.1f} us are spent outside of lookup tables and {parts['tables_us']:.1f} us in them"
    if parts["amdahl_times"] is None:
        return [f"{told}."]
    share = f"this run has {parts['amdahl_share']:.0%} of that speed"
    return [f"{told}, so free tables would make it {parts['amdahl_times']:.2f}x faster: {share}."]


def profile(
    subject: str | Path, inputs: Mapping[str, Any] | None = None, *, repeat: int = 100, threads: int = 1
) -> ProfileReport:
    """Time every kernel of an artifact, pinned to `threads` CPUs, the fastest of `repeat` runs each.

    inputs : arrays by name; None draws random ones.

    Raises
    ------
    ArtifactError, TargetError : the artifact is damaged or not for this machine.
    InputError : the inputs do not fit.
    """
    artifact = read_artifact(subject)
    manifest = artifact.manifest
    check_runs_here(manifest.target)
    with pinned(threads) as cpus:
        from lutc.runtime.session import load

        given = dict(inputs) if inputs is not None else random_inputs(manifest.inputs)
        kernels = load(artifact.path, threads=threads).profile(given, repeat=repeat)
        ghz = _ghz()
        rows = _rows(kernels, manifest.layers)
        if threads == 1:
            arguments = _read_arguments(artifact, given)
            _split_reads(rows, artifact, arguments, repeat)
            if ghz:
                _add_bounds(rows, artifact, arguments, ghz)
    total = sum(us for _, us in kernels)
    details = {
        "artifact": str(artifact.path),
        "target": manifest.target.name,
        "machine": cpu_name(),
        "threads": threads,
        "pinned_to_cpus": cpus,
        "runs": repeat,
        "clock_ghz": ghz,
        "kernels_us": total,
        **split(rows),
    }
    return ProfileReport(rows, details)


def _ghz() -> float | None:
    clock = clock_call()
    return nominal_ghz() if clock is None else CLOCK_CYCLES / time_in_turns({"": clock})[""].min_us / 1e3


def _rows(kernels: Sequence[tuple[str, float]], layers: Sequence[LayerRow]) -> list[ProfileRow]:
    names = {kind: _Names([layer.name for layer in layers if layer.kind == kind]) for kind in ("lut", "integer")}
    known = {layer.name: layer for layer in layers}
    rows: dict[tuple[str, str], ProfileRow] = {}
    total = sum(us for _, us in kernels)
    for symbol, us in kernels:
        match = _SYMBOL.fullmatch(symbol)
        kind, name = "float", symbol
        if match:
            kind = "integer" if match[1] in _INTEGER_PARTS else "lut"
            name = names[kind].layer(match[2])
        kernel, encoder = (known[name].kernel, known[name].encoder or None) if name in known else ("", None)
        row = rows.setdefault((kind, name), ProfileRow(name, kind, encoder=encoder, kernel=kernel))
        if match:
            part = f"{(PARTS | _INTEGER_PARTS)[match[1]]}_us"
            setattr(row, part, (getattr(row, part) or 0.0) + us)
        row.total_us += us
        row.share = row.total_us / total if total else 0.0
        row.calls += 1
    return list(rows.values())


class _Names:
    """Layer names from the words that kernel symbols carry: other characters than letters and digits became "_".

    Where that makes two names equal the compiler numbered the symbols, in the order of the layers.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers: dict[str, list[str]] = {}
        for name in layers:
            self._layers.setdefault(_word(name), []).append(name)

    def layer(self, word: str) -> str:
        """The layer's name, or the word itself where no layer fits."""
        for known, layers in sorted(self._layers.items(), key=lambda item: -len(item[0])):
            number = re.fullmatch(r"_?(\d*)", word.removeprefix(known)) if word.startswith(known) else None
            if number is not None and int(number[1] or 0) < len(layers):
                return layers[int(number[1] or 0)]
        return word or "(unnamed)"


def _word(name: str) -> str:
    """A layer's name as kernel symbols carry it."""
    return re.sub(r"\W+", "_", name).strip("_")


def _read_arguments(artifact: Artifact, inputs: Mapping[str, Any]) -> dict[str, Arguments]:
    """Layer -> the arguments of its table read."""
    names = _Names([layer.name for layer in artifact.manifest.layers if layer.kind == "lut"])
    found = kernel_arguments(artifact, inputs).items()
    return {names.layer(s.removeprefix(_READ).lstrip("_")): a for s, a in found if s.startswith(_READ)}


def _split_reads(
    rows: Sequence[ProfileRow], artifact: Artifact, arguments: Mapping[str, Arguments], repeat: int
) -> None:
    target = artifact.manifest.target
    llvm = llvm_target(target.triple, target.cpu, target.attrs, target.core)
    items = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in llvm.items())
    kernels = {layer.name: layer.kernel for layer in artifact.manifest.layers}
    for row in rows:
        if row.kind != "lut" or row.read_us is None or row.name not in arguments:
            continue
        kernel = kernels[row.name]
        layout = kernel.removeprefix("shuffle ") if kernel.startswith("shuffle ") else "rowwise"
        row.epilogue_us = min(epilogue_us(ReadCall(arguments[row.name], layout), items, repeat), row.read_us)
        row.read_us -= row.epilogue_us


def _add_bounds(rows: Sequence[ProfileRow], artifact: Artifact, arguments: Mapping[str, Arguments], ghz: float) -> None:
    layers = {layer.name: layer for layer in artifact.manifest.layers if layer.kind == "lut"}
    for row in rows:
        layer = layers.get(row.name) if row.kind == "lut" else None
        if layer is None:
            continue
        if row.name in arguments:
            row.rows = math.prod(arguments[row.name][-1][0]) // layer.outputs
        least = _bound(layer, row.rows, artifact, ghz) if row.rows else None
        if least is not None:
            row.encode_bound_share = least.search_us / row.encode_us if row.encode_us else None
            row.read_bound_share = least.read_us / row.read_us if row.read_us else None


def _bound(layer: LayerRow, rows: int, artifact: Artifact, ghz: float) -> Bound | None:
    isa = layer.kernel.removeprefix("shuffle ") if layer.kernel.startswith("shuffle ") else _isa(artifact)
    peak = find_peak(isa)
    if peak is None or layer.table_dtype != "int8":
        return None
    shape = LayerShape(
        rows, layer.num_codebooks, layer.num_centroids, layer.subvector_len, layer.outputs, layer.encode_dtype,
        gather=layer.kernel == "row gather", encoder=layer.encoder or "l2",
    )  # fmt: skip
    return bound(shape, peak, ghz)


def _isa(artifact: Artifact) -> str:
    from tvm.target import Target

    from tvm_ext.target import best_isa

    target = artifact.manifest.target
    return best_isa(Target(llvm_target(target.triple, target.cpu, target.attrs, target.core))).name
