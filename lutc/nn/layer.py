"""What LUTLinear and LUTConv2d share: centroids, table, scales, training forward and the constants of inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.codebook import float_table, integer_codebook, inverse_scale, quantize_table, table_scale
from lutc.nn.patches import split_subvectors
from lutc.nn.soft_pq import Search, fake_quantized, soft_lookup

INITIAL_TEMPERATURE = 0.065
_DEFAULT_RANGE = 4.0  # inputs expected within +-4 until `set_input_range` is told better


class LUTLayer(nn.Module):
    """Base class.

    Parameters: centroids float32 [C, K, V], weight as in the float twin, bias [M] or None, log_temperature [].
    Buffers, with encode_dtype="int8" only: inv_scale float32 [C] and input_signed bool [].
    In train() the forward is soft-PQ; in eval() it is exactly what `export_model` writes.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, config: LUTConfig, subvector_len: int) -> None:
        super().__init__()
        self.config = config
        self.weight = weight
        self.register_parameter("bias", bias)
        options = {"device": weight.device, "dtype": weight.dtype}
        num_codebooks = -(-weight[0].numel() // subvector_len)
        self.centroids = nn.Parameter(torch.randn(num_codebooks, config.num_centroids, subvector_len, **options))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(INITIAL_TEMPERATURE), **options))
        self.signed = True
        if config.encode_dtype == "int8":
            self.register_buffer("inv_scale", torch.full((num_codebooks,), 127 / _DEFAULT_RANGE, **options))
            self.register_buffer("input_signed", torch.tensor(True, device=weight.device))

    @property
    def num_codebooks(self) -> int:
        return self.centroids.shape[0]

    @property
    def subvector_len(self) -> int:
        return self.centroids.shape[2]

    def input_rows(self, x: Tensor) -> Tensor:
        """x -> rows [N, D] that are split into subvectors."""
        raise NotImplementedError

    def soft_rows(self, x: Tensor) -> Tensor:
        """Training forward on the rows of x: [N, M], bias included."""
        rows = self.input_rows(x)
        table = float_table(self.centroids, self.weight)
        if self.config.table_dtype == "int8":
            table = fake_quantized(table)
        search = Search(self.inv_scale if self.config.encode_dtype == "int8" else None, self.signed)
        subvectors = split_subvectors(rows, self.num_codebooks, self.subvector_len)
        y = soft_lookup(subvectors, self.centroids, table, self.log_temperature.exp(), search)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def constants(self) -> dict[str, Tensor | None]:
        """The tensors of inference under their ONNX names; see docs/ops."""
        exact = float_table(self.centroids.double(), self.weight.double())
        centroids, inv_scale, score_bias = self.centroids.detach().clone(), None, None
        if self.config.encode_dtype == "int8":
            inv_scale = self.inv_scale.clone()
            centroids, score_bias, _ = integer_codebook(self.centroids, inv_scale)
        if self.config.table_dtype == "int8":
            scale = table_scale(exact)
            table = quantize_table(exact, scale).to(torch.int8)
        else:
            scale, table = torch.ones_like(exact[0, 0], dtype=torch.float32), exact.float()
        bias = None if self.bias is None else self.bias.detach().clone()
        return {
            "centroids": centroids,
            "table": table,
            "table_scale": scale,
            "bias": bias,
            "inv_scale": inv_scale,
            "score_bias": score_bias,
            "mult": None,
        }

    @torch.no_grad()
    def set_input_range(self, low: Tensor, high: Tensor) -> None:
        """Calibrate the 8-bit input scale from the smallest and largest input of each codebook, [C] and [C].

        Inputs that are never negative use 0..255, others -128..127. Nothing to do with encode_dtype="float32".
        """
        if self.config.encode_dtype != "int8":
            return
        self.signed = bool((low < 0).any())
        self.input_signed.fill_(self.signed)
        self.inv_scale.copy_(inverse_scale(low, high, self.signed))

    @torch.no_grad()
    def set_centroids(self, centroids: Tensor, temperature: float | None = None) -> None:
        """Overwrite the centroids [C, K, V] and, where given, the temperature."""
        self.centroids.copy_(centroids)
        if temperature is not None:
            self.log_temperature.fill_(math.log(temperature))

    def lut_repr(self) -> str:
        config = self.config
        return (
            f"K={config.num_centroids}, V={self.subvector_len}, C={self.num_codebooks}, "
            f"encode={config.encode_dtype}, table={config.table_dtype}"
        )

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.config.encode_dtype == "int8":
            self.signed = bool(self.input_signed)
