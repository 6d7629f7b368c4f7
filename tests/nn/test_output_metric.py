"""Distances as the outputs see them: the metric itself, and what it is worth where codebooks are learned."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lutc import reference
from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.export import export_model
from lutc.importers.lut_layer import LUTLayer
from lutc.nn import LUTLinear, quantize_, reconstruct_
from lutc.nn.codebook import integer_codebook, inverse_scale, linear_scores
from lutc.nn.frozen import FrozenLUTLinear
from lutc.nn.lookup import codes_of
from lutc.nn.output_metric import metric_root, output_metric, refresh_metrics_


def test_a_difference_is_as_long_as_the_error_it_makes_in_the_outputs():
    torch.manual_seed(0)
    weight, length = torch.randn(7, 10, dtype=torch.float64), 4  # the last subvector is padded
    metric = output_metric(weight, 3, length)
    assert torch.equal(metric, metric.mT)
    torch.testing.assert_close(metric.diagonal(dim1=1, dim2=2).mean(1), torch.ones(3, dtype=torch.float64))
    difference = torch.randn(3, length, dtype=torch.float64)
    outputs = torch.nn.functional.pad(weight, (0, 2)).reshape(7, 3, length)
    error = torch.einsum("cv,mcv->cm", difference, outputs).square().sum(1)
    found = torch.einsum("cv,cvw,cw->c", difference, metric, difference)
    scale = outputs.square().sum((0, 2)) / length  # what the metric is in units of
    torch.testing.assert_close(found * scale, error)
    root = metric_root(metric)
    torch.testing.assert_close(torch.bmm(difference[:, None], root).square().sum((1, 2)), found)


def test_without_weight_all_directions_count_alike():
    assert torch.equal(output_metric(torch.zeros(2, 6), 2, 3), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


def test_scores_order_the_centroids_as_distances_do():
    torch.manual_seed(0)
    x, centroids = torch.randn(3, 500, 6, dtype=torch.float64), torch.randn(3, 16, 6)
    metric = output_metric(torch.randn(9, 18), 3, 6)
    pulls, squares = linear_scores(centroids, metric)
    difference = x[:, :, None] - centroids.double()[:, None]
    distance = torch.einsum("cnkv,cvw,cnkw->cnk", difference, metric, difference)
    scores = torch.bmm(x, pulls.mT) - squares[:, None] / 2
    assert torch.equal(scores.argmax(2), distance.argmin(2))

    scale = inverse_scale(x.amin((1, 2)), x.amax((1, 2)), signed=True).float()
    integers, bias, _ = integer_codebook(centroids, scale, 1, metric)
    rounded = (x * scale[:, None, None]).round().clamp(-128, 127)
    codes = (torch.bmm(rounded, integers.double().mT) + bias[:, None]).argmax(2)
    assert (codes == distance.argmin(2)).double().mean() > 0.97


def skewed_layer(kind: str, seed: int) -> tuple[nn.Module, Tensor]:
    """Inputs vary most where the weight is smallest."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 1, 8)
    if kind == "linear":
        layer, x = nn.Linear(16, 12), torch.randn(800, 16, generator=generator) * sizes.repeat(2)
        layer.weight.data.copy_(torch.randn(12, 16, generator=generator) / sizes.repeat(2))
        return layer, x
    layer, x = nn.Conv2d(8, 12, 1), torch.randn(8, 8, 10, 10, generator=generator) * sizes[:, None, None]
    layer.weight.data.copy_(torch.randn(12, 8, 1, 1, generator=generator) / sizes[:, None, None])
    return layer, x


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
@pytest.mark.parametrize("encoder", ["l2", "tree"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_outputs_are_closer_than_with_euclidean_distances(kind: str, encoder: str, encode_dtype: str):
    errors = {}
    for metric in ("inputs", "outputs"):
        float_layer, x = skewed_layer(kind, 0)
        model = nn.Sequential(float_layer)
        wanted = float_layer(x).detach()
        config = LUTConfig(16, 8, encoder, encode_dtype, metric=metric)
        reconstruct_(model, config, calibration=[x], free=False)
        errors[metric] = float((model.eval()(x).detach() - wanted).square().mean() / wanted.var())
    assert errors["outputs"] < 0.8 * errors["inputs"], errors


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
def test_one_search_in_training_in_torch_and_in_the_file(encode_dtype: str, tmp_path):
    layer, x = skewed_layer("linear", 1)
    model = nn.Sequential(layer)
    quantize_(model, LUTConfig(16, 4, encode_dtype=encode_dtype), calibration=[x])
    lut = model[0]
    assert isinstance(lut, LUTLinear) and lut.metric is not None
    trained = lut.train()(x).detach()
    frozen = FrozenLUTLinear(lut, "0").eval()
    constants = {name: None if value is None else value.numpy() for name, value in frozen.tensors().items()}
    given = reference.codes(LUTLayer("0", constants, encode_dtype, input_signed=lut.signed), x.numpy())
    assert (codes_of(x, lut.columns(), lut.search()).numpy() == given.T).all()
    torch.testing.assert_close(frozen(x), trained, rtol=1e-6, atol=1e-6)
    quantize_(model.eval(), step="convert")
    export_model(model, (x,), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), trained, rtol=1e-6, atol=1e-6)


class Heads(nn.Module):
    """Two layers that read one input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.query(x), self.key(x)), 1)


@pytest.mark.parametrize("make", [quantize_, reconstruct_])
def test_a_shared_metric_is_for_the_outputs_of_all(make):
    model, x = Heads(), torch.randn(300, 8)
    weight = torch.cat((model.query.weight, model.key.weight)).detach()
    make(model, LUTConfig(8, 4), calibration=[x], share=[("query", "key")])
    assert model.key.metric is model.query.metric is not None
    torch.testing.assert_close(model.query.metric, output_metric(weight, 2, 4).float())
    other = Heads()
    with pytest.raises(LutcError, match="cannot share codebooks"):
        settings = {"query": LUTConfig(8, 4), "key": LUTConfig(8, 4, metric="inputs")}
        make(other, settings, calibration=[x], share=[("query", "key")])


@pytest.mark.parametrize("share", [[], [("query", "key")]])
def test_a_metric_follows_the_weights(share):
    model, x = Heads(), torch.randn(300, 8)
    quantize_(model, LUTConfig(8, 4), calibration=[x], share=share)
    before = model.query.metric.clone()
    refresh_metrics_(model)
    assert torch.equal(model.query.metric, before)  # the weights have not moved
    for layer in (model.query, model.key):
        layer.weight.data.normal_()
    refresh_metrics_(model)
    both = torch.cat((model.query.weight, model.key.weight))
    wanted = [both, both] if share else [model.query.weight, model.key.weight]
    for layer, weight in zip((model.query, model.key), wanted, strict=True):
        torch.testing.assert_close(layer.metric, output_metric(weight, 2, 4).float())
    trained = model.train()(x).detach()
    torch.testing.assert_close(model.eval()(x), trained, rtol=1e-6, atol=1e-6)
    model.query.free_table(), model.key.free_table()
    kept = model.query.metric.clone()
    refresh_metrics_(model)
    assert torch.equal(model.query.metric, kept)  # no weight to follow


def test_models_without_a_metric_have_none_to_refresh():
    for config in (LUTConfig(8, 4, metric="inputs"), LUTConfig(8, 4, "tree")):
        model = Heads()
        quantize_(model, config, calibration=[torch.randn(100, 8)])
        refresh_metrics_(model)
        assert model.query.metric is None


def test_without_a_metric_distances_are_euclidean():
    layer, x = LUTLinear(8, 4, config=LUTConfig(16, 8, metric="inputs")), torch.randn(50, 8)
    assert layer.metric is None and "metric" not in layer.state_dict()
    codes = codes_of(x, layer.columns(), layer.search())
    assert (codes == torch.cdist(x.reshape(50, 1, 8).transpose(0, 1), layer.centroids).argmin(2)).float().mean() > 0.9
