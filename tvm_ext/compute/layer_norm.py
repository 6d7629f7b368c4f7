"""Layer norm in two passes over a row: the mean, then the mean of squared distances from it."""

from __future__ import annotations

from tvm import te, tirx


def layer_norm(x: te.Tensor, weight: te.Tensor, bias: te.Tensor, axes: int, epsilon: float) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last `axes` axes of x float32.

    TVM's own sums squares in the same pass, and loses digits where the mean is large beside the deviation.
    """
    rows, last = [int(d) for d in x.shape[:-axes]], [int(d) for d in x.shape[-axes:]]
    count = 1
    for size in last:
        count *= size

    def scaled_sum(value, name: str) -> te.Tensor:
        reduce = [te.reduce_axis((0, size), f"k{i}") for i, size in enumerate(last)]
        return te.compute(rows, lambda *at: te.sum(value(at, tuple(reduce)), reduce), name=name)

    share = tirx.const(1 / count, "float32")
    total = scaled_sum(lambda at, k: x(*at, *k), "norm_sum")
    centered = te.compute(x.shape, lambda *at: x(*at) - total(*at[:-axes]) * share, name="norm_centered")
    squares = scaled_sum(lambda at, k: centered(*at, *k) * centered(*at, *k), "norm_squares")
    factor = te.compute(
        rows,
        lambda *at: tirx.const(1, "float32") / tirx.sqrt(squares(*at) * share + tirx.const(epsilon, "float32")),
        name="norm_factor",
    )
    return te.compute(
        x.shape,
        lambda *at: centered(*at) * factor(*at[:-axes]) * weight(*at[-axes:]) + bias(*at[-axes:]),
        name="norm_out",
    )
