"""A MiniLM sentence encoder with lookup tables in its last layers: SST-2 (a linear head) and STS-B (cosine).

The linears of the last layers (query, key, value, out, up, down) become tables, (16, 16); query, key and value share
their codebooks. They are reconstructed from a few hundred sentences without labels, then trained for the float
encoder's vectors and layers, again without labels; --tables tied, --pair-weight and --head-weight are for trainings of
hundreds of steps, and with --label-weight they learn from the labels too. At the end (with --train-map before the
training) a linear map of the sentence vector, one small product a sentence, is fitted to the float encoder's vectors.
What is compiled is all after the embedding lookup; it takes embeddings float32 [1, length, 384] and which tokens count
float32 [1, length].

    python examples/sentence_classification.py --output runs/minilm --encoder minilm/model.safetensors \\
        --tokenizer minilm/tokenizer.json --head minilm-sst2-head.safetensors
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from bert import Embedding, Encoder, load_encoder
from loaders import data_folder, sentences
from recipe import (
    common_options,
    compiled_predict,
    console,
    export_and_compile,
    fit,
    metric_option,
    on_device,
    resume,
    resume_optimizer,
    show_layer,
    shuffled,
    start_processes,
    write_results,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.nn import LUTConfig, param_groups, quantize_, reconstruct_
from lutc.nn.checkpoint import save_checkpoint
from lutc.nn.distillation import BlockError

LENGTH = 64  # tokens the compiled encoder takes; SST-2 sentences are shorter, of others the end is lost
LINEARS = ("query", "key", "value", "out", "up", "down")


class Texts:
    """Tokenized texts, embedded batch by batch."""

    def __init__(self, texts: list[str], tokenizer, embedding: Embedding) -> None:
        self._ids = [torch.tensor(found.ids[:LENGTH]) for found in tokenizer.encode_batch(texts)]
        self._embedding = embedding

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, indices: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """(embeddings, mask), padded to the longest of them or to `length`."""
        ids = [self._ids[i] for i in indices.tolist()]
        padded = torch.zeros(len(ids), length or max(map(len, ids)), dtype=torch.int64)
        mask = torch.zeros(padded.shape)
        for row, found in enumerate(ids):
            padded[row, : len(found)], mask[row, : len(found)] = found, 1.0
        return self._embedding(padded), mask

    def by_length(self, size: int) -> list[Tensor]:
        """Indices in batches of similar length, which need little padding."""
        return list(torch.tensor(sorted(range(len(self)), key=lambda i: len(self._ids[i]))).split(size))

    def shuffled_by_length(self, size: int, steps: int, seed: int, together: int = 1) -> Iterator[Tensor]:
        """Indices of random batches; sixteen batches at a time are sorted by length, then come in random order.

        So many consecutive texts (1 or 2) stay `together`.
        """
        generator = torch.Generator().manual_seed(seed)
        groups = shuffled(len(self) // together, 16 * size // together, steps, seed)
        batches = (batch for group in groups for batch in self._sorted(group, size, generator, together))
        return itertools.islice(batches, steps)

    def _sorted(self, group: Tensor, size: int, generator: torch.Generator, together: int) -> list[Tensor]:
        def longest(unit: int) -> int:
            return max(len(ids) for ids in self._ids[unit * together : (unit + 1) * together])

        batches = torch.tensor(sorted(group.tolist(), key=longest)).split(size // together)
        chosen = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return [(units[:, None] * together + torch.arange(together)).flatten() for units in chosen]


@torch.no_grad()
def vectors(encoder: nn.Module, texts: Texts) -> Tensor:
    encoder.eval()
    batches = texts.by_length(32)
    found = torch.cat([encoder(*texts.batch(indices)) for indices in batches])
    return found[torch.cat(batches).argsort()]


def fit_adaptation(encoder: Encoder, teacher: Encoder, texts: Texts, ridge: float = 0.1) -> None:
    """Give the encoder the linear map that brings its vectors closest to the teacher's, by least squares.

    `ridge` pulls it towards none, in units of the vectors' mean variance.
    """
    found, wanted = vectors(encoder, texts).double(), vectors(teacher, texts).double()
    found_mean, wanted_mean = found.mean(0), wanted.mean(0)
    x, y = found - found_mean, wanted - wanted_mean
    gram, eye = x.T @ x, torch.eye(x.shape[1], dtype=torch.float64)
    weight = eye + torch.linalg.solve(gram + ridge * gram.diagonal().mean() * eye, x.T @ (y - x))
    adapt = nn.Linear(*weight.shape)
    adapt.weight.data.copy_(weight.T)
    adapt.bias.data.copy_(wanted_mean - found_mean @ weight)
    encoder.adapt = adapt


def fit_head(encoder: Encoder, texts: Texts, labels: np.ndarray) -> dict[str, Tensor]:
    """Logistic regression on the encoder's vectors: weight [1, W] and bias [1]."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(max_iter=1000).fit(vectors(encoder, texts).numpy(), labels)
    return {
        name: torch.from_numpy(value).float() for name, value in (("weight", found.coef_), ("bias", found.intercept_))
    }


