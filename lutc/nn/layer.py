"""What LUTLinear and LUTConv2d share: centroids, table, scales, training forward and the constants of inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.codebook import float_table, integer_codebook, inverse_scale, linear_scores, quantize_table, table_scale
from lutc.nn.columns import Columns
from lutc.nn.lookup import hard_lookup, soft_lookup
from lutc.nn.search import Search
from lutc.nn.soft_pq import ClosestCentroid
from lutc.nn.soft_tree import SoftTree
from lutc.nn.tree_flips import TreeFlips
from lutc.nn.tree_walk import integer_thresholds

INITIAL_TEMPERATURE = 0.065
_DEFAULT_RANGE = 4.0  # inputs expected within +-4 until `set_input_range` is told better


class LUTLayer(nn.Module):
    """Base class.

    Parameters: centroids float32 [C, K, V], weight as in the float twin, bias [M] or None, log_temperature []. After
    `free_table` there is a table float32 [C, K, M] in place of the weight, trained directly.
    With encoder="tree" also split_thresholds float32 [C, K - 1], in units of x, and the buffer split_dims int32
    [C, log2 K]; the centroids are then the leaves' prototypes, which only the table is made of.
    Buffers: metric float32 [C, V, V] where distances are measured with one (`output_metric`), else None; of an integer
    search inv_scale float32 [C] and input_signed bool [].
    In train() the forward has a gradient, soft-PQ's or that of the config's trees; in eval() it is exactly what
    `export_model` writes.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        config: LUTConfig,
        in_elements: int,
        subvector_len: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.weight = weight
        self.register_parameter("bias", bias)
        self.register_parameter("table", None)
        options = {"device": weight.device, "dtype": weight.dtype}
        num_codebooks = -(-in_elements // subvector_len)
        self.centroids = nn.Parameter(torch.randn(num_codebooks, config.num_centroids, subvector_len, **options))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(INITIAL_TEMPERATURE), **options))
        if config.encoder == "tree":
            levels = config.num_centroids.bit_length() - 1
            dims = torch.arange(levels, dtype=torch.int32, device=weight.device) % subvector_len
            self.register_buffer("split_dims", dims.repeat(num_codebooks, 1))
            self.split_thresholds = nn.Parameter(torch.randn(num_codebooks, config.num_centroids - 1, **options))
        metric = None
        if config.metric == "outputs" and config.encoder == "l2":
            metric = torch.eye(subvector_len, **options).repeat(num_codebooks, 1, 1)
        self.register_buffer("metric", metric)
        self.signed = True
        if config.grid is not None:
            self.register_buffer("inv_scale", torch.full((num_codebooks,), 127 / _DEFAULT_RANGE, **options))
            self.register_buffer("input_signed", torch.tensor(True, device=weight.device))

    @property
    def num_codebooks(self) -> int:
        return self.centroids.shape[0]

    @property
    def subvector_len(self) -> int:
        return self.centroids.shape[2]

    def columns(self) -> Columns:
        """How inputs become columns and columns outputs."""
        raise NotImplementedError

    def input_rows(self, x: Tensor) -> Tensor:
        """x -> rows [N, D] that are split into subvectors."""
        raise NotImplementedError

    def column_input(self, x: Tensor) -> Tensor:
        """x as `columns` takes it."""
        return x

    def output_rows(self, y: Tensor) -> Tensor:
        """An output of the layer -> rows [N, M], in the order of the input's rows."""
        raise NotImplementedError

    def search(self) -> Search:
        """The search with the present parameters, as training and the compiled layer do it."""
        grid = self.config.grid
        inv_scale = None if grid is None else self.inv_scale
        if self.config.encoder == "tree":
            tree = SoftTree if self.config.tree_gradient == "softmax" else TreeFlips
            return tree(self.split_dims, self.split_thresholds, self.log_temperature, inv_scale, self.signed)
        return ClosestCentroid(self.centroids, self.log_temperature, inv_scale, self.signed, grid or 1, self.metric)

    def float_table(self) -> Tensor:
        """The table [C, K, M]: centroid . weight products, or the free one."""
        return float_table(self.centroids, self.dense_weight()) if self.table is None else self.table

    def dense_weight(self) -> Tensor:
        """The weight [M, D] that multiplies the rows."""
        assert self.weight is not None, "a free table has no weight"
        return self.weight.flatten(1)

    @torch.no_grad()
    def free_table(self, table: Tensor | None = None) -> None:
        """Give up the weight: from now on the table [C, K, M] (by default the present one) is itself the parameter."""
        found = self.float_table() if table is None else table
        self.weight = None
        self.table = nn.Parameter(found.detach().to(self.centroids).clone().contiguous())
        if self.config.encoder == "tree":
            self.centroids.requires_grad_(False)

    @torch.no_grad()
    def correct_weight(self, correction: Tensor) -> None:
        """Add [C, V, M] to the weight, which is a parameter of its own then, no longer the float layer's."""
        assert self.weight is not None, "a free table has no weight"
        rows = correction.permute(2, 0, 1).flatten(1)[:, : self.weight[0].numel()]
        self.weight = nn.Parameter(self.weight + rows.reshape(self.weight.shape).to(self.weight))

    def soft_forward(self, x: Tensor) -> Tensor:
        """Training forward of x as `columns` takes it, without bias."""
        values, scale = self.read_table()
        return soft_lookup(x, self.float_table(), values, scale, self.columns(), self.search(), self.table is not None)

    @property
    def integer_lookup(self) -> bool:
        """Whether inference sums integers, so that any order of the sum gives the same bits."""
        return self.config.grid is not None and self.config.table_dtype == "int8"

    def hard_forward(self, x: Tensor) -> Tensor:
        """Inference on x as `columns` takes it, without bias; the bits of the op where `integer_lookup` holds."""
        return hard_lookup(x, *self.read_table(), self.columns(), self.search())

    @torch.no_grad()
    def read_table(self) -> tuple[Tensor, Tensor | None]:
        """What inference reads: integers and their scale [M], or the float table and None."""
        if self.table is None:
            exact = float_table(self.centroids.double(), self.dense_weight().double())
        else:
            exact = self.table.double()
        if self.config.table_dtype == "float32":
            return exact.to(self.centroids.dtype), None
        limit = 2 ** (self.config.table_bits - 1) - 1
        scale = table_scale(exact, limit)
        return quantize_table(exact, scale, limit).to(self.centroids.dtype), scale

    @torch.no_grad()
    def constants(self) -> dict[str, Tensor | None]:
        """The tensors of inference under their ONNX names and in the op's order; see docs/ops."""
        grid, tree = self.config.grid, self.config.encoder == "tree"
        centroids, inv_scale, score_bias = None, None if grid is None else self.inv_scale.clone(), None
        if grid is not None and inv_scale is not None and not tree:
            centroids, score_bias, _ = integer_codebook(self.centroids, inv_scale, grid, self.metric)
        elif not tree:
            pulls, squares = linear_scores(self.centroids, self.metric)
            centroids = pulls.to(self.centroids.dtype)
            score_bias = None if self.metric is None else (-0.5 * squares).to(self.centroids.dtype)
        table, scale = self.read_table()
        table = table.float() if scale is None else table.to(torch.int8)
        found: dict[str, Tensor | None] = {
            "centroids": centroids,
            "table": table,
            "table_scale": torch.ones_like(table[0, 0], dtype=torch.float32) if scale is None else scale,
            "bias": None if self.bias is None else self.bias.detach().clone(),
            "inv_scale": inv_scale,
            "score_bias": score_bias,
            "mult": None,
        }
        if tree:
            thresholds = self.split_thresholds.detach().clone()
            if inv_scale is not None:
                thresholds = integer_thresholds(thresholds, inv_scale, self.signed)
            found |= {"split_dims": self.split_dims.clone(), "split_thresholds": thresholds.float()}
        return found

    def search_attributes(self) -> dict[str, object]:
        """The attributes of the op that conv and dense have in common."""
        config = self.config
        tree: dict[str, object] = {"subvector_len": self.subvector_len} if config.encoder == "tree" else {}
        common: dict[str, object] = {
            "encode_dtype": config.encode_dtype,
            "encoder": config.encoder,
            "input_signed": self.signed,
        }
        return common | {"layer": ""} | tree

    @torch.no_grad()
    def set_input_range(self, low: Tensor, high: Tensor) -> None:
        """Calibrate the 8-bit input scale from the smallest and largest input of each codebook, [C] and [C].

        Inputs that are never negative use 0..255, others -128..127. Nothing to do with encode_dtype="float32".
        """
        if self.config.grid is None:
            return
        self.signed = bool((low < 0).any())
        self.input_signed.fill_(self.signed)
        self.inv_scale.copy_(inverse_scale(low, high, self.signed, self.config.grid))

    def share_codebooks(self, other: LUTLayer) -> None:
        """Search as `other` does, with its very parameters: trained together, equal in the exported file."""
        shared = ["centroids", "log_temperature", "metric"]
        if self.config.encoder == "tree":
            shared += ["split_thresholds", "split_dims"]
        if self.config.grid is not None:
            shared += ["inv_scale", "input_signed"]
        for name in shared:
            setattr(self, name, getattr(other, name))
        self.signed = other.signed

    @torch.no_grad()
    def set_trees(self, dims: Tensor, thresholds: Tensor, temperature: float) -> None:
        """Overwrite split_dims [C, L], split_thresholds [C, K - 1] and the temperature."""
        self.split_dims.copy_(dims)
        self.split_thresholds.copy_(thresholds)
        self.log_temperature.fill_(math.log(temperature))

    @torch.no_grad()
    def set_centroids(self, centroids: Tensor, temperature: float | None = None) -> None:
        """Overwrite the centroids [C, K, V] and, where given, the temperature."""
        self.centroids.copy_(centroids)
        if temperature is not None:
            self.log_temperature.fill_(math.log(temperature))

    def lut_repr(self) -> str:
        config = self.config
        tree = "tree " if config.encoder == "tree" else ""
        bits = f" of {config.table_bits} bits" if config.table_bits != 8 else ""
        free = " (free)" if self.table is not None else ""
        return (
            f"K={config.num_centroids}, V={self.subvector_len}, C={self.num_codebooks}, "
            f"encode={tree}{config.encode_dtype}, table={config.table_dtype}{bits}{free}"
        )

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        table = state_dict.get(prefix + "table")
        if table is not None and self.table is None:
            self.free_table(table)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.config.grid is not None:
            self.signed = bool(self.input_signed)
