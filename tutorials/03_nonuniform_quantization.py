"""Low-bit networks with learned, non-uniform levels: train, look inside, export, compile. Runs in about a minute."""

# %% [markdown]
# ## 1. A float network
# A small convolutional network learns scikit-learn's handwritten digits for a few seconds.

# %%
import copy
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn

import lutc
from lutc.nn import ScalarConfig, extract_levels, quantize_
from lutc.nn.recipes import RECIPES, Recipe, clip_gradients, make_optimizers, set_progress

torch.manual_seed(0)
torch.set_num_threads(1)
folder = Path(mkdtemp())
digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, test = order[:1400], order[1400:]

network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip


def fit(model: nn.Module, optimizers: list[torch.optim.Optimizer], epochs: int, recipe: Recipe | None = None) -> None:
    """Train; with a recipe its learning rates and temperatures follow the progress."""
    model.train()
    for epoch in range(epochs):
        batches = train[torch.randperm(len(train))].split(64)
        for index, batch in enumerate(batches):
            if recipe is not None:
                set_progress(model, optimizers, recipe, (epoch + index / len(batches)) / epochs)
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            if recipe is not None:
                clip_gradients(model, recipe)
            for optimizer in optimizers:
                optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model.eval()(images[test]).argmax(1) == labels[test]).double().mean())


fit(network, [torch.optim.Adam(network.parameters(), 3e-3)], 15)
float_accuracy = accuracy(network)
print(f"float: {float_accuracy:.3f}")

# %% [markdown]
# ## 2. Two bits for weights and inputs
# `quantize_` swaps the layers in place; the first and the last stay float. Inputs start from a few calibration batches.
# Each method has its own gradients, optimizer and schedule; its recipe knows them. nuLSQ learns the size of every step,
# LSQ one for all of them.

# %%
trained = {}
for method in ("lsq", "nulsq"):
    torch.manual_seed(0)
    model = copy.deepcopy(network)
    rows = quantize_(
        model, ScalarConfig(method, weight_bits=2, input_bits=2), calibration=images[train[:256]].split(64)
    )
    start = accuracy(model)
    recipe = RECIPES[method].short(epochs=5, lr=0.01, quantizer_lr=0.01)
    fit(model, make_optimizers(model, recipe), 5, recipe)
    trained[method] = model
    print(f"{method}: {start:.3f} before training, {accuracy(model):.3f} after")
for row in rows:
    print(f"  {row.name}: {row.kind}, {row.reason}")

# %% [markdown]
# ## 3. What was learned
# Every quantizer ends as thresholds and levels, found by bisection, exact to the last bit. LSQ's steps are all one
# size; nuLSQ's have begun to differ from each other.

# %%
spread = {}
for method, model in trained.items():
    found = model[2].input_quantizer.levels()
    steps = found.levels.diff()
    spread[method] = float(steps.max() / steps.min())
    print(f"{method}: thresholds {found.thresholds.numpy().round(3)}, levels {found.levels.numpy().round(3)}")
    print(f"  largest step to smallest: {spread[method]:.3f}")
assert spread["lsq"] < 1.0001 and spread["nulsq"] > 1.001

# %% [markdown]
# The same works for a quantizer of your own: any function that rises (or falls) in steps.

# %%
own = extract_levels(lambda x: (x.clamp(0, 4).sqrt() * 3).round() / 3)
print("own levels", own.levels.numpy().round(3))
assert len(own.levels) == 7

# %% [markdown]
# ## 4. To a file
# After conversion weights are codes and a palette, inputs thresholds and levels. The ONNX file runs in ONNX Runtime:
# its functions consist of standard operators.

# %%
model = trained["nulsq"]
before = accuracy(model)
quantize_(model, step="convert")
assert accuracy(model) == before
path = lutc.export_model(
    model, images[test[:1]], folder / "digits_w2a2.onnx", input_names=["image"], output_names=["scores"]
)
kinds = [node.op_type for node in onnx.load(path).graph.node]
print(kinds)
assert kinds.count("LUTQuantize") == 2 and kinds.count("LUTPalette") == 2

# %% [markdown]
# ## 5. Compile
# Weights are packed at 2 bits, inputs become small integers by a table read, and the sums are exact integers.

# %%
artifact = lutc.compile(path, output=folder / "digits_w2a2.lutc")
session = lutc.load(artifact.path)
scores = np.concatenate([session.run({"image": images[i : i + 1].numpy()})["scores"] for i in test[:100].tolist()])
with torch.no_grad():
    expected = model(images[test[:100]])
agree = float((scores.argmax(1) == expected.argmax(1).numpy()).mean())
print(f"compiled and torch choose the same digit for {agree:.0%} of the images")
assert agree >= 0.97
