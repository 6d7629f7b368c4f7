"""`estimate`: what each layer would take as a table, in float32 and in int8, from a model of the CPU; runs nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lutc.benchmark.clock import nominal_ghz
from lutc.config import LUTConfig
from lutc.cost_model.bound import LayerShape, bound
from lutc.cost_model.peak import Peak, find_peak, host_maker
from lutc.report.base import Column, Report
from lutc.targets import Target, check_models, parse_target

if TYPE_CHECKING:
    from lutc.importers.codebooks import Codebooks
    from lutc.model import Model
    from tvm_ext.transform.layer_shapes import LayerSize

_TABLE_SHARE, _DENSE_SHARE = 0.65, 0.9
"""Share of the bound that kernels of tables, and of matrix products, reach on layers of usual size."""
_LEVEL_CYCLES = 4
"""Cycles in which a vector of float32 becomes 8-bit integers."""
_EPILOGUE_CYCLES = 4, 6
"""Cycles that a vector of results takes in float32 and from int8; small layers are all epilogue."""
_GATHER_ROWS = 8
"""Rows up to which a dense layer's table is read row by row."""
_GHZ = 3.0
"""Clock that times are told for where the system does not tell one; comparisons do not depend on it."""


@dataclass(frozen=True)
class CostRow:
    """One layer.

    Parameters
    ----------
    rows, depth, outputs : N, D and M.
    k, v : K and V of the table: those of its codebooks, else of the default settings.
    state : "table" (stored or with codebooks), or "float".
    table_us, float_us, int8_us : modelled times of the table, and of the layer without one, in float32 and in int8
        from float32 inputs.
    table_bytes, float_bytes : bytes of the int8 table, and of the float32 weights.
    verdict : "" where a table is the fastest and smallest, else what it loses.
    """

    name: str
    op: str
    state: str
    rows: int
    depth: int
    outputs: int
    k: int
    v: int
    table_us: float
    float_us: float
    int8_us: float
    table_bytes: int
    float_bytes: int
    verdict: str

    @property
    def slower(self) -> bool:
        """Whether the layer in float32 is faster than its table."""
        return self.table_us > self.float_us


