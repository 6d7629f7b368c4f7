"""BERT encoders: the layer, a sentence encoder of such layers, and Hugging Face's checkpoints of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

# Hugging Face's names of the linears and norms of a BERT layer
_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


class EncoderLayer(nn.Module):
    """A BERT layer: norms after the sums, GELU by erf. x [B, T, W], bias [B, 1, 1, T] added to the attention scores."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + bias
        x = self.norm1(x + self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Embeddings [B, T, W] and a mask of ones and zeros [B, T] -> sentence vectors [B, W] of unit length.

    With `start` x is what the layer of that index takes; `front` gives it. `adapt`, where there is one, is a linear map
    of the vectors.
    """

    def __init__(self, width: int = 384, heads: int = 12, layers: int = 6, inner: int = 1536) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))
        self.adapt: nn.Linear | None = None

    @torch.no_grad()
    def front(self, x: Tensor, mask: Tensor, stop: int) -> tuple[Tensor, Tensor, int]:
        """The arguments with which `forward` goes on at layer `stop`."""
        return self._layers(x, mask, 0, stop), mask, stop

    def _layers(self, x: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
        bias = (1.0 - mask)[:, None, None, :] * -10000.0
        for layer in list(self.layers)[start:stop]:
            x = layer(x, bias)
        return x

    def forward(self, x: Tensor, mask: Tensor, start: int = 0) -> Tensor:
        x = self._layers(x, mask, start, len(self.layers))
        kept = mask[:, :, None]
        mean = _unit((x * kept).sum(1) / kept.sum(1))
        return mean if self.adapt is None else _unit(self.adapt(mean))


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


class Embedding(nn.Module):
    """Token ids int64 [B, T] -> [B, T, W]: words, positions and the first token type, normalised."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        words = state["embeddings.word_embeddings.weight"]
        self.words = nn.Embedding.from_pretrained(words)
        self.places = nn.Embedding.from_pretrained(state["embeddings.position_embeddings.weight"])
        self.kind = nn.Parameter(state["embeddings.token_type_embeddings.weight"][0], requires_grad=False)
        self.norm = nn.LayerNorm(words.shape[1], 1e-12)
        self.norm.weight.data.copy_(state["embeddings.LayerNorm.weight"])
        self.norm.bias.data.copy_(state["embeddings.LayerNorm.bias"])

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])) + self.kind)


def load_encoder(path: Path, heads: int | None = None) -> tuple[Embedding, Encoder]:
    """From a Hugging Face BERT checkpoint in safetensors; the number of heads is in the config.json beside it."""
    config = path.with_name("config.json")
    if heads is None:
        if not config.exists():
            raise SystemExit(
                f"error: how many heads has the encoder? {config} is missing; give the number with --heads"
            )
        heads = int(json.loads(config.read_text())["num_attention_heads"])
    old = {"gamma": "weight", "beta": "bias"}  # of norms, in checkpoints that came from TensorFlow
    state = {}
    for name, value in load_file(path).items():
        stem, _, kind = name.removeprefix("bert.").rpartition(".")
        state[f"{stem}.{old.get(kind, kind)}"] = value
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    width = state["embeddings.word_embeddings.weight"].shape[1]
    encoder = Encoder(width, heads, layers, state["encoder.layer.0.intermediate.dense.weight"].shape[0])
    renamed = {
        f"layers.{index}.{ours}.{kind}": state[f"encoder.layer.{index}.{theirs}.{kind}"]
        for index in range(layers)
        for ours, theirs in _NAMES.items()
        for kind in ("weight", "bias")
    }
    encoder.load_state_dict(renamed)
    return Embedding(state), encoder.eval()
