"""Distances between subvectors as the layers that read them see them, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def output_metric(weights: Sequence[np.ndarray], num_codebooks: int, subvector_len: int) -> np.ndarray:
    """G float64 [C, V, V] of all layers [M, D] that share codebooks: d.(G_c d) is the squared error that a difference d
    of subvectors makes in their outputs, in units in which the mean of a codebook's diagonal is 1.

    A codebook without weight gets the identity.
    """
    rows = np.concatenate(weights).astype(np.float64)
    padded = np.pad(rows, ((0, 0), (0, num_codebooks * subvector_len - rows.shape[1])))
    each = padded.reshape(len(rows), num_codebooks, subvector_len).transpose(1, 2, 0)
    gram = each @ each.transpose(0, 2, 1)
    gram = (gram + gram.transpose(0, 2, 1)) / 2  # symmetric to the last bit
    mean = np.einsum("cvv->c", gram)[:, None, None] / subvector_len
    return np.where(mean > 0, gram / np.where(mean > 0, mean, 1.0), np.eye(subvector_len))


def metric_root(metric: np.ndarray) -> np.ndarray:
    """F [C, V, V], symmetric, with F F = the metric: |d F|^2 = d.(metric d)."""
    values, vectors = np.linalg.eigh(metric)
    return (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
