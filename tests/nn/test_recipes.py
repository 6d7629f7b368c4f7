"""Optimizers, schedules and phases of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from lutc.config import SCALAR_METHODS, ScalarConfig
from lutc.errors import LutcError
from lutc.nn import quantize_
from lutc.nn.recipes import RECIPES, clip_gradients, make_optimizers, set_phase, set_progress


def model(method: str, **options) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.rand(50, 6)
    quantize_(net, ScalarConfig(method, 3, 3, first_last="same", **options), calibration=[x])
    return net


def test_every_method_has_a_recipe() -> None:
    assert set(RECIPES) == set(SCALAR_METHODS)


def test_steps_of_nulsq_have_an_optimizer_of_their_own() -> None:
    weights, steps = make_optimizers(model("nulsq"), RECIPES["nulsq"])
    assert isinstance(weights, SGD) and isinstance(steps, AdamW)
    assert len(steps.param_groups[0]["params"]) == 4
    assert steps.param_groups[0]["weight_decay"] == 0 and weights.param_groups[0]["weight_decay"] > 0


def test_other_quantizers_are_a_group() -> None:
    (only,) = make_optimizers(model("llt"), RECIPES["llt"])
    assert [len(group["params"]) for group in only.param_groups] == [4, 8]


def test_quantizers_of_another_method_have_its_rates() -> None:
    net = model("quantization_network", input_method="lsq")
    (only,) = make_optimizers(net, RECIPES["quantization_network"], {"lsq": RECIPES["lsq"]})
    assert [len(group["params"]) for group in only.param_groups] == [4, 4, 2]
    assert [group["lr"] for group in only.param_groups] == [1e-4, 1e-3, 0.01]
    weights, steps = make_optimizers(model("lsq", input_method="nulsq"), RECIPES["lsq"], {"nulsq": RECIPES["nulsq"]})
    assert [len(group["params"]) for group in weights.param_groups] == [4, 2]
    assert isinstance(steps, AdamW) and len(steps.param_groups[0]["params"]) == 2


def test_progress_moves_rates_and_temperatures() -> None:
    net, recipe = model("llt"), RECIPES["llt"]
    optimizers = make_optimizers(net, recipe)
    quantizer = net[2].input_quantizer
    seen = []
    for progress in (0.0, 0.1, 0.25, 0.5, 0.9):
        set_progress(net, optimizers, recipe, progress)
        seen.append((optimizers[0].param_groups[0]["lr"], quantizer.temperature))
    assert [rate for rate, _ in seen] == pytest.approx([0.01, 0.01, 0.01, 1e-3, 1e-4])
    assert [tau for _, tau in seen] == pytest.approx([1.0, 10**-1.2, 1e-3, 1e-3, 1e-3])
    network = model("quantization_network", weight_options={"temperature_step": 10.0, "epochs": 50})
    set_progress(network, [], RECIPES["quantization_network"], 0.5)
    assert network[0].weight_quantizer.temperature == 260
    set_progress(network, [], RECIPES["quantization_network"], 1.0)
    assert network[0].input_quantizer.temperature == 5 * 56


def test_warm_up_and_cosine() -> None:
    recipe = RECIPES["nulsq"]
    assert recipe.factor(recipe.warmup / 2) == pytest.approx(0.5)
    assert recipe.factor(recipe.warmup) == pytest.approx(1)
    assert recipe.factor(1.0) == pytest.approx(0)
    short = RECIPES["llt"].short(2, 0.001)
    assert short.epochs == 2 and short.quantizer_lr == pytest.approx(0.001) and short.factor(1.0) == pytest.approx(0)


def test_phases_of_quantization_networks() -> None:
    net = model("quantization_network")
    x = torch.rand(20, 6)
    set_phase(net, "weights")
    assert net.train()(x).requires_grad
    layer = net[2]
    values = torch.rand(100)
    assert torch.equal(layer.input_quantizer(values), values)
    assert layer.frozen().input_quantizer is None  # what is converted now has float inputs, as trained
    set_phase(net, "inputs")
    assert not layer.original_weight.requires_grad and not layer.weight_quantizer.alpha.requires_grad
    assert layer.input_quantizer.alpha.requires_grad
    (optimizer,) = make_optimizers(net, RECIPES["quantization_network"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2 + 4  # biases; alpha and beta of inputs
    layer.eval()
    assert layer.input_quantizer(values).unique().numel() <= 8
    set_phase(net, "both")
    assert layer.original_weight.requires_grad
    with pytest.raises(LutcError, match="cannot set the training phase"):
        set_phase(nn.Linear(2, 2), "both")


def test_three_phases_train() -> None:
    """The recipe's phases in order lower the loss of a small regression."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(512, 8)
    y = (x[:, :1] * x[:, 1:2]).tanh() + 0.5 * x[:, 2:3]
    plain = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        plain.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        plain.step()
    quantize_(net, ScalarConfig("quantization_network", 3, 3, weight_options={"fit_alpha": True}), calibration=[x])
    recipe = RECIPES["quantization_network"].short(1, 1e-3)
    before = float(nn.functional.mse_loss(net.eval()(x), y).detach())
    for phase in recipe.phases:
        set_phase(net, phase)
        optimizers = make_optimizers(net.train(), recipe)
        for step in range(100):
            set_progress(net, optimizers, recipe, step / 100)
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            clip_gradients(net, recipe)
            for optimizer in optimizers:
                optimizer.step()
    assert float(nn.functional.mse_loss(net.eval()(x), y).detach()) < 0.7 * before
