"""One layer's codebooks: float centroids, how codes are found, and the integer form that an integer search uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.config import ENCODE_DTYPES, ENCODERS, INTEGER_GRIDS, TABLE_DTYPES
from lutc.errors import ModelImportError
from lutc.importers.trees import tree_problem

SCORE_BIAS_LIMIT = 2**28
_SMALLEST_RANGE = 1e-30  # below this a reciprocal overflows float32; such a channel is as good as dead


@dataclass(frozen=True, eq=False)
class Codebook:
    """The codebooks of one layer, enough to compute its tables from the layer's float weight.

    Parameters
    ----------
    name : the layer's name, as the ONNX node or the torch module is called.
    centroids : float32 [C, K, V], K in 2..256.
    inv_scale : float32 [C], positive, only of an integer search: the factor that maps an input onto 8 bits.
    encode_dtype : "int8", "int6" or "float32".
    encoder : "l2", or "tree": codes are found by hash trees, and a centroid is what a leaf stands for in the table.
    table_dtype : "int8" or "float32".
    input_signed : whether inputs can be negative (8-bit range -128..127) or not (0..255).
    metric : float32 [C, V, V], symmetric: the square of a distance d is d.(metric d). None is Euclidean; not for trees.
    split_dims, split_thresholds : int32 [C, L] and float32 [C, K - 1], K = 2^L, of trees only: the element of the
        subvector that each level looks at, and what it is compared with at each node (in units of the input).

    Raises
    ------
    ModelImportError : a shape, dtype or value that does not fit this description.
    """

    name: str
    centroids: np.ndarray
    inv_scale: np.ndarray | None = None
    encode_dtype: str = "int8"
    encoder: str = "l2"
    table_dtype: str = "int8"
    input_signed: bool = True
    metric: np.ndarray | None = None
    split_dims: np.ndarray | None = None
    split_thresholds: np.ndarray | None = None

    def __post_init__(self) -> None:
        problem = (
            _option_problem(self)
            or _centroid_problem(self.centroids)
            or _inv_scale_problem(self)
            or _metric_problem(self)
            or _tree_problem(self)
        )
        if problem is not None:
            reason, fix = problem
            raise ModelImportError(
                f'codebook "{self.name}" cannot be used', where=f'layer "{self.name}"', reason=reason, fix=fix
            )

    @property
    def num_codebooks(self) -> int:
        return self.centroids.shape[0]

    @property
    def num_centroids(self) -> int:
        return self.centroids.shape[1]

    @property
    def subvector_len(self) -> int:
        return self.centroids.shape[2]

    def integer_form(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What an integer search reads: (centroids int8 [C, K, V], inv_scale float32 [C], score_bias int32 [C, K]).

        Per codebook s = 127 / max|P|; integers are round_half_even(P * s); score_bias is -|P|^2 / 2 of the rounded
        centroids in units of 1 / (inv_scale * s), so `xq . cq + score_bias` is largest for the closest centroid. With
        "int6" s = 124 / max|P|, integers are multiples of 4 and score_bias is one of 16. With a metric G the integers
        are those of G P, and score_bias is -P.G P / 2, less what their rounding adds to a score where the input is P.
        """
        if self.inv_scale is None:
            raise ValueError(f'codebook "{self.name}" has encode_dtype={self.encode_dtype!r}: it has no integer form')
        grid = INTEGER_GRIDS[self.encode_dtype]
        exact, norm = self._linear_scores()
        limit = 127 // grid * grid
        peak = np.abs(exact).max(axis=(1, 2))
        alive = peak > _SMALLEST_RANGE
        scale = np.where(alive, limit / np.where(alive, peak, 1.0), 1.0)
        integers = np.clip(grid * np.rint(exact * scale[:, None, None] / grid), -limit, limit)
        rounded = integers / scale[:, None, None]
        if self.metric is None:
            norm = (rounded**2).sum(-1)
        else:
            norm = norm + 2 * (self.centroids * (rounded - exact)).sum(-1)
        bias = grid**2 * np.rint(-0.5 * norm * (self.inv_scale.astype(np.float64) * scale)[:, None] / grid**2)
        bounded = np.clip(bias, -SCORE_BIAS_LIMIT, SCORE_BIAS_LIMIT)
        return integers.astype(np.int8), self.inv_scale, bounded.astype(np.int32)

    def float_form(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What a float32 search reads: centroids float32 [C, K, V] that distances are measured to, and None; or with a
        metric G P and score_bias float32 [C, K], -P.G P / 2, so that `x . G P + score_bias` is largest."""
        if self.metric is None:
            return self.centroids, None
        pulls, norm = self._linear_scores()
        return pulls.astype(np.float32), (-0.5 * norm).astype(np.float32)

    def _linear_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Float64 G P [C, K, V] and P.G P [C, K]."""
        exact = self.centroids.astype(np.float64)
        pulls = exact if self.metric is None else exact @ self.metric.astype(np.float64)
        return pulls, (exact * pulls).sum(-1)

    def tree_form(self) -> tuple[np.ndarray, np.ndarray]:
        """What a walk reads: (split_dims, split_thresholds), the latter in 8-bit steps for int8 encode.

        Those are the least whole numbers not below t * inv_scale; of all, they split rounded inputs closest to t.
        """
        if self.split_dims is None or self.split_thresholds is None:
            raise ValueError(f'codebook "{self.name}" has encoder={self.encoder!r}: it has no trees')
        if self.inv_scale is None:
            return self.split_dims, self.split_thresholds
        low, high = (-128, 127) if self.input_signed else (0, 255)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.ceil(self.split_thresholds.astype(np.float64) * self.inv_scale.astype(np.float64)[:, None])
        reached = np.clip(np.nan_to_num(scaled, nan=high + 1, posinf=high + 1, neginf=low), low, high + 1)
        return self.split_dims, reached.astype(np.float32)


def inverse_scale(low: np.ndarray, high: np.ndarray, signed: bool, grid: int = 1) -> np.ndarray:
    """Range of each codebook's inputs, [C] and [C] -> the factor float32 [C] that maps it onto 8 bits (1.0 if dead),
    of which multiples of `grid` are used."""
    peak = np.maximum(-low, high).astype(np.float64) if signed else high.astype(np.float64)
    alive = peak > _SMALLEST_RANGE
    steps = (127 if signed else 255) // grid * grid
    return np.where(alive, steps / np.where(alive, peak, 1.0), 1.0).astype(np.float32)


def _option_problem(codebook: Codebook) -> tuple[str, str] | None:
    options = (("encoder", ENCODERS), ("encode_dtype", ENCODE_DTYPES), ("table_dtype", TABLE_DTYPES))
    for option, allowed in options:
        value = getattr(codebook, option)
        if value not in allowed:
            return f"its {option} is {value!r}", f"use one of {', '.join(allowed)}"
    if codebook.encoder == "tree" and codebook.encode_dtype == "int6":
        return "it has trees with encode_dtype 'int6'", 'use "int8" or "float32": comparisons gain nothing by "int6"'
    return None


def _centroid_problem(centroids: np.ndarray) -> tuple[str, str] | None:
    if centroids.dtype != np.float32:
        return f"its centroids are {centroids.dtype}, not float32", "store them as float32"
    if centroids.ndim != 3 or centroids.size == 0:
        return (
            f"its centroids have shape {list(centroids.shape)}",
            "store them as [num_codebooks, num_centroids, subvector_len]",
        )
    if not 2 <= centroids.shape[1] <= 256:
        return (
            f"it has {centroids.shape[1]} centroids a codebook; codes are 8 bits wide",
            "use 2 to 256 centroids; the shape is [num_codebooks, num_centroids, subvector_len]",
        )
    if not np.isfinite(centroids).all():
        return "its centroids hold NaN or infinity", "look for NaN in the data or the training they came from"
    return None


def _tree_problem(codebook: Codebook) -> tuple[str, str] | None:
    trees = (codebook.split_dims, codebook.split_thresholds)
    if codebook.encoder == "tree":
        return tree_problem(*trees, *codebook.centroids.shape)
    if any(array is not None for array in trees):
        return f"it has trees with encoder {codebook.encoder!r}", 'drop split_dims and split_thresholds, or set "tree"'
    return None


def _metric_problem(codebook: Codebook) -> tuple[str, str] | None:
    metric = codebook.metric
    if metric is None:
        return None
    if codebook.encoder == "tree":
        return "it has a metric and trees, which measure no distances", "drop the metric"
    (count, _, length), text = codebook.centroids.shape, f"its metric is {metric.dtype}{list(metric.shape)}"
    if metric.dtype != np.float32 or metric.shape != (count, length, length):
        return text, f"store float32[{count}, {length}, {length}], one matrix a codebook"
    if not np.isfinite(metric).all():
        return "its metric holds NaN or infinity", "look for NaN in the weights it was made of"
    return None


def _inv_scale_problem(codebook: Codebook) -> tuple[str, str] | None:
    scale = codebook.inv_scale
    if codebook.encode_dtype not in INTEGER_GRIDS:
        return None if scale is None else ("it has inv_scale without int8 encode", 'drop inv_scale, or set "int8"')
    if scale is None:
        return (
            f"{codebook.encode_dtype} encode needs inv_scale and it has none",
            'store inv_scale, or set encode_dtype to "float32"',
        )
    if scale.dtype != np.float32 or scale.shape != codebook.centroids.shape[:1]:
        return (
            f"its inv_scale is {scale.dtype}{list(scale.shape)}",
            f"store float32[{codebook.centroids.shape[0]}], one factor a codebook",
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return "its inv_scale holds values that are not positive numbers", "use 1.0 for a codebook with no input range"
    return None
