"""The least time that a lookup-table operator can take on one core."""

from __future__ import annotations

from dataclasses import dataclass

from lutc.cost_model.peak import LEVEL_OPS, SCORE_OPS, Peak

TABLE_ENTRIES = 16


@dataclass(frozen=True)
class LayerShape:
    """What decides how long a layer takes: N rows (positions), C codebooks, K centroids of V values, M outputs."""

    rows: int
    num_codebooks: int
    num_centroids: int
    subvector_len: int
    outputs: int
    encode_dtype: str = "int8"
    gather: bool = False
    encoder: str = "l2"

    @property
    def lookups(self) -> int:
        """Table entries read: N * C * M."""
        return self.rows * self.num_codebooks * self.outputs

    @property
    def table_bytes(self) -> int:
        """Bytes of table that one pass reads: all of an int8 table in registers, only the chosen rows in a gather."""
        return self.lookups if self.gather else self.num_codebooks * TABLE_ENTRIES * self.outputs


@dataclass(frozen=True)
class Bound:
    """Microseconds at least: the search, and the table read with its sum. Quantizing and the epilogue are left out."""

    search_us: float
    read_us: float

    @property
    def total_us(self) -> float:
        """The search comes before the read."""
        return self.search_us + self.read_us


def bound(shape: LayerShape, peak: Peak, ghz: float, table_gb_per_s: float | None = None) -> Bound:
    """The bound of a layer on a core with this peak at `ghz` cycles a nanosecond.

    Rows are not padded to whole vectors, so lanes that a small layer wastes show as distance from the bound. The read
    takes as long as its instructions, or as loading the table once if that is longer: at `table_gb_per_s`, measured for
    a table of this size, or else at the rate of the second-level cache, which is too fast for one that does not fit.
    """
    lookups = peak.gathered if shape.gather else peak.lookups
    cache_bytes = peak.cache_bytes if table_gb_per_s is None else table_gb_per_s / ghz
    read = max(shape.lookups / lookups, shape.table_bytes / cache_bytes)
    return Bound(_search_cycles(shape, peak) / ghz / 1e3, read / ghz / 1e3)


def _search_cycles(shape: LayerShape, peak: Peak) -> float:
    """Each centroid takes its products, and two operations more (int6, whose sums hold the index, one), for a vector of
    rows of one codebook; a tree four operations a level (look up, compare, double, step right) and one for the leaf."""
    if shape.encoder == "tree":
        rows = 4 * peak.dot_rows if shape.encode_dtype == "int8" else peak.float_rows
        levels = shape.num_centroids.bit_length() - 1
        return shape.rows / rows * shape.num_codebooks * (LEVEL_OPS * levels + 1) / peak.ops
    if shape.encode_dtype != "float32":
        rows, products, rate, ops = peak.dot_rows, -(-shape.subvector_len // peak.dot_depth), peak.dots, peak.dot_ops
    else:
        rows, products, rate, ops = peak.float_rows, shape.subvector_len, peak.fmas, 1
    score = SCORE_OPS - (shape.encode_dtype == "int6")
    cycles = max(products / rate, (products * ops + score) / peak.ops)
    return shape.rows / rows * shape.num_codebooks * shape.num_centroids * cycles
