"""How fast this core loads as many bytes as a table has: of what the caches give, a table read cannot do better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_LANES = 64  # int32 sums side by side: four 512-bit registers, or as many as the target has


def stream_call(size: int, target: Mapping[str, Any]) -> tuple[Callable[[], object], int]:
    """(a function that loads a buffer of about `size` bytes once, the bytes it loads)."""
    import tvm

    count = max(1, size // (4 * _LANES)) * _LANES
    total = tvm.compile(_sum(count), target=tvm.target.Target(dict(target)))["stream_sum"]
    data, result = tvm.runtime.empty((count,), "int32"), tvm.runtime.empty((_LANES,), "int32")
    data.copyfrom(np.zeros(count, np.int32))
    return lambda: total(data, result), 4 * count


def _sum(count: int) -> Any:
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def stream_sum(data: T.Buffer((count,), "int32"), result: T.Buffer((_LANES,), "int32")):
        T.func_attr({"global_symbol": "stream_sum", "tirx.noalias": True})
        acc = T.alloc_buffer((_LANES,), "int32", scope="local")
        acc[T.ramp(0, 1, _LANES)] = T.broadcast(T.int32(0), _LANES)
        for i in T.serial(count // _LANES):
            acc[T.ramp(0, 1, _LANES)] = acc[T.ramp(0, 1, _LANES)] + data[T.ramp(i * _LANES, 1, _LANES)]
        result[T.ramp(0, 1, _LANES)] = acc[T.ramp(0, 1, _LANES)]

    return stream_sum
