"""Trees whose comparisons begin anew compute what they did, and have all leaves to learn with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.nn import param_groups, quantize_, reconstruct_
from lutc.nn.layer import LUTLayer
from lutc.nn.lookup import codes_of
from lutc.nn.tree_restart import restart_splits_


def tree_model(encode_dtype: str, *, free: bool) -> tuple[nn.Module, torch.Tensor]:
    """A convolution and a dense layer whose thresholds, moved, leave many leaves without inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    x = torch.randn(64, 3, 8, 8)
    config = LUTConfig(16, encoder="tree", encode_dtype=encode_dtype, table_dtype="float32")
    reconstruct_(model, config, calibration=[x], free=free)
    with torch.no_grad():
        for layer in (model[0], model[3]):
            some = torch.rand_like(layer.split_thresholds) < 0.3
            layer.split_thresholds[some] += 100 * torch.randn(int(some.sum()))
    return model.eval(), x


def used(layer: LUTLayer, x: torch.Tensor) -> float:
    """The part of its leaves that x reaches."""
    codes = codes_of(layer.column_input(x), layer.columns(), layer.search())
    return sum(len(row.unique()) for row in codes) / layer.centroids[..., 0].numel()


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("encode_dtype", ["float32", "int8"])
def test_the_function_stays_and_leaves_come_back(encode_dtype: str, free: bool) -> None:
    model, x = tree_model(encode_dtype, free=free)
    before, hidden = model(x), torch.relu(model[0](x)).flatten(1)
    unused = used(model[0], x), used(model[3], hidden)
    rows = restart_splits_(model, [x[:32], x[32:]])
    assert [row.name for row in rows] == ["0", "3"] and all(0 < row.restarted < row.comparisons for row in rows)
    assert torch.equal(model(x), before)
    now = used(model[0], x), used(model[3], hidden)
    assert max(unused) < 0.7 and min(now) > 0.8
    assert [row.restarted for row in restart_splits_(model, [x])] == [0, 0]


def test_halves_learn_apart() -> None:
    model, x = tree_model("int8", free=True)
    restart_splits_(model, [x])
    wanted = torch.randn(64, 5)
    lost = []
    for trained in (model, tree_model("int8", free=True)[0]):
        optimizer = torch.optim.Adam(param_groups(trained.train(), table_lr=1e-2))
        for _ in range(60):
            loss = (trained(x) - wanted).square().mean()
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        lost.append(float(loss.detach()))
    assert lost[0] < 0.8 * lost[1]


def test_nearly_empty_sides_only_where_asked() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    x = torch.arange(200.0)[:, None].repeat(1, 2)
    quantize_(model, LUTConfig(4, 2, encoder="tree", encode_dtype="float32", table_dtype="float32"), calibration=[x])
    model[0].set_trees(torch.tensor([[0, 1]]), torch.tensor([[198.5, 90.0, 300.0]]), 0.5)
    with torch.no_grad():
        model[0].table.copy_(torch.arange(12.0).reshape(1, 4, 3))
    before = copy.deepcopy(model)
    (row,) = restart_splits_(model, [x])
    assert row.restarted == 0, "one input is on the right; of one there is no split"
    (row,) = restart_splits_(model, [x], least=0.01)
    assert row.restarted == 2
    # the right side is a copy of the left one, where 90 splits nothing any more
    assert model[0].split_thresholds.tolist() == [[99.5, 90.0, 149.5]]
    assert torch.equal(model(x)[:199], before(x)[:199]) and not torch.equal(model(x)[199], before(x)[199])


def test_layers_that_share_trees_are_looked_at_once() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(8, 4) for name in ("q", "k")})
    model.forward = lambda x: torch.cat([layer(x) for layer in model.values()], 1)
    x = torch.randn(100, 8)
    quantize_(model, LUTConfig(16, 8, encoder="tree", table_dtype="float32"), calibration=[x], share=[("q", "k")])
    with torch.no_grad():
        model["q"].split_thresholds[:, 1:] = 100
    model.eval()
    before = model(x)
    (row,) = restart_splits_(model, [x])
    assert row.name == "q" and row.restarted > 0 and torch.equal(model(x), before)


@pytest.mark.parametrize("batch", [torch.zeros(8, 3, 8, 8), torch.ones(1, 3, 1, 1)], ids=["zeros", "one row"])
def test_inputs_that_do_not_differ_have_no_split(batch: torch.Tensor) -> None:
    model = tree_model("int8", free=True)[0][:1]
    thresholds = model[0].split_thresholds.clone()
    assert restart_splits_(model, [batch])[0].restarted == 0
    assert torch.equal(model[0].split_thresholds, thresholds)


def test_a_layer_that_does_not_run_is_an_error() -> None:
    model = tree_model("int8", free=True)[0]
    with pytest.raises(LutcError, match="the batches did not reach every layer"):
        restart_splits_(model, [])
