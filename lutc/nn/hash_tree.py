"""Learning hash trees (Maddness; Blalock and Guttag, 2021): splits of many codebooks at once."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 4  # split dimensions tried per level, those with the largest squared error, as in Maddness


def learn_trees(
    data: Tensor, levels: int, factor: Tensor | None = None, *, candidates: int = CANDIDATES
) -> tuple[Tensor, Tensor]:
    """Greedy trees for data [C, N, V]: split_dims int32 [C, L] and split_thresholds [C, 2**L - 1], breadth first.

    One dimension per level for all buckets of a codebook, one threshold per bucket: those that leave the smallest sum
    of squared distances to the buckets' means, searched over every split of the sorted rows with running sums. A
    bucket that cannot be split (empty, one row, all equal) gets a threshold above all values, so its rows go left.

    Distances are those of data times `factor` [C, V, V'], where given: with that of `output_metric` they are the errors
    of the layer's outputs.

    Raises
    ------
    ValueError : there are no rows, or a value is not finite.
    """
    if data.shape[1] == 0:
        raise ValueError("a tree needs at least one row")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("a tree needs finite values")
    exact = data.double()
    seen = exact if factor is None else torch.bmm(exact, factor.double())
    weight = None if factor is None else factor.double().square().sum(2)
    codebooks, rows, length = exact.shape
    bucket = torch.zeros(codebooks, rows, dtype=torch.int64, device=data.device)
    dims, thresholds = [], []
    for level in range(levels):
        loss = _bucket_errors(exact, bucket, 1 << level)
        loss = loss if weight is None else loss * weight
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for rank in range(min(candidates, length)):
            dim = loss.topk(rank + 1, dim=1).indices[:, rank]
            error, split = _best_splits(exact, seen, bucket, dim, 1 << level)
            if best is None:
                best = (error, dim, split)
            else:
                better = error < best[0]
                best = (
                    torch.where(better, error, best[0]),
                    torch.where(better, dim, best[1]),
                    torch.where(better[:, None], split, best[2]),
                )
        assert best is not None
        _, dim, split = best
        values = exact.gather(2, dim[:, None, None].expand(-1, rows, 1))[..., 0]
        # the comparison that inference makes is with the rounded threshold
        split = split.to(data.dtype).double()
        bucket = 2 * bucket + (values >= split.gather(1, bucket))
        dims.append(dim)
        thresholds.append(split)
    return torch.stack(dims, 1).int(), torch.cat(thresholds, 1).to(data.dtype)


def leaf_means(data: Tensor, codes: Tensor, leaves: int) -> Tensor:
    """Prototypes [C, K, V]: means of data [C, N, V] by codes [C, N]; that of all for a leaf nothing reaches."""
    codebooks, _, length = data.shape
    total = data.new_zeros(codebooks, leaves, length).scatter_add_(1, codes[..., None].expand_as(data), data)
    count = data.new_zeros(codebooks, leaves).scatter_add_(1, codes, torch.ones_like(data[..., 0]))[..., None]
    return torch.where(count > 0, total / count.clamp_min(1), data.mean(1, keepdim=True))


def _bucket_errors(data: Tensor, bucket: Tensor, buckets: int) -> Tensor:
    """Sum over buckets of squared distances to the mean, per dimension: [C, V]."""
    codebooks, _, length = data.shape
    index = bucket[..., None].expand_as(data)
    total = data.new_zeros(codebooks, buckets, length).scatter_add_(1, index, data)
    count = data.new_zeros(codebooks, buckets).scatter_add_(1, bucket, torch.ones_like(data[..., 0]))
    return (data**2).sum(1) - (total**2 / count.clamp_min(1)[..., None]).sum(1)


def _best_splits(data: Tensor, seen: Tensor, bucket: Tensor, dim: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """The best split of every bucket along one dimension [C] a codebook: (error left over [C], thresholds [C, B]).

    Errors are those of `seen` [C, N, V'], rows as those of data [C, N, V].
    """
    codebooks, rows, length = seen.shape
    values = data.gather(2, dim[:, None, None].expand(-1, rows, 1))[..., 0]
    by_value = values.argsort(dim=1, stable=True)
    order = by_value.gather(1, bucket.gather(1, by_value).argsort(dim=1, stable=True))
    values, bucket = values.gather(1, order), bucket.gather(1, order)
    seen = seen.gather(1, order[..., None].expand_as(seen))

    zero = seen.new_zeros(codebooks, 1, length)
    sums, squares = torch.cat((zero, seen.cumsum(1)), 1), torch.cat((zero[..., 0], (seen**2).sum(-1).cumsum(1)), 1)
    edges = torch.arange(buckets + 1, device=data.device).expand(codebooks, -1).contiguous()
    starts = torch.searchsorted(bucket, edges)  # of the buckets in the sorted rows
    first, end = starts.gather(1, bucket), starts.gather(1, bucket + 1)
    cut = torch.arange(1, rows + 1, device=data.device).expand(codebooks, -1)  # rows up to and with this one go left

    def error(low: Tensor, high: Tensor) -> Tensor:
        total = sums.gather(1, high[..., None].expand_as(seen)) - sums.gather(1, low[..., None].expand_as(seen))
        return squares.gather(1, high) - squares.gather(1, low) - (total**2).sum(-1) / (high - low).clamp_min(1)

    following = torch.cat((values[:, 1:], values[:, -1:]), 1)
    possible = (cut < end) & (following > values)
    left_over = torch.where(possible, error(first, cut) + error(cut, end), torch.inf)
    smallest = left_over.new_full((codebooks, buckets), torch.inf).scatter_reduce_(1, bucket, left_over, "amin")
    whole = torch.zeros_like(smallest).scatter_(1, bucket, error(first, end))
    is_best = possible & (left_over == smallest.gather(1, bucket))
    middle = torch.where(is_best, (values + following) / 2, torch.inf)
    threshold = torch.full_like(smallest, torch.inf).scatter_reduce_(1, bucket, middle, "amin")
    none_possible = values.amax(1, keepdim=True) + (values.amax(1, keepdim=True) - values.amin(1, keepdim=True)) + 1
    split = smallest.isfinite()
    return torch.where(split, smallest, whole).sum(1), torch.where(split, threshold, none_possible)
