"""Hash trees: the greedy search against brute force, the walk against plain code, gradients against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lutc.config import TREE_GRADIENTS, LUTConfig
from lutc.nn import LUTConv2d, LUTLinear, quantize_
from lutc.nn.hash_tree import leaf_means, learn_trees
from lutc.nn.lookup import codes_of
from lutc.nn.patches import extract_patches, split_subvectors


def walk(subvectors: np.ndarray, dims: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Codes [C, N], one row after another."""
    codes = np.empty(subvectors.shape[:2], np.int64)
    for c, rows in enumerate(subvectors):
        for n, row in enumerate(rows):
            node = 0
            for dim in dims[c]:
                node = 2 * node + (2 if row[dim] >= thresholds[c, node] else 1)
            codes[c, n] = node - thresholds.shape[1]
    return codes


def brute_force_level(buckets: list[np.ndarray], loss: Callable[[np.ndarray], float]) -> float:
    """Smallest error left after one more level: one dimension for all, any threshold for each."""
    best = math.inf
    for dim in range(buckets[0].shape[1]):
        total = 0.0
        for rows in buckets:
            cuts = [loss(rows)]
            for value in np.unique(rows[:, dim])[1:]:
                cuts.append(loss(rows[rows[:, dim] < value]) + loss(rows[rows[:, dim] >= value]))
            total += min(cuts)
        best = min(best, total)
    return best


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_level_is_the_best_one(seed, weighted):
    """With factors, by the errors of the data times them."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(3, 40, 4)).round(1).astype(np.float32)
    factor = rng.normal(size=(3, 4, 2)) if weighted else np.broadcast_to(np.eye(4), (3, 4, 4))
    given = torch.from_numpy(factor) if weighted else None
    dims, thresholds = learn_trees(torch.from_numpy(data), 3, given, candidates=4)
    for c in range(3):

        def loss(rows: np.ndarray, factor: np.ndarray = factor[c]) -> float:
            seen = rows @ factor
            return float(((seen - seen.mean(0)) ** 2).sum()) if len(seen) else 0.0

        buckets = [data[c].astype(np.float64)]
        for level in range(3):
            split = [
                (rows[rows[:, dims[c, level]] < t], rows[rows[:, dims[c, level]] >= t])
                for rows, t in zip(buckets, thresholds[c, 2**level - 1 : 2 ** (level + 1) - 1].numpy(), strict=True)
            ]
            after = [part for pair in split for part in pair]
            assert sum(map(loss, after)) == pytest.approx(brute_force_level(buckets, loss), rel=1e-9)
            buckets = after


def test_prototypes_are_the_ridge_solution():
    """Maddness, section 4.3: P over all inputs with the smallest |X - H P|^2 + |P - P0|^2, P0 the means of the leaves
    (the ridge, in units of the mean count of a leaf, comes to 1)."""
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 5), torch.randn(300, 3) @ torch.randn(3, 8)
    model = nn.Sequential(layer)
    quantize_(model, LUTConfig(4, 4, encoder="tree", encode_dtype="float32"), calibration=[x])
    tree = model[0]
    codes = walk(split_subvectors(x, 2, 4).numpy(), tree.split_dims.numpy(), tree.split_thresholds.detach().numpy())
    means = torch.block_diag(*tree.centroids.detach()).double()
    hot = nn.functional.one_hot(torch.from_numpy(codes).T, 4).flatten(1).double()
    wanted = x.double() - hot @ means
    improved = means + torch.linalg.solve(hot.T @ hot + torch.eye(8, dtype=torch.float64), hot.T @ wanted)
    assert (hot @ improved - x).square().sum() < 0.9 * (hot @ means - x).square().sum()
    expected = (improved @ layer.weight.double().T).unflatten(0, (2, 4))
    torch.testing.assert_close(tree.table.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "data",
    [torch.zeros(2, 9, 3), torch.ones(1, 1, 2), torch.tensor([[[1.0, 2.0]] * 5 + [[3.0, 2.0]]])],
    ids=["dead", "one row", "two distinct"],
)
def test_buckets_that_cannot_be_split_go_left(data):
    dims, thresholds = learn_trees(data, 3)
    assert torch.isfinite(thresholds).all()
    codes = walk(data.numpy(), dims.numpy(), thresholds.numpy())
    distinct = len(torch.unique(data[0], dim=0))
    assert len(np.unique(codes[0])) == distinct
    means = leaf_means(data, torch.from_numpy(codes), 8)
    np.testing.assert_allclose(means[0][codes[0]].numpy(), data[0].numpy())


def test_no_rows_and_not_finite_are_errors():
    with pytest.raises(ValueError, match="at least one row"):
        learn_trees(torch.zeros(1, 0, 2), 2)
    with pytest.raises(ValueError, match="finite"):
        learn_trees(torch.tensor([[[torch.nan]]]), 2)


def planted(encode_dtype: str = "float32", **options) -> tuple[LUTConv2d, Tensor]:
    torch.manual_seed(0)
    training = {"table_dtype": options.pop("table", "float32"), "tree_gradient": options.pop("gradient", "flips")}
    config = LUTConfig(8, 9, encoder="tree", encode_dtype=encode_dtype, **training)
    layer = LUTConv2d(3, 4, 3, padding=1, bias=False, config=config, **options)
    x = torch.randn(3, 3, 6, 5)
    rows = split_subvectors(layer.input_rows(x), 3, 9).contiguous()
    layer.set_input_range(rows.amin((1, 2)), rows.amax((1, 2)))
    layer.set_trees(*learn_trees(rows, 3), 0.7)
    layer.set_centroids(leaf_means(rows, codes_of(x, layer.columns(), layer.search()), 8))
    return layer, x


@pytest.mark.parametrize("encode_dtype", ["float32", "int8"])
def test_codes_are_those_of_the_walk(encode_dtype):
    layer, x = planted(encode_dtype, table="int8")
    constants = {k: v.numpy() for k, v in layer.constants().items() if v is not None}
    rows = split_subvectors(layer.input_rows(x), 3, 9).numpy()
    if encode_dtype == "int8":
        rows = np.clip(np.rint(rows * constants["inv_scale"][:, None, None]), -128, 127)
        assert (constants["split_thresholds"] % 1 == 0).all()
    codes = walk(rows, constants["split_dims"], constants["split_thresholds"])
    np.testing.assert_array_equal(codes_of(x, layer.columns(), layer.search()).numpy(), codes)
    table = constants["table"].astype(np.float64)
    expected = sum(table[c, codes[c]] for c in range(3)) * constants["table_scale"]
    found = layer.train()(x).detach().permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def plain_softmax(sides: list[Tensor], table: Tensor) -> Tensor:
    """Rows [N, M]: softmax over the leaves' scores, each the sum of tanh on its path, times the table."""
    scores = []
    for leaf in range(8):
        node, score = 0, torch.zeros_like(sides[0])
        for bit in f"{leaf:03b}":
            score = score + (sides[node] if bit == "1" else -sides[node])
            node = 2 * node + (2 if bit == "1" else 1)
        scores.append(score)
    return torch.einsum("cnk,ckm->nm", torch.softmax(torch.stack(scores, -1), -1), table)


