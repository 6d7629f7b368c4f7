"""Least-squares tables and layer-wise reconstruction."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lutc.config import LUTConfig, ScalarConfig
from lutc.errors import LutcError
from lutc.nn import param_groups, quantize_, reconstruct_
from lutc.nn.layer import LUTLayer
from lutc.nn.least_squares import TableFit


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.two(self.one(x))
        return self.head(x.mean((2, 3)))


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(48, 2, 4, 4, generator=generator)
    return list(nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").split(16))


def inner(module: nn.Module, name: str) -> bool:
    return name not in ("stem", "head")


def test_fit_is_the_ridge_solution():
    torch.manual_seed(0)
    codes, targets, start = torch.randint(0, 4, (3, 200)), torch.randn(200, 5), torch.randn(3, 4, 5)
    fit = TableFit(start)
    fit.add(codes[:, :90], targets[:90])
    fit.add(codes[:, 90:], targets[90:])
    hot = nn.functional.one_hot(codes.T, 4).flatten(1).double()
    weight = 0.05 * 200 / 4
    matrix = hot.T @ hot + weight * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, hot.T @ targets.double() + weight * start.double().flatten(0, 1))
    torch.testing.assert_close(fit.solve(0.05).flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_fit_keeps_what_never_occurs():
    start = torch.randn(1, 3, 2)
    fit = TableFit(start)
    fit.add(torch.zeros(1, 50, dtype=torch.int64), torch.ones(50, 2))
    solved = fit.solve(1e-6)
    torch.testing.assert_close(solved[0, 0], torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(solved[0, 1:], start[0, 1:].double())


@pytest.mark.parametrize(
    ("config", "part"),
    # trees start from prototypes that ridge regression already improved
    [(LUTConfig(), 0.85), (LUTConfig(encode_dtype="float32"), 0.85), (LUTConfig(8, encoder="tree"), 0.95)],
)
def test_reconstruction_beats_swapping_all_at_once(config, part):
    torch.manual_seed(0)
    model = Residual().eval()
    batches, x = data(), torch.cat(data())
    expected = model(x).detach()
    together = copy.deepcopy(model)
    quantize_(together, config, filter_fn=inner, calibration=batches, seed=2)
    seen = []
    rows = reconstruct_(
        model,
        config,
        calibration=batches,
        filter_fn=inner,
        seed=2,
        progress=lambda name, done, total: seen.append(name),
    )
    assert [row.name for row in rows] == ["one.0", "two.0"] == seen
    assert all(row.fitted_error < row.tied_error for row in rows)
    with torch.no_grad():
        errors = [float((m.eval()(x) - expected).square().sum()) for m in (model, together)]
    assert errors[0] < part * errors[1]
    assert type(model.stem) is nn.Conv2d
    assert not model.training
    quantize_(model, step="convert")
    with torch.no_grad():
        assert float((model(x) - expected).square().sum()) == pytest.approx(errors[0], rel=1e-4)


def test_fitted_weights_are_the_ridge_solution():
    torch.manual_seed(0)
    codes, targets, centroids = torch.randint(0, 4, (3, 200)), torch.randn(200, 5), torch.randn(3, 4, 2)
    start = torch.randn(3, 2, 5)
    fit = TableFit(centroids @ start)
    fit.add(codes, targets)
    rows = torch.cat([centroids[c, codes[c]] for c in range(3)], 1).double()
    weight = 0.05 * rows.square().sum(0).mean()
    matrix = rows.T @ rows + weight * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, rows.T @ targets.double() + weight * start.double().flatten(0, 1))
    found = start + fit.solve_weight(0.05, centroids)
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["l2", "tree"])
def test_tables_may_stay_products_of_fitted_weights(encoder):
    torch.manual_seed(0)
    model = Residual().eval()
    before = model.two[0].weight
    kept = before.detach().clone()
    config = LUTConfig(16, encoder=encoder)
    rows = reconstruct_(model, config, calibration=data(), filter_fn=inner, free=False)
    assert all(row.fitted_error < row.tied_error for row in rows)
    layer = model.two[0]
    assert isinstance(layer, LUTLayer) and layer.table is None and layer.weight.shape == kept.shape
    assert torch.equal(before, kept) and not torch.equal(layer.weight, kept)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU())
    reconstruct_(grouped, config, calibration=[torch.cat((x, x), 1) for x in data()], free=False)
    assert grouped[0].table is not None
    model.train()(data()[0]).square().sum().backward()
    assert all(float(part.grad.abs().sum()) > 0 for part in (layer.weight, layer.centroids))


def test_mistakes_leave_the_model_as_it_was():
    model = Residual()
    with pytest.raises(LutcError, match="scalar quantizers"):
        reconstruct_(model, ScalarConfig("lsq"), calibration=data())
    with pytest.raises(LutcError, match="without inputs"):
        reconstruct_(model, calibration=[])
    with pytest.raises(LutcError, match=r'cannot calibrate "one\.0"'):
        reconstruct_(model, calibration=[torch.full((1, 2, 8, 8), torch.nan)], filter_fn=inner)
    assert not any(isinstance(module, LUTLayer) for module in model.modules())
    assert model.training


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.query(x) @ self.key(x).mT, -1)
        return weights @ self.value(x)


@pytest.mark.parametrize("function", [quantize_, reconstruct_])
@pytest.mark.parametrize("encoder", ["l2", "tree"])
def test_query_key_value_share_one_set_of_codebooks(function, encoder):
    torch.manual_seed(0)
    model = Attention()
    x = torch.randn(4, 10, 16)
    config = LUTConfig(8, 4, encoder=encoder)
    function(model, config, calibration=[x], share=[("query", "key", "value")])
    name = "split_thresholds" if encoder == "tree" else "centroids"
    assert getattr(model.query, name) is getattr(model.key, name) is getattr(model.value, name)
    model.train()(x).square().sum().backward()
    groups = param_groups(model, 1.0, 1.0, 1.0)
    parameters = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in parameters}) == len(parameters)
    expected = model.eval()(x)
    other = Attention()
    quantize_(other, config, share=[("query", "key", "value")])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), expected)
    if encoder == "l2":
        quantize_(model, step="convert")
        assert torch.equal(model.query.centroids, model.value.centroids)
        assert torch.equal(model.query.inv_scale, model.key.inv_scale)
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("function", [quantize_, reconstruct_])
@pytest.mark.parametrize("encoder", ["l2", "tree"])
@pytest.mark.parametrize("names", [("query", "key", "value"), ("value", "query", "key")])
def test_tables_of_layers_that_share_belong_to_the_shared_codes(function, encoder, names):
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(64, 8, 4) @ torch.randn(4, 16)
    wanted = [layer(x).detach() for layer in (model.query, model.key, model.value)]
    function(model, LUTConfig(16, 4, encoder=encoder), calibration=x.split(16), share=[names])
    assert model.query.log_temperature is model.key.log_temperature is model.value.log_temperature
    for layer, y in zip((model.query, model.key, model.value), wanted, strict=True):
        with torch.no_grad():
            assert (layer.eval()(x) - y).square().mean() < 0.3 * y.var()


def test_what_cannot_share_is_told():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    with pytest.raises(LutcError, match="cannot share") as error:
        quantize_(model, share=[("0", "2")])
    assert error.value.where == "2"
    with pytest.raises(LutcError, match="cannot share") as error:
        quantize_(model, LUTConfig(4, 2), share=[("0", "1")])
    assert "different" in error.value.reason
