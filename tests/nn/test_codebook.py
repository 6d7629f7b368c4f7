"""Integer form and table against the formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutc.calibrate import metric as calibrate_metric
from lutc.importers.codebook import Codebook
from lutc.nn._library import encode
from lutc.nn.codebook import integer_codebook, inverse_scale
from lutc.nn.output_metric import output_metric


def test_integer_codebook_follows_the_definition():
    torch.manual_seed(0)
    centroids = torch.randn(5, 16, 9) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 3.0])[:, None, None]
    inv_scale = torch.tensor([10.0, 0.3, 1e4, 1.0, 63.75])
    integers, bias, scale = integer_codebook(centroids, inv_scale)
    for c in range(5):
        p = centroids[c].numpy().astype(np.float64)
        peak = np.abs(p).max()
        s = 127 / peak if peak > 0 else 1.0
        cq = np.clip(np.rint(p * s), -127, 127)
        expected = np.rint(-0.5 * ((cq / s) ** 2).sum(-1) * float(inv_scale[c]) * s)
        np.testing.assert_array_equal(integers[c].numpy(), cq)
        np.testing.assert_array_equal(bias[c].numpy(), np.clip(expected, -(2**28), 2**28))
        assert float(scale[c]) == s
    assert integers.dtype == torch.int8
    assert bias.dtype == torch.int32


def test_score_bias_is_clipped():
    centroids = torch.full((1, 2, 64), 1e6)
    bias = integer_codebook(centroids, torch.tensor([1e9]))[1]
    assert bias.tolist() == [[-(2**28), -(2**28)]]


def test_integer_search_finds_the_closest_centroid_but_for_near_ties():
    torch.manual_seed(0)
    x, centroids = torch.randn(4, 2000, 9), torch.randn(4, 16, 9)
    inv_scale = inverse_scale(x.amin((1, 2)), x.amax((1, 2)), signed=True)
    integers, bias, _ = integer_codebook(centroids, inv_scale)
    codes = encode(x, integers, inv_scale, bias, True)
    distance = torch.cdist(x, centroids)
    chosen = distance.gather(-1, codes[:, :, None])[:, :, 0]
    assert ((chosen - distance.amin(-1)) < 0.05).all()
    assert (codes == distance.argmin(-1)).float().mean() > 0.98


def test_inverse_scale():
    low, high = torch.tensor([0.0, -2.0, 0.0, 0.0]), torch.tensor([4.0, 1.0, 0.0, 1e-38])
    assert inverse_scale(low, high, signed=True).tolist() == [31.75, 63.5, 1.0, 1.0]
    assert inverse_scale(low.clamp_min(0), high, signed=False).tolist() == [63.75, 255.0, 1.0, 1.0]


@pytest.mark.parametrize("with_metric", [False, True])
def test_numpy_and_torch_integer_forms_agree(with_metric: bool):
    torch.manual_seed(1)
    centroids, inv_scale = torch.randn(40, 16, 9) * 3, torch.rand(40) * 100 + 0.1
    weight = torch.randn(5, 360)
    metric = output_metric(weight, 40, 9).float() if with_metric else None
    ours = integer_codebook(centroids, inv_scale, 1, metric)
    theirs = Codebook("layer", centroids.numpy(), inv_scale.numpy(), metric=None if metric is None else metric.numpy())
    theirs = theirs.integer_form()
    np.testing.assert_allclose(calibrate_metric.output_metric([weight.numpy()], 40, 9), output_metric(weight, 40, 9))
    np.testing.assert_array_equal(ours[0].numpy(), theirs[0])
    np.testing.assert_array_equal(ours[1].numpy(), theirs[2])