def plain_flips(sides: list[Tensor], table: Tensor) -> Tensor:
    """Rows [N, M]: what the tree reads, plus for each comparison on the path its own part of the jump there."""
    codebooks, rows = sides[0].shape
    out = []
    for n in range(rows):
        total = torch.zeros_like(table[0, 0])
        for c in range(codebooks):

            def leaf(node: int, c: int = c, n: int = n) -> Tensor:
                while node < 7:
                    node = 2 * node + (2 if sides[node][c, n] >= 0 else 1)
                return table[c, node - 7]

            total = total + leaf(0)
            node = 0
            while node < 7:
                side = (1 + sides[node][c, n]) / 2
                total = total + (side - side.detach()) * (leaf(2 * node + 2) - leaf(2 * node + 1)).detach()
                node = 2 * node + (2 if sides[node][c, n] >= 0 else 1)
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize(("gradient", "plain"), [("softmax", plain_softmax), ("flips", plain_flips)])
def test_gradients_are_those_of_plain_torch(gradient, plain):
    layer, x = planted(stride=2, gradient=gradient)
    layer, x = layer.double(), x.double().requires_grad_()
    y = layer(x)
    upstream = torch.randn_like(y)
    parameters = (x, layer.split_thresholds, layer.log_temperature, layer.weight, layer.centroids)
    actual = torch.autograd.grad(y, parameters, upstream)

    rows, _ = extract_patches(x, layer.kernel_size, layer.stride, layer.pads, layer.dilation)
    values = split_subvectors(rows, 3, 9)
    sides = []
    for node in range(7):
        dim = layer.split_dims[:, int(math.log2(node + 1))].long()
        looked_at = values.gather(2, dim[:, None, None].expand(-1, values.shape[1], 1))[..., 0]
        sides.append(torch.tanh((looked_at - layer.split_thresholds[:, node, None]) / layer.log_temperature.exp()))
    expected = torch.autograd.grad(
        plain(sides, layer.float_table()), parameters, upstream.permute(0, 2, 3, 1).reshape(-1, 4)
    )
    for got, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


def test_flips_add_up_to_the_change():
    """Along a line the gradient of x adds up to what the output changes by, however many thresholds lie between."""
    torch.manual_seed(0)
    config = LUTConfig(16, 3, encoder="tree", encode_dtype="float32", table_dtype="float32")
    layer = LUTLinear(6, 5, bias=False, config=config).double().train()
    layer.log_temperature.data.fill_(math.log(2e-3))
    start, end = 2 * torch.randn(2, 1, 6, dtype=torch.float64)
    steps = 20_000
    part = (torch.arange(steps, dtype=torch.float64)[:, None] + 0.5) / steps
    x = (start + part * (end - start)).requires_grad_()
    y = layer(x)
    assert len(torch.unique(y.detach(), dim=0)) > 3
    for output in range(5):
        (slope,) = torch.autograd.grad(y[:, output].sum(), x, retain_graph=True)
        added = (slope * (end - start) / steps).sum()
        torch.testing.assert_close(added, (y[-1] - y[0])[output].detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("gradient", TREE_GRADIENTS)
@pytest.mark.parametrize("encode_dtype", ["float32", "int8"])
def test_training_a_network_of_trees_lowers_the_loss(encode_dtype, gradient):
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    target = torch.tanh(x @ torch.randn(16, 4))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    config = LUTConfig(16, 4, encoder="tree", encode_dtype=encode_dtype, tree_gradient=gradient)
    quantize_(model, config, calibration=[x])
    assert isinstance(model[0], LUTLinear)
    start = model[0].split_thresholds.clone()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        error = (model(x) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(error.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(model[0].split_thresholds, start)


def test_only_powers_of_two():
    with pytest.raises(ValueError, match="power of two"):
        LUTConfig(12, encoder="tree")
