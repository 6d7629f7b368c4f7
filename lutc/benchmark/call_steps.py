"""The kernel calls of a scheduled module, one after the other on buffers that were made before: no virtual machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Step = tuple[str, list[Any]]


def call_steps(scheduled: Any, inputs: Sequence[np.ndarray]) -> tuple[list[Step], list[Any]]:
    """(symbol and arguments of each kernel call of "main", what it returns: tensors, nested tuples flattened).

    Every value gets a buffer of its own, 64-byte aligned; a change of shape is the same buffer, and so is what a call
    changes in place.
    """
    return _Walk(scheduled).main(inputs)


class _Walk:
    def __init__(self, scheduled: Any) -> None:
        self._mod = scheduled
        self._values: dict[Any, Any] = {}
        self._steps: list[Step] = []

    def main(self, inputs: Sequence[np.ndarray]) -> tuple[list[Step], list[Any]]:
        import tvm

        function = self._mod["main"]
        self._values = {p: tvm.runtime.tensor(x) for p, x in zip(function.params, inputs, strict=True)}
        for binding in (binding for block in function.body.blocks for binding in block.bindings):
            self._values[binding.var] = self._bound(binding.value, binding.var.ty)
        return self._steps, _flat(self._value(function.body.body))

    def _value(self, expr: Any) -> Any:
        from tvm import relax

        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, relax.Tuple):
            return [self._value(field) for field in expr.fields]
        return self._value(expr.tuple_value)[expr.index] if isinstance(expr, relax.TupleGetItem) else expr.value

    def _bound(self, expr: Any, ty: Any) -> Any:
        from tvm import relax

        if not isinstance(expr, relax.Call):
            return self._value(expr)
        if self._is_reshape(expr):
            source = expr.args[1].fields[0] if expr.op.name == "relax.call_tir" else expr.args[0]
            return self._value(source)._create_view(tuple(int(d) for d in ty.shape))
        name, arguments = expr.args[0].name_hint, [self._value(field) for field in expr.args[1].fields]
        if expr.op.name == "relax.call_tir_inplace":
            (index,) = (int(i) for i in expr.attrs["inplace_indices"])
            self._steps.append((name, arguments))
            return arguments[index]
        out = self._empty(ty)
        self._steps.append((name, [*arguments, *_flat(out)]))
        return out

    def _empty(self, ty: Any) -> Any:
        import tvm
        from tvm import relax

        if isinstance(ty, relax.TupleType):
            return [self._empty(field) for field in ty.fields]
        return tvm.runtime.empty([int(d) for d in ty.shape], str(ty.dtype))

    def _is_reshape(self, call: Any) -> bool:
        from tvm import relax

        if call.op.name == "relax.call_tir":
            return relax.analysis.has_reshape_pattern(self._mod[call.args[0]])
        return call.op.name == "relax.reshape"


def _flat(value: Any) -> list[Any]:
    return [tensor for part in value for tensor in _flat(part)] if isinstance(value, list) else [value]
