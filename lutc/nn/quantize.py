"""quantize_: float model -> trainable lookup-table model -> tables, in place."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lutc.config import LUTConfig, ScalarConfig
from lutc.errors import LutcError
from lutc.nn.calibration import calibrate_layers
from lutc.nn.conv2d import LUTConv2d, unsupported_conv
from lutc.nn.frozen import FrozenLUTConv2d, FrozenLUTLayer, FrozenLUTLinear
from lutc.nn.layer import LUTLayer
from lutc.nn.linear import LUTLinear
from lutc.nn.quantized_layer import QuantizedLayer, quantized_twin, unsupported_scalar
from lutc.nn.scalar_calibration import calibrate_quantizers, freeze_quantizers, negative_inputs

LayerConfig = LUTConfig | ScalarConfig
Config = LayerConfig | Mapping[str, LayerConfig | None]


@dataclass(frozen=True)
class QuantizeRow:
    """What became of one dense or convolution layer: kind is "lut", "scalar" or "float", and why."""

    name: str
    kind: Literal["lut", "scalar", "float"]
    reason: str


def quantize_(
    model: nn.Module,
    config: Config = LUTConfig(),  # noqa: B008  (frozen)
    *,
    step: Literal["prepare", "convert"] = "prepare",
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    calibration: Iterable[object] | None = None,
    share: Iterable[Sequence[str]] = (),
    seed: int = 0,
) -> list[QuantizeRow]:
    """Swap layers of a model in place. Nothing is changed where an error is raised.

    step="prepare" replaces torch.nn.Linear and torch.nn.Conv2d by LUTLinear and LUTConv2d, or with a ScalarConfig by
    QuantizedLinear and QuantizedConv2d, ready to train; weights are shared with the float layers, but those of
    calibrated trees, whose tables are free (`LUTLayer.free_table`). step="convert" replaces those by their inference
    form, ready to export; config, filter_fn and calibration are not used then.

    Parameters
    ----------
    config : settings of every layer, or a mapping of qualified-name patterns ("layer1.*.conv?") to settings, of which
        the first that matches counts; None and no match keep a layer float.
    filter_fn : called with (module, qualified name); False keeps a layer float.
    calibration : batches of inputs (a tensor, a tuple of arguments or a dict of keyword arguments). Centroids then
        start from k-means on the float model's own activations, and 8-bit input scales from their ranges; without
        it centroids are random and inputs are expected within +-4. Scalar quantizers of inputs start from these
        activations, else from the first batch of training. A generator is read once and not kept, unless there are
        scalar quantizers too.
    share : groups of names of layers that read the same tensor, query, key and value for example; they get one set of
        codebooks, which is then searched once. Each group starts from its first layer's.
    seed : of the sampling and of k-means.

    Returns
    -------
    One row per dense or convolution layer, in the model's order.

    Raises
    ------
    LutcError : no layer is left to swap, a pattern matches nothing, the model is itself the layer, or calibration
        fails.
    """
    if step == "prepare":
        return _prepare(model, config, filter_fn, calibration, share, seed)
    if step == "convert":
        return _convert(model)
    raise LutcError(
        "cannot quantize the model", where="step", reason=f"{step!r} is no step", fix='use "prepare" or "convert"'
    )


def _prepare(
    model: nn.Module,
    config: Config,
    filter_fn: Callable[[nn.Module, str], bool] | None,
    calibration: Iterable[object] | None,
    share: Iterable[Sequence[str]],
    seed: int,
) -> list[QuantizeRow]:
    chosen = chosen_settings(model, config)
    batches = calibration
    if batches is not None and any(isinstance(c, ScalarConfig) for c in chosen.values()):
        batches = list(
            batches
        )  # looked at several times; tables need one pass, so that a stream need not fit in memory
    unsure = [name for name, c in chosen.items() if isinstance(c, ScalarConfig) and c.input_signed is None]
    negative = negative_inputs(model, unsure, batches or ())
    rows, tables, quantized = plan(model, chosen, filter_fn, negative)
    groups = shared_layers(tables, share)
    if batches is not None and tables:
        calibrate_layers(model, tables, batches, seed, groups)
    else:
        for first, *others in groups:
            for layer in others:
                layer.share_codebooks(first)
    if batches is not None and quantized:
        calibrate_quantizers(model, quantized, batches)
    swap(model, {model.get_submodule(name): twin for name, twin in (tables | quantized).items()})
    return rows


def chosen_settings(model: nn.Module, config: Config) -> dict[str, LayerConfig | None]:
    """The settings of every dense and convolution layer, None for those that stay float."""
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    _check_patterns(config, names)
    return {name: _config_for(config, name, name in (names[0], names[-1])) for name in names}


def plan(
    model: nn.Module,
    chosen: Mapping[str, LayerConfig | None],
    filter_fn: Callable[[nn.Module, str], bool] | None,
    negative: Collection[str] = (),
) -> tuple[list[QuantizeRow], dict[str, LUTLayer], dict[str, QuantizedLayer]]:
    """What becomes of each layer, and the twins, tables and scalar, of those that change; the model stays as it is."""
    rows, tables, quantized = [], {}, {}
    for name, settings in chosen.items():
        module = model.get_submodule(name)
        reason = _keep_float(module, name, settings, filter_fn)
        if reason is not None:
            rows.append(QuantizeRow(name, "float", reason))
            continue
        _check_not_root(name)
        if isinstance(settings, ScalarConfig):
            quantized[name] = quantized_twin(name, module, settings, settings.input_signed or name in negative)
            rows.append(QuantizeRow(name, "scalar", quantized[name].scalar_repr()))
        else:
            assert settings is not None
            tables[name] = _twin(module, settings)
            rows.append(QuantizeRow(name, "lut", tables[name].lut_repr()))
    if not tables and not quantized:
        raise _nothing_to_do("no dense or convolution layer is eligible", rows)
    return rows, tables, quantized


def shared_layers(twins: Mapping[str, LUTLayer], share: Iterable[Sequence[str]]) -> list[list[LUTLayer]]:
    """The layers of each group, checked: they exist, and their codebooks have one shape.

    Raises
    ------
    LutcError : they do not, or have not.
    """
    groups = [list(names) for names in share]
    for names in groups:
        unknown = [name for name in names if name not in twins]
        if unknown:
            raise LutcError(
                "cannot share codebooks",
                where=", ".join(unknown),
                reason="no layer of this name becomes a lookup table with codebooks",
                fix=f"the layers that do are {', '.join(twins)}",
            )
        shapes = {name: (tuple(twins[name].centroids.shape), twins[name].config.search_key()) for name in names}
        if len(set(shapes.values())) > 1:
            raise LutcError(
                "cannot share codebooks",
                where=", ".join(names),
                reason=f"they are different: {', '.join(f'{n} {s[0]}' for n, s in shapes.items())} (C, K, V)",
                fix="give layers that share the same settings and input size",
            )
    return [[twins[name] for name in names] for names in groups]


def _convert(model: nn.Module) -> list[QuantizeRow]:
    rows, frozen = [], freeze_quantizers(model)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            _check_not_root(name)
            frozen[module] = module.frozen().train(module.training)
            rows.append(QuantizeRow(name, "scalar", module.scalar_repr()))
        elif isinstance(module, LUTLayer):
            _check_not_root(name)
            form = FrozenLUTLinear if isinstance(module, LUTLinear) else FrozenLUTConv2d
            frozen[module] = form(module, name)
            rows.append(QuantizeRow(name, "lut", module.lut_repr()))
        elif isinstance(module, FrozenLUTLayer):
            rows.append(QuantizeRow(name, "lut", "converted before"))
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            rows.append(QuantizeRow(name, "float", "not prepared"))
    if not frozen:
        raise _nothing_to_do("the model holds no layer in its training form", rows)
    swap(model, frozen)
    return rows


def _keep_float(
    module: nn.Module,
    name: str,
    settings: LayerConfig | None,
    filter_fn: Callable[[nn.Module, str], bool] | None,
) -> str | None:
    """Why a layer stays float, or None."""
    if settings is None:
        return "no settings for it in config, or the first or last layer of a method that keeps those float"
    if filter_fn is not None and not filter_fn(module, name):
        return "excluded by filter_fn"
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"{type(module).__name__} is a subclass whose owner may read its weight directly"
    if isinstance(settings, ScalarConfig):
        return unsupported_scalar(module)
    if not isinstance(module, nn.Conv2d):
        return None
    if 1 < module.groups == module.in_channels:
        return "depthwise: its table would be larger than the layer, and slower"
    return unsupported_conv(module)


def _twin(module: nn.Module, settings: LUTConfig) -> LUTLayer:
    if isinstance(module, nn.Conv2d):
        return LUTConv2d.from_float(module, settings)
    assert isinstance(module, nn.Linear)
    return LUTLinear.from_float(module, settings)


def _config_for(config: Config, name: str, at_edge: bool) -> LayerConfig | None:
    if isinstance(config, Mapping):
        found = next((value for pattern, value in config.items() if fnmatch.fnmatchcase(name, pattern)), None)
    else:
        found = config
    return found.at_edge() if at_edge and isinstance(found, ScalarConfig) else found


def _check_patterns(config: Config, names: list[str]) -> None:
    if not isinstance(config, Mapping):
        return
    for pattern in config:
        if not fnmatch.filter(names, pattern):
            raise LutcError(
                f'pattern "{pattern}" matches no layer',
                where="config",
                reason=f"the model's dense and convolution layers are {', '.join(names) or 'none'}",
                fix="use a qualified name, * and ? allowed",
            )


def _check_not_root(name: str) -> None:
    if not name:
        raise LutcError(
            "cannot swap a layer in place",
            where="model",
            reason="the model is itself the layer, so nothing holds it",
            fix="wrap it: torch.nn.Sequential(layer), or call LUTLinear.from_float / LUTConv2d.from_float",
        )


def _nothing_to_do(reason: str, rows: list[QuantizeRow]) -> LutcError:
    kept = "".join(f"\n{row.name}: {row.reason}" for row in rows)
    return LutcError(
        "nothing to quantize",
        where="model",
        reason=reason + kept,
        fix='check filter_fn and config; step="prepare" comes before step="convert"',
    )


def swap(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules under every name they have, so a layer used twice stays one layer.

    torch.nn.TransformerEncoderLayer gives the weights of its linears to one fused operation in eval mode, past the
    modules; where one of them changes that is switched off.
    """
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in replacements:
                setattr(parent, key, replacements[child])
                if isinstance(parent, nn.TransformerEncoderLayer):
                    parent.activation_relu_or_gelu = 0  # which activation the fused operation is to use; 0 is none
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in module.layers
        ):
            module.use_nested_tensor = False
