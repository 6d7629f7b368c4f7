"""Initial centroids and input ranges of a model's lookup-table layers, from the activations of the float model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.nn.columns import RowColumns
from lutc.nn.eval_mode import eval_mode
from lutc.nn.hash_tree import leaf_means, learn_trees
from lutc.nn.kmeans import kmeans, squared_distances
from lutc.nn.layer import LUTLayer
from lutc.nn.least_squares import TableFit
from lutc.nn.lookup import codes_of
from lutc.nn.output_metric import metric_root, shared_metric
from lutc.nn.patches import split_subvectors
from lutc.nn.reservoir import InputRange, Reservoir

ROWS_PER_CENTROID = 256  # as many as k-means libraries use; more does not move the centroids
TEMPERATURE_FRACTION = 0.3  # initial temperature as a part of the mean distance between inputs and their centroids


class Record:
    """What calibration keeps of one layer's inputs: a sample of the rows, and the range of all.

    followers : layers that will search as this one, so that its metric is for the outputs of all.
    rows_per_centroid : size of the sample.
    """

    def __init__(
        self,
        layer: LUTLayer,
        seed: int,
        followers: Sequence[LUTLayer] = (),
        rows_per_centroid: int = ROWS_PER_CENTROID,
    ) -> None:
        self.layer, self._followers = layer, followers
        self.sample = Reservoir(rows_per_centroid * layer.config.num_centroids, seed)
        self.range = InputRange()

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(inputs[0])

    def add(self, x: Tensor) -> None:
        rows = self.layer.input_rows(x)
        self.sample.add(rows)
        self.range.add(rows)

    def subvectors(self) -> Tensor:
        """The sample as [C, N, V], on the layer's device."""
        assert self.sample.rows is not None
        rows = self.sample.rows.to(self.layer.centroids.device)
        return split_subvectors(rows, self.layer.num_codebooks, self.layer.subvector_len).contiguous()

    def metric(self) -> Tensor:
        return shared_metric((self.layer, *self._followers))


@torch.no_grad()
def calibrate_layers(
    model: nn.Module,
    twins: Mapping[str, LUTLayer],
    batches: Iterable[object],
    seed: int,
    groups: Iterable[Sequence[LUTLayer]] = (),
) -> None:
    """Run the float model over `batches` and initialise the twins, named as the float layers they will replace.

    groups : layers that share the codebooks of the first of them from now on; each has a table of its own.

    Raises
    ------
    LutcError : a layer was never reached, or saw values that are not finite.
    """
    followers = {first: others for first, *others in groups}
    records = {
        name: Record(layer, seed + index, followers.get(layer, ())) for index, (name, layer) in enumerate(twins.items())
    }
    observe(model, records, batches)
    sharing = {layer for others in followers.values() for layer in others}
    for index, (name, record) in enumerate(records.items()):
        if record.layer not in sharing:
            initialise(name, record, seed + index)
    for record in records.values():
        for other in followers.get(record.layer, ()):
            other.share_codebooks(record.layer)
            if other.config.encoder == "tree":
                _free_prototypes(other, record.subvectors())


def observe(model: nn.Module, records: Mapping[str, Record], batches: Iterable[object]) -> None:
    """Record the inputs of the modules of these names, with the model in eval mode.

    Raises
    ------
    LutcError : one of them was never reached.
    """
    hooks = [model.get_submodule(name).register_forward_pre_hook(record.hook) for name, record in records.items()]
    try:
        with eval_mode(model):
            for batch in batches:
                call_model(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name, record in records.items() if record.sample.rows is None or not len(record.sample.rows)]
    if missed:
        raise LutcError(
            "the batches did not reach every layer",
            where=", ".join(missed),
            reason=f"they never ran {len(missed)} of {len(records)} layers",
            fix="pass batches that use these layers, or keep them float with filter_fn",
        )


def initialise(name: str, record: Record, seed: int, *, free_trees: bool = True) -> None:
    """Input range, centroids and temperature of a layer from what was recorded.

    The table of trees is free afterwards, or with free_trees=False the product of the leaves' means and the weight.
    """
    layer = record.layer
    low, high = record.range.low, record.range.high
    assert low is not None and high is not None
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise LutcError(
            f'cannot calibrate "{name}"',
            where=name,
            reason="its inputs hold NaN or infinity",
            fix="look for the cause in the calibration data or in the float model",
        )
    shape = (layer.num_codebooks, layer.subvector_len)
    by_codebook = [split_subvectors(edge[None], *shape)[:, 0] for edge in (low, high)]
    layer.set_input_range(by_codebook[0].amin(1), by_codebook[1].amax(1))
    data = record.subvectors()
    if layer.config.encoder == "tree":
        _plant(layer, data, record.metric() if layer.config.metric == "outputs" else None)
        if free_trees:
            _free_prototypes(layer, data)
        return
    seen = data
    if layer.metric is not None:
        layer.metric.copy_(record.metric())
        seen = torch.bmm(data, metric_root(layer.metric).to(data.dtype))
    centroids = kmeans(seen, layer.config.num_centroids, seed=seed)
    distance, codes = squared_distances(seen, centroids).min(-1)
    if seen is not data:  # a metric that is singular has no way back
        centroids = leaf_means(data, codes, layer.config.num_centroids)
    layer.set_centroids(centroids, max(TEMPERATURE_FRACTION * float(distance.sqrt().mean()), 1e-3))


def _plant(layer: LUTLayer, data: Tensor, metric: Tensor | None) -> None:
    """Hash trees of data [C, N, V], their leaves' means as prototypes; without a metric splits are chosen as in
    Maddness."""
    factor = None if metric is None else metric_root(metric)
    dims, thresholds = learn_trees(data, layer.config.num_centroids.bit_length() - 1, factor)
    spread = float(data.std(unbiased=False))
    layer.set_trees(dims, thresholds, max(TEMPERATURE_FRACTION * spread, 1e-3))
    layer.set_centroids(leaf_means(data, _sample_codes(layer, data), layer.config.num_centroids))


def _free_prototypes(layer: LUTLayer, data: Tensor) -> None:
    """The table, of prototypes that ridge regression improved on data [C, N, V] (Maddness, section 4.3).

    They reach over all inputs of the layer, so that codebooks correct each other: the table, centroid times weight no
    more, is free.
    """
    codebooks, leaves, length = layer.centroids.shape
    start = layer.centroids.new_zeros(codebooks, leaves, codebooks, length)
    each = torch.arange(codebooks)
    start[each, :, each] = layer.centroids
    rows = _rows(data)
    fit = TableFit(start.flatten(2))
    fit.add(_sample_codes(layer, data), rows)
    weight = layer.dense_weight().double()
    layer.free_table(fit.solve(leaves / len(rows))[..., : weight.shape[1]] @ weight.T)


def _rows(data: Tensor) -> Tensor:
    return data.transpose(0, 1).reshape(data.shape[1], -1)


def _sample_codes(layer: LUTLayer, data: Tensor) -> Tensor:
    """Codes int64 [C, N] of data [C, N, V]."""
    columns = RowColumns(layer.num_codebooks, layer.subvector_len)
    return codes_of(_rows(data).to(layer.centroids), columns, layer.search())


def call_model(model: nn.Module, batch: object) -> None:
    """Run a model on one batch: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(batch, Tensor):
        model(batch)
    elif isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        raise LutcError(
            "cannot use a calibration batch",
            where="calibration",
            reason=f"a batch is a {type(batch).__name__}",
            fix="yield tensors, tuples of positional arguments, or dicts of keyword arguments of the model",
        )