@dataclass
class CostReport(Report):
    """Rows: CostRow, in the order of the model."""

    details: dict[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "estimate"

    def columns(self) -> Sequence[Column]:
        return [
            Column("name", "layer"),
            Column("op", "op"),
            Column("state", "is"),
            Column("rows", "N"),
            Column("depth", "D"),
            Column("outputs", "M"),
            Column("k", "K"),
            Column("v", "V"),
            Column("table_us", "table us", 1),
            Column("float_us", "float us", 1),
            Column("int8_us", "int8 us", 1),
            Column("table_bytes", "table"),
            Column("float_bytes", "weights"),
            Column("verdict", "verdict"),
        ]

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        slower = [row.name for row in self.rows if row.slower]
        told = [
            "Times are a model of one core with warm caches and no matrix units: compare them, do not trust a clock."
        ]
        if slower:
            told.append(
                f"{len(slower)} of {len(self.rows)} layers are faster in float: --keep-float auto keeps them so."
            )
        return told


def estimate(
    model: Any, target: str | Target = "native", *, codebooks: Codebooks | str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> CostReport:  # fmt: skip
    """What each conv and dense layer would take on one core of `target`, as a table and without.

    Parameters
    ----------
    model : a `Model`, or what `import_model` takes.
    codebooks : of a float model; layers without one are estimated with the default settings.

    Raises
    ------
    ModelImportError : the model cannot be read.
    TargetError : the target is unknown, or whole models cannot be compiled for it.
    """
    goal = target if isinstance(target, Target) else parse_target(target)
    check_models(goal)
    from lutc.importers import import_model
    from lutc.model import Model

    if not isinstance(model, Model):
        model = import_model(model, codebooks=codebooks, input_shapes=input_shapes)
    peak = _peak(goal)
    ghz = nominal_ghz() or _GHZ
    details = {
        "model": str(model.source), "target": goal.name, "core": f"{peak.maker} {peak.isa}", "clock_ghz": round(ghz, 2)
    }  # fmt: skip
    return CostReport(_rows(model, peak, ghz), details)


def slower_as_tables(model: Model, target: Target) -> dict[str, str]:
    """Layers with codebooks that are faster in float32 by the model, and why."""
    rows = _rows(model, _peak(target), nominal_ghz() or _GHZ)
    return {row.name: row.verdict for row in rows if row.slower and row.name in (model.codebooks or {})}


def slower_as_int8(model: Model, target: Target) -> dict[str, str]:
    """Conv and dense layers that are not faster in int8 than in float32 by the model, and why."""
    from tvm_ext.transform.layer_shapes import layer_shapes

    peak, found = _peak(target), {}
    for size in layer_shapes(model.mod):
        whole = -(-size.outputs // peak.dot_rows) * peak.dot_rows  # both products compute whole vectors of outputs
        vectors = size.rows * whole / peak.dot_rows
        dense, integer = (
            us + cycles * vectors / 1e3
            for us, cycles in zip(_dense_us(size, whole, peak, 1.0), _EPILOGUE_CYCLES, strict=True)
        )
        if integer >= dense:
            found[size.name] = f"int8 takes {integer / dense:.1f}x the time of float32 by the cost model"
    return found


def _peak(target: Target) -> Peak:
    from tvm.target import Target as TVMTarget

    from tvm_ext.target import usable_isas

    maker = (
        "arm" if target.arch in ("aarch64", "armv7") else host_maker() if host_maker() in ("amd", "intel") else "intel"
    )
    names = [isa.name for isa in usable_isas(TVMTarget(dict(target.llvm())))]
    found = [peak for name in names if (peak := find_peak(name, maker)) is not None]
    fallback = find_peak("neon" if maker == "arm" else "ssse3", maker)
    assert fallback is not None
    return found[0] if found else fallback


def _rows(model: Model, peak: Peak, ghz: float) -> list[CostRow]:
    from tvm_ext.transform.layer_shapes import layer_shapes

    return [_row(size, model, peak, ghz) for size in layer_shapes(model.mod) if size.groups == 1]


def _row(size: LayerSize, model: Model, peak: Peak, ghz: float) -> CostRow:
    book = (model.codebooks or {}).get(size.name)
    if size.centroids is not None:
        c, k, v, encode = size.num_codebooks, size.centroids, size.subvector_len, size.encode_dtype
    elif book is not None:
        (c, k, v), encode = book.centroids.shape, book.encode_dtype
    else:
        config = LUTConfig()
        v = config.subvector_len or (size.taps if size.taps > 1 else 4 if size.op == "conv2d" else 16)
        c, k, encode = -(-size.depth // v), config.num_centroids, config.encode_dtype
    gather = k > 16 or (size.op == "dense" and size.rows <= _GATHER_ROWS)
    shape = LayerShape(size.rows, c, k, max(v, 1), size.outputs, encode, gather)
    quantize = size.inputs / (2 * peak.dot_rows) if encode != "float32" else 0.0
    table = bound(shape, peak, ghz).total_us / _TABLE_SHARE + quantize / ghz / 1e3
    times = _dense_us(size, size.outputs, peak, ghz)
    weights = size.depth * size.outputs
    table_bytes, float_bytes = c * k * size.outputs, 4 * weights
    return CostRow(
        size.name, size.op, "table" if book is not None or size.centroids is not None else "float",
        size.rows, size.depth, size.outputs, k, v, table, *times, table_bytes, float_bytes,
        _verdict(table, times[0], times[1], table_bytes, float_bytes),
    )  # fmt: skip


def _dense_us(size: LayerSize, outputs: int, peak: Peak, ghz: float) -> tuple[float, float]:
    """(float32, int8) times of a layer's product with so many outputs, from float32 inputs."""
    products = size.rows * size.depth * outputs / (peak.float_rows * peak.fmas)
    padded = size.rows * _padded_depth(size) * outputs / (peak.dot_rows * peak.dot_depth * peak.dots)
    quantized = padded + _LEVEL_CYCLES * size.inputs / peak.dot_rows
    weights = size.depth * outputs
    dense, integer = (
        max(cycles / _DENSE_SHARE, weights * width / peak.cache_bytes) / ghz / 1e3
        for cycles, width in ((products, 4), (quantized, 1))
    )
    return dense, integer


def _padded_depth(size: LayerSize) -> int:
    """Products of an output in int8: whole dwords of channels, or of a window's row where channels are few."""
    if size.op == "dense":
        return -(-size.depth // 16) * 16
    channels, width = size.depth // size.taps, max(1, math.isqrt(size.taps))
    run = channels * width if channels < 4 else channels
    return size.depth // run * (-(-run // 4) * 4)


def _verdict(table: float, dense: float, integer: float, table_bytes: int, float_bytes: int) -> str:
    told = []
    if table > dense:
        told.append(f"{table / dense:.1f}x slower than float32")
    elif table > integer:
        told.append(f"{table / integer:.1f}x slower than int8")
    if table_bytes > float_bytes:
        told.append(f"{table_bytes / float_bytes:.1f}x larger than float32")
    elif table_bytes > float_bytes // 4:
        told.append(f"{table_bytes / (float_bytes / 4):.1f}x larger than int8")
    return ", ".join(told)
