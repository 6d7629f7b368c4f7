"""An annotated layer as read from a file, checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lutc.config import ENCODE_DTYPES, ENCODERS, INTEGER_GRIDS
from lutc.errors import ModelImportError
from lutc.importers.trees import tree_problem

ARGUMENTS = (
    "centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult", "split_dims", "split_thresholds"
)  # fmt: skip
Problem = tuple[str, str]  # reason, fix
_EXPORT_AGAIN = "export the model again with lutc.export_model"


@dataclass(frozen=True, eq=False)
class LUTLayer:
    """A LUTDense (geometry is empty) or LUTConv2d node: its constants under their names and its attributes.

    constants: centroids [C, K, V] float32 or int8, table [C, K, M] int8 or float32, table_scale [M] float32, and bias
    [M] float32, inv_scale [C] float32, score_bias [C, K] int32 (float32 of a float32 search), mult [C] uint8 or None
    each. Trees have split_dims [C, L] int32 and split_thresholds [C, K - 1] float32 in place of centroids and
    score_bias, and a subvector_len.
    geometry: kernel_shape, strides, pads (top, left, bottom, right) and dilations, for a conv.
    """

    name: str
    constants: Mapping[str, np.ndarray | None]
    encode_dtype: str = "float32"
    encoder: str = "l2"
    input_signed: bool = True
    geometry: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    subvector_len: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, K, V)."""
        if self.encoder == "tree":
            return (*self._array("table").shape[:2], self.subvector_len)
        count, centers, length = self._array("centroids").shape
        return count, centers, length

    def problem(self) -> Problem | None:
        """The first thing wrong with the layer by itself, as (reason, fix), or None."""
        return self._option_problem() or self._geometry_problem() or self._shape_problem() or self._value_problem()

    def input_problem(self, shape: Sequence[int]) -> Problem | None:
        """What is wrong with feeding the layer a float32 tensor of this shape, or None."""
        num_codebooks, _, subvector_len = self.shape
        if self.geometry:
            if len(shape) != 4:
                return (
                    f"its input has shape {list(shape)}, a conv2d takes [batch, channels, height, width]",
                    _EXPORT_AGAIN,
                )
            taps = self.geometry["kernel_shape"][0] * self.geometry["kernel_shape"][1]
            length, text = shape[1] * taps, f"{shape[1]} channels x {taps} taps"
        else:
            if not shape:
                return "its input is a scalar, a dense layer takes [..., features]", _EXPORT_AGAIN
            length, text = shape[-1], "the last axis"
        if -(-length // subvector_len) != num_codebooks:
            return (
                f"its input gives {length} values a row ({text}), "
                f"its {'trees' if self.encoder == 'tree' else 'centroids'} cover {num_codebooks} codebooks x "
                f"{subvector_len}",
                "give the shape the model was trained for, or " + _EXPORT_AGAIN,
            )
        return None

    def attributes(self) -> dict[str, Any]:
        """Keyword arguments of tvm_ext.op.dense / conv2d."""
        return {
            "encoder": self.encoder,
            "encode_dtype": self.encode_dtype,
            "input_signed": self.input_signed,
            "subvector_len": self.subvector_len,
            "layer": self.name,
            **self.geometry,
        }

    def _array(self, name: str) -> np.ndarray:
        array = self.constants[name]
        assert array is not None, name
        return array

    def _option_problem(self) -> Problem | None:
        for option, value, allowed in (
            ("encoder", self.encoder, ENCODERS),
            ("encode_dtype", self.encode_dtype, ENCODE_DTYPES),
        ):
            if value not in allowed:
                return (
                    f"its {option} is {value!r}; this version of lutc knows {', '.join(allowed)}",
                    f"upgrade lutc, or train the layer with {option}={allowed[0]!r}",
                )
        if self.encoder == "tree" and self.encode_dtype == "int6":
            return "its encode_dtype is 'int6' with encoder 'tree'", "set encode_dtype to 'int8'; trees have no int6"
        return None

    def _geometry_problem(self) -> Problem | None:
        for name, length, least in (("kernel_shape", 2, 1), ("strides", 2, 1), ("pads", 4, 0), ("dilations", 2, 1)):
            value = self.geometry.get(name) if self.geometry else None
            if value is not None and (len(value) != length or min(value) < least):
                return f"its {name} is {list(value)}, expected {length} numbers of at least {least}", _EXPORT_AGAIN
        return None

    def _shape_problem(self) -> Problem | None:
        trees = self.encoder == "tree"
        if trees and self.constants.get("centroids") is not None:
            return "its centroids are given with encoder 'tree'", "a tree has split_dims and split_thresholds instead"
        for name in ("table", "table_scale") if trees else ("centroids", "table", "table_scale"):
            if self.constants.get(name) is None:
                return f"its {name} is missing", _EXPORT_AGAIN
        table = self._array("table")
        centroids = table if trees else self._array("centroids")
        if centroids.ndim != 3 or table.ndim != 3 or 0 in centroids.shape or 0 in table.shape:
            return (
                f"the table has shape {list(table.shape)}" if trees
                else f"centroids have shape {list(centroids.shape)} and the table {list(table.shape)}",
                "it has three axes, none empty: [C, K, M]" if trees
                else "both have three axes, none empty: [C, K, V] and [C, K, M]",
            )  # fmt: skip
        count, centers, outputs = table.shape
        if not 2 <= centers <= 256:
            return f"it has {centers} centroids a codebook; codes are 8 bits wide", "use 2 to 256 centroids"
        integer = self.encode_dtype in INTEGER_GRIDS
        expected = {
            "centroids": ((count, centers, centroids.shape[2]), ("int8",) if integer else ("float32",)),
            "table": ((count, centers, outputs), ("int8", "float32")),
            "table_scale": ((outputs,), ("float32",)),
            "bias": ((outputs,), ("float32",)),
            "inv_scale": ((count,), ("float32",)),
            "score_bias": ((count, centers), ("int32",) if integer else ("float32",)),
            "mult": ((count,), ("uint8",)),
        }
        for name, (shape, dtypes) in expected.items():
            array = self.constants.get(name)
            if array is not None and (array.shape != shape or array.dtype.name not in dtypes):
                return (
                    f"its {name} is {array.dtype.name}{list(array.shape)}, expected {' or '.join(dtypes)}{list(shape)} "
                    f"with a table {list(table.shape)} and encode_dtype {self.encode_dtype!r}",
                    _EXPORT_AGAIN,
                )
        return self._presence_problem(integer) or self._tree_problem(count, centers)

    def _presence_problem(self, integer: bool) -> Problem | None:
        trees = self.encoder == "tree"
        wanted = {"inv_scale": (integer, integer), "score_bias": (integer and not trees, not trees)}
        for name, (needed, allowed) in wanted.items():
            if not (allowed if self.constants.get(name) is not None else not needed):
                state = "is missing" if needed else "is given"
                encoder = f" and encoder {self.encoder!r}" if trees else ""
                return f"its {name} {state} with encode_dtype {self.encode_dtype!r}{encoder}", _EXPORT_AGAIN
        return None

    def _tree_problem(self, count: int, centers: int) -> Problem | None:
        constants = self.constants
        if self.encoder == "tree":
            dims, thresholds = constants.get("split_dims"), constants.get("split_thresholds")
            return tree_problem(dims, thresholds, count, centers, self.subvector_len)
        given = [name for name in ("split_dims", "split_thresholds") if constants.get(name) is not None]
        if given:
            return f"its {given[0]} is given with encoder {self.encoder!r}", "set encoder to 'tree', or drop it"
        return None

    def _value_problem(self) -> Problem | None:
        for name in ("centroids", "table", "table_scale", "bias", "inv_scale", "score_bias"):
            array = self.constants.get(name)
            if array is not None and array.dtype == np.float32 and not np.isfinite(array).all():
                return f"its {name} holds NaN or infinity", "look for a training run that diverged, and export again"
        scale, mult = self.constants.get("inv_scale"), self.constants.get("mult")
        if scale is not None and not (scale > 0).all():
            return "its inv_scale holds values that are not positive", "use 1.0 for a codebook with no input range"
        if self.encode_dtype == "int6":
            centroids, bias = self._array("centroids"), self._array("score_bias")
            if (centroids % 4).any() or (bias % 16).any():
                return "it is int6, but centroids are not multiples of 4 or score_bias of 16", _EXPORT_AGAIN
        if mult is not None and not ((mult >= 1) & (mult <= 127)).all():
            return f"its mult holds {int(mult.max())}, allowed are 1..127", _EXPORT_AGAIN
        return None


def layer_error(problems: list[tuple[str, Problem]], source: str) -> ModelImportError:
    """One error for one or several layers, each (place, (reason, fix))."""
    if len(problems) == 1:
        place, (reason, fix) = problems[0]
        return ModelImportError(
            "cannot import a lookup-table layer", where=f"{source}, {place}", reason=reason, fix=fix
        )
    return ModelImportError(
        f"cannot import {len(problems)} lookup-table layers",
        where=source,
        reason="\n".join(f"{place}: {reason}" for place, (reason, _) in problems),
        fix="\n".join(dict.fromkeys(fix for _, (_, fix) in problems)),
    )