def compiled_vectors(artifact: Path, texts: Texts) -> Tensor:
    def each() -> Iterator[tuple[np.ndarray, ...]]:
        for index in range(len(texts)):
            yield tuple(part.numpy() for part in texts.batch(torch.tensor([index]), LENGTH))

    return torch.from_numpy(compiled_predict(artifact, each()))


def scores(
    find, sst: Texts, sst_labels: np.ndarray, pairs: Texts, similarity: np.ndarray, head: dict[str, Tensor]
) -> dict[str, float]:
    """SST-2 accuracy in percent and STS-B's Spearman correlation; `find` gives a Texts its vectors."""
    positive = find(sst) @ head["weight"][0] + head["bias"] > 0
    both = find(pairs)
    return {
        "SST-2 accuracy": round(100 * float((positive.numpy() == (sst_labels == 1)).mean()), 2),
        "STS-B Spearman": round(spearman((both[0::2] * both[1::2]).sum(1).numpy(), similarity), 4),
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; equal values share their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, group, count = np.unique(values, return_inverse=True, return_counts=True)
        return (count.cumsum() - (count - 1) / 2)[group]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--encoder", type=Path, required=True, help="BERT encoder, model.safetensors")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its tokenizer.json")
    parser.add_argument("--heads", type=int, help="of its attention; default: what config.json beside it says")
    parser.add_argument("--head", type=Path, help="SST-2 classifier on the vectors: weight [1, W] and bias [1];"
                        " default: one fitted to the float encoder's vectors of the training set")  # fmt: skip
    parser.add_argument("--layers", type=int, default=3, help="how many layers, from the last, get tables")
    parser.add_argument("--calibration-sentences", type=int, default=512)
    metric_option(parser)
    parser.add_argument(
        "--tables", choices=("free", "tied"), default="free", help="tied: products with a fitted weight"
    )
    parser.add_argument("--train-rows", type=int, default=5000, help="of each training set")
    parser.add_argument("--adapt-sentences", type=int, default=6000, help="that the map is fitted to; 0 does without")
    parser.add_argument("--train-map", action="store_true", help="fit the map before the training, and train it too")
    parser.add_argument("--steps", type=int, default=300, help="of training after the reconstruction")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4, help="of norms")
    parser.add_argument("--centroid-lr", type=float, default=1e-3)
    parser.add_argument("--table-lr", type=float, default=1e-3)
    parser.add_argument("--temperature-lr", type=float, default=1e-2)
    parser.add_argument("--block-weight", type=float, default=1.0, help="of the layers' errors in the loss")
    parser.add_argument("--pair-weight", type=float, default=0.0, help="of errors in the cosine of STS-B's pairs")
    parser.add_argument("--head-weight", type=float, default=0.0, help="of the divergence of the head's answers")
    parser.add_argument(
        "--label-weight", type=float, default=0.0, help="of the labels: SST-2's answers, the order of STS-B's pairs"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    options = parser.parse_args()
    if options.train_map and not options.adapt_sentences:
        parser.error("--train-map has no map to train with --adapt-sentences 0")
    from tokenizers import Tokenizer

    start_processes(options.seed, options.threads, most=1)
    options.output.mkdir(parents=True, exist_ok=True)
    folder = data_folder(options.data)
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_padding()
    embedding, encoder = load_encoder(options.encoder, options.heads)

    def texts_of(task: str, split: str, limit: int | None) -> tuple[Texts, np.ndarray]:
        found, labels = sentences(folder, task, split, limit)
        return Texts([text for row in found for text in row], tokenizer, embedding), labels

    sst, sst_labels = texts_of("sst2", "dev", options.limit)
    pairs, similarity = texts_of("stsb", "dev", options.limit)
    texts, labels, together = [], [], neighbours(options)
    for index, task in enumerate(("sst2", "stsb")):
        rows, found = sentences(folder, task, "train", options.train_rows)
        some = [(text, label) for row, label in zip(rows, found, strict=True) for text in row]
        for text, label in some[: len(some) // together * together]:
            texts.append(text)
            labels.append([math.nan] * index + [label] + [math.nan] * (1 - index))
    units = torch.randperm(len(texts) // together, generator=torch.Generator().manual_seed(options.seed))
    order = (units[:, None] * together + torch.arange(together)).flatten()
    texts = [texts[i] for i in order.tolist()]
    train, labels = Texts(texts, tokenizer, embedding), torch.tensor(labels)[order]

    results: dict[str, object] = {}
    kept_head = options.head or options.output / "head.safetensors"
    if options.head or (options.resume and kept_head.exists()):
        head = load_file(kept_head)
    else:
        head = fit_head(encoder, *texts_of("sst2", "train", options.train_rows))
        save_file(head, kept_head)

    def measure(name: str, find) -> None:
        results[name] = scores(find, sst, sst_labels, pairs, similarity, head)
        console.print(f"{name}: {results[name]}")

    def adapt() -> None:
        fit_adaptation(encoder, teacher, Texts(texts[-options.adapt_sentences :], tokenizer, embedding))
        measure("adapted", lambda texts: vectors(encoder, texts))

    measure("float", lambda texts: vectors(encoder, texts))
    teacher = copy.deepcopy(encoder)
    first = len(encoder.layers) - options.layers
    chosen = [f"layers.{i}" for i in range(first, len(encoder.layers))]
    config = {f"{layer}.{linear}": LUTConfig(metric=options.metric) for layer in chosen for linear in LINEARS}
    share = [[f"{layer}.{linear}" for linear in ("query", "key", "value")] for layer in chosen]
    checkpoint = options.output / "checkpoint.pt"
    first_step = 0
    if options.resume and checkpoint.exists():
        quantize_(encoder, config, share=share)
        if options.train_map:
            encoder.adapt = nn.Linear(encoder.width, encoder.width)
        first_step = resume(checkpoint, encoder)
    else:
        started = time.perf_counter()
        some = Texts(texts[: options.calibration_sentences], tokenizer, embedding)
        reconstruct_(
            encoder,
            config,
            calibration=[teacher.front(*some.batch(indices), first) for indices in some.by_length(32)],
            share=share,
            free=options.tables == "free",
            seed=options.seed,
            progress=show_layer,
        )
        results["reconstruction seconds"] = round(time.perf_counter() - started, 1)
        measure("reconstruction only", lambda texts: vectors(encoder, texts))
        if options.train_map:
            adapt()
        save_checkpoint(checkpoint, {"step": 0}, model=encoder)

    if options.steps:
        with on_device(options.device, encoder, teacher) as device:
            results["training seconds"] = train_tables(
                encoder, teacher, train, labels, head, options, checkpoint, first_step, device
            )
        measure("lookup tables in torch", lambda texts: vectors(encoder, texts))
    if options.adapt_sentences and not options.train_map:
        adapt()
    quantize_(encoder.eval(), step="convert")
    artifact = export_and_compile(
        encoder, train.batch(torch.tensor([0]), LENGTH), options.output, "minilm_lut", options.target
    )
    measure("compiled artifact", lambda texts: compiled_vectors(artifact, texts))
    write_results(options.output / "results.json", results)


def neighbours(options: argparse.Namespace) -> int:
    """Consecutive texts that stay together in a batch: the two of a pair, where the loss looks at pairs."""
    return 2 if options.pair_weight or options.label_weight else 1


def label_loss(found: Tensor, labels: Tensor, head: dict[str, Tensor], sharpness: float = 20.0) -> Tensor:
    """Of vectors [B, W] whose labels [B, 2] are SST-2's and, for both texts of a pair, STS-B's; NaN for none.

    The head's cross entropy, and log(1 + sum of exp(sharpness (cosine i - cosine j))) over pairs i, j where people
    found j more alike: the order is all that Spearman's correlation sees.
    """
    loss = found.new_zeros(())
    answered = ~labels[:, 0].isnan()
    if answered.any():
        answers = found[answered] @ head["weight"][0] + head["bias"]
        loss = loss + F.binary_cross_entropy_with_logits(answers, labels[answered, 0])
    cosine, similarity = (found[0::2] * found[1::2]).sum(1), labels[0::2, 1]
    ordered = similarity[:, None] < similarity  # false wherever one is NaN
    wrong = sharpness * (cosine[:, None] - cosine)[ordered]
    return loss + torch.cat((wrong.new_zeros(1), wrong)).logsumexp(0)


def train_tables(
    encoder: Encoder,
    teacher: Encoder,
    train: Texts,
    labels: Tensor,
    head: dict[str, Tensor],
    options: argparse.Namespace,
    checkpoint: Path,
    first_step: int,
    device: torch.device,
) -> float:
    """Make the vectors those of the float encoder; only lookup layers learn, the norms beside them and the map.

    labels [texts, 2] are SST-2's and STS-B's, NaN where a text has none.
    """
    first = len(encoder.layers) - options.layers
    for index, layer in enumerate(encoder.layers):
        layer.requires_grad_(index >= first)
    block_error = BlockError(encoder, teacher, [f"layers.{i}" for i in range(first, len(encoder.layers))])
    head = {name: value.to(device) for name, value in head.items()}

    def loss_of(network: nn.Module, indices: Tensor) -> Tensor:
        x, mask = (part.to(device) for part in train.batch(indices))
        inputs = teacher.front(x, mask, first)
        with torch.no_grad():
            target = teacher(*inputs)
        found = network(*inputs)
        alike = found @ found.T - target @ target.T  # cosines between the sentences of the batch
        loss = (1 - (found * target).sum(1)).mean() + alike.square().mean() + options.block_weight * block_error()
        if options.pair_weight:
            loss = loss + options.pair_weight * alike.diagonal(1)[0::2].square().mean()
        if options.head_weight:
            answers, wanted = (y @ head["weight"][0] + head["bias"] for y in (found, target))
            loss = loss + options.head_weight * F.binary_cross_entropy_with_logits(answers, wanted.sigmoid())
        if options.label_weight:
            loss = loss + options.label_weight * label_loss(found, labels[indices].to(device), head)
        return loss

    rates = (options.lr, options.centroid_lr, options.temperature_lr)
    optimizer = torch.optim.Adam(param_groups(encoder, *rates, table_lr=options.table_lr))
    if first_step:
        resume_optimizer(checkpoint, optimizer)
    with closing(block_error):
        seconds = fit(
            encoder,
            loss_of,
            lambda steps: train.shuffled_by_length(options.batch, steps, options.seed, neighbours(options)),
            optimizer,
            options.steps,
            title="lookup tables",
            checkpoint=checkpoint,
            warmup=10,
            first_step=first_step,
        )
    return round(seconds, 1)


if __name__ == "__main__":
    main()
