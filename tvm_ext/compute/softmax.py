"""Softmax as TE: one division a row, where the formula has one for every element."""

from __future__ import annotations

from tvm import te, tirx


def softmax(x: te.Tensor, axis: int) -> te.Tensor:
    """``exp(x - max) * (1 / sum)`` along `axis`, 0 or more; x float32, and so is the result."""
    size, others = x.shape[axis], [d for i, d in enumerate(x.shape) if i != axis]

    def line(tensor: te.Tensor, index: tuple, k):
        return tensor[(*index[:axis], k, *index[axis:])]

    def of_line(index: tuple) -> tuple:
        return (*index[:axis], *index[axis + 1 :])

    k = te.reduce_axis((0, size), "k")
    largest = te.compute(others, lambda *i: te.max(line(x, i, k), axis=k), name="softmax_max")
    powers = te.compute(x.shape, lambda *i: tirx.exp(x[i] - largest[of_line(i)]), name="softmax_exp")
    j = te.reduce_axis((0, size), "j")
    total = te.compute(others, lambda *i: te.sum(line(powers, i, j), axis=j), name="softmax_sum")
    share = te.compute(others, lambda *i: tirx.const(1, "float32") / total[i], name="softmax_share")
    return te.compute(x.shape, lambda *i: powers[i] * share[of_line(i)], name="softmax")
