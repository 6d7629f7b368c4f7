"""Sample inputs in batches that fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lutc.errors import InputError
from lutc.importers.names import did_you_mean

_BATCH_ELEMENTS = 1 << 20  # of the largest input in one batch, when the model leaves the batch size open
_MOST_IN_A_BATCH = 32


class SampleData:
    """Checked inputs; the first axis of every array counts samples.

    Parameters
    ----------
    inputs : of the model they are for.
    data : {input name: array}, or one array for a model with one input. Floats become the input's dtype; entries that
        are no input of the model (labels) are left out.
    samples : use the first so many; None uses all.

    Raises
    ------
    InputError : a missing input, a wrong rank, size or kind of number, NaN or infinity, too few samples.
    """

    def __init__(
        self, inputs: Sequence[onnx.ValueInfoProto], data: Any, samples: int | None, where: str
    ) -> None:  # fmt: skip
        arrays = data if isinstance(data, Mapping) else _name_single(data, inputs, where)
        self._arrays = {value.name: _check(value, arrays, samples, where) for value in inputs}
        counts = {name: len(array) for name, array in self._arrays.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise _error("the inputs have different numbers of samples", where, told, "give as many of each")
        self.count = next(iter(counts.values()))
        fixed = [dim.dim_value for value in inputs for dim in value.type.tensor_type.shape.dim[:1]]
        self.batch = max(fixed, default=0) or self._usual_batch()
        if self.count < self.batch:
            reason = f"there are {self.count} samples and the model takes {self.batch} at a time"
            raise _error("there are too few samples", where, reason, "give more samples")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches in order; the last one starts earlier where the samples do not divide evenly."""
        for start in range(0, self.count, self.batch):
            at = min(start, self.count - self.batch)
            yield {name: np.ascontiguousarray(a[at : at + self.batch]) for name, a in self._arrays.items()}

    def _usual_batch(self) -> int:
        largest = max(array[0].size for array in self._arrays.values()) if self.count else 1
        return min(max(_BATCH_ELEMENTS // max(largest, 1), 1), _MOST_IN_A_BATCH, max(self.count, 1))


def _name_single(data: Any, inputs: Sequence[onnx.ValueInfoProto], where: str) -> dict[str, Any]:
    if len(inputs) == 1:
        return {inputs[0].name: data}
    names = ", ".join(value.name for value in inputs)
    raise _error("the inputs must be given by name", where, f"the model has {len(inputs)}: {names}", "give an .npz")


def _check(value: onnx.ValueInfoProto, arrays: Mapping[str, Any], samples: int | None, where: str) -> np.ndarray:
    if value.name not in arrays:
        reason = f"it holds {', '.join(map(str, arrays)) or 'nothing'}{did_you_mean(value.name, map(str, arrays))}"
        raise _error(f'the data has no input "{value.name}"', where, reason, f'save the array as "{value.name}"')
    array, tensor = np.asarray(arrays[value.name]), value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    where = f'{where}, "{value.name}"'
    if array.dtype.kind != dtype.kind and not (array.dtype.kind in "iu" and dtype.kind in "iu"):
        fix = f"prepare the data as for the model and convert it: x.astype({dtype.name!r})"
        raise _error("the data has the wrong dtype", where, f"it is {array.dtype}, the model takes {dtype}", fix)
    dims = [dim.dim_value for dim in tensor.shape.dim]
    shape_fits = array.ndim == len(dims) and all(d in (0, n) for d, n in zip(dims[1:], array.shape[1:], strict=True))
    if tensor.HasField("shape") and not shape_fits:
        shown = [str(d or dim.dim_param or "?") for d, dim in zip(dims, tensor.shape.dim, strict=True)]
        reason = f"it is {list(array.shape)}, the model takes [{', '.join(shown)}], any number of samples first"
        raise _error("the data has the wrong shape", where, reason, "give samples x the shape of one input")
    if array.ndim == 0 or array.size == 0:
        raise _error("the data is empty", where, f"its shape is {list(array.shape)}", "give at least one sample")
    array = array[:samples]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(1)))
        reason = f"sample {bad} is the first with NaN or infinity"
        raise _error("the data holds values that are not numbers", where, reason, "remove such samples")
    return array.astype(dtype, copy=False)


def _error(message: str, where: str, reason: str, fix: str) -> InputError:
    return InputError(message, where=where, reason=reason, fix=fix)
