"""Inference forms of the layers: buffers only, one exact op per call; `quantize_(step="convert")` makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.layer import LUTLayer

CONSTANTS = ("centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult")
TREE_CONSTANTS = (*CONSTANTS, "split_dims", "split_thresholds")


class FrozenLUTLayer(nn.Module):
    """Buffers under their ONNX names (docs/ops); absent ones are None."""

    def __init__(self, layer: LUTLayer, layer_name: str) -> None:
        super().__init__()
        self.config: LUTConfig = layer.config
        constants = layer.constants()
        self._names = TREE_CONSTANTS if layer.config.encoder == "tree" else CONSTANTS
        for name in self._names:
            self.register_buffer(name, constants[name])
        self.op_attributes = layer.attributes()
        self.set_name(layer_name)
        if constants["inv_scale"] is not None:
            self.register_buffer("input_signed", torch.tensor(layer.signed, device=constants["inv_scale"].device))
        self._text = layer.extra_repr()
        self.train(layer.training)

    def tensors(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in self._names}

    def set_name(self, name: str) -> None:
        """The layer's qualified name in its model: how files, reports and errors call it."""
        self.op_attributes = self.op_attributes | {"layer": name}

    def extra_repr(self) -> str:
        return self._text

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if "input_signed" in self._buffers:
            self.op_attributes["input_signed"] = bool(self.input_signed)


class FrozenLUTLinear(FrozenLUTLayer):
    """x float32 [..., D] -> [..., M] through torch.ops.lutc.lut_dense."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.lutc.lut_dense(x, **self.tensors(), **self.op_attributes)


class FrozenLUTConv2d(FrozenLUTLayer):
    """x float32 [B, Cin, H, W] -> [B, M, OH, OW] through torch.ops.lutc.lut_conv2d."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.lutc.lut_conv2d(x, **self.tensors(), **self.op_attributes)
