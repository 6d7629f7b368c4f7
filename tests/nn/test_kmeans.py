from __future__ import annotations

import pytest
import torch

from lutc.nn.kmeans import kmeans, squared_distances


def inertia(data: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return squared_distances(data, centroids).amin(-1).sum(-1)


def test_finds_separated_clusters_of_every_codebook():
    torch.manual_seed(0)
    centers = torch.randn(30, 8, 4) * 20
    data = (centers[:, :, None] + 0.1 * torch.randn(30, 8, 50, 4)).reshape(30, 400, 4)
    data = data[:, torch.randperm(400)]
    found = kmeans(data, 8)
    nearest = torch.cdist(centers, found).amin(-1)
    # k-means++ may miss a cluster now and then; it must be rare
    assert (nearest < 0.5).float().mean() > 0.95


def test_same_seed_same_centroids_and_other_seed_other_centroids():
    data = torch.randn(3, 200, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kmeans(data, 16, seed=4), kmeans(data, 16, seed=4))
    assert not torch.equal(kmeans(data, 16, seed=4), kmeans(data, 16, seed=5))


def test_iterations_do_not_raise_the_error():
    data = torch.randn(5, 500, 4, generator=torch.Generator().manual_seed(1))
    errors = torch.stack([inertia(data, kmeans(data, 16, iterations=n, seed=0)) for n in (0, 1, 5, 25)])
    assert (errors[1:] <= errors[:-1] * 1.0001).all()


def test_dead_and_nearly_dead_channels():
    data = torch.zeros(3, 100, 9)
    data[1, 0] = 1.0
    data[2] = torch.randn(100, 9, generator=torch.Generator().manual_seed(0))
    centroids = kmeans(data, 16)
    assert torch.isfinite(centroids).all()
    assert torch.equal(centroids[0], torch.zeros(16, 9))
    assert inertia(data, centroids)[1] == 0


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_as_few_rows_as_centroids_or_fewer(rows):
    data = torch.randn(2, rows, 3, generator=torch.Generator().manual_seed(0))
    centroids = kmeans(data, 16)
    assert centroids.shape == (2, 16, 3)
    torch.testing.assert_close(inertia(data, centroids), torch.zeros(2), rtol=0, atol=1e-5)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        kmeans(torch.zeros(2, 0, 3), 4)
    with pytest.raises(ValueError, match="finite"):
        kmeans(torch.full((1, 5, 2), torch.nan), 4)
