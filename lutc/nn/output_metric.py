"""Distances between subvectors as a layer's outputs see them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lutc.nn.codebook import pad_weight
from lutc.nn.layer import LUTLayer


def output_metric(weight: Tensor, num_codebooks: int, subvector_len: int) -> Tensor:
    """G [C, V, V] in float64 from a weight [M, D]: d.(G_c d) is the squared error that a difference d of subvectors
    makes in the M outputs, W_c W_c^T, in units in which the mean of a codebook's diagonal is 1.

    A codebook without weight gets the identity.
    """
    each = pad_weight(weight.detach().double(), num_codebooks, subvector_len)
    gram = torch.bmm(each, each.mT)
    gram = (gram + gram.mT) / 2  # symmetric to the last bit
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return torch.where(mean > 0, gram / torch.where(mean > 0, mean, 1.0), torch.eye(subvector_len).to(gram))


def shared_metric(layers: Sequence[LUTLayer]) -> Tensor:
    """The metric for the outputs of all these layers, which search alike; none has a free table."""
    weight = torch.cat([layer.dense_weight() for layer in layers])
    return output_metric(weight, layers[0].num_codebooks, layers[0].subvector_len)


def metric_root(metric: Tensor) -> Tensor:
    """F [C, V, V], symmetric, with F F = the metric: |d F|^2 = d.(metric d)."""
    values, vectors = torch.linalg.eigh(metric.double())
    return torch.bmm(vectors * values.clamp_min(0).sqrt()[:, None], vectors.mT)


@torch.no_grad()
def refresh_metrics_(model: nn.Module) -> None:
    """Give layers with LUTConfig(metric="outputs") the metric of their present weights; for a training loop, before
    each step: weights move, and with them what their outputs see.

    Layers that share codebooks get the metric of all their weights together. A free table has no weight to follow: its
    layer keeps the metric it has. Batch-norm statistics are those of the metric before (`reestimate_batch_norm_`).
    """
    sharing: dict[nn.Parameter, list[LUTLayer]] = {}
    for layer in model.modules():
        if isinstance(layer, LUTLayer) and layer.metric is not None:
            sharing.setdefault(layer.centroids, []).append(layer)
    for layers in sharing.values():
        weighted = [layer for layer in layers if layer.table is None]
        if weighted:
            metric = shared_metric(weighted)
            for layer in layers:
                layer.metric.copy_(metric)
