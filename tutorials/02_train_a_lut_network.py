"""Training a lookup-table network well: reconstruction, distillation, what to watch, and trees. About a minute."""

# %% [markdown]
# ## 1. A float network to start from
# Residual blocks, batch norm, handwritten digits: small, but with everything that makes training tables delicate.

# %%
import copy
from pathlib import Path
from tempfile import mkdtemp

import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn

import lutc
from lutc.nn import LUTConfig, param_groups, quantize_, reconstruct_
from lutc.nn.batch_norm import reestimate_batch_norm_, renormalize_batch_norm_
from lutc.nn.checkpoint import load_checkpoint, save_checkpoint
from lutc.nn.distillation import distillation_loss
from lutc.nn.monitor import Monitor

torch.manual_seed(0)
torch.set_num_threads(1)
folder = Path(mkdtemp())
digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, test = order[:1350], order[1350:]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def float_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), Block(16), Block(16),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


network = float_network()
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for _ in range(10):
    for batch in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network.train()(images[batch]), labels[batch]).backward()
        optimizer.step()
float_accuracy = accuracy(network)
print(f"float: {float_accuracy:.3f}")

# %% [markdown]
# ## 2. Two ways to begin
# `quantize_` swaps all layers at once: k-means on the float network's activations, tables from centroids and weights.
# A centroid is close to an input when it leaves a small error in the layer's outputs (`LUTConfig(metric="inputs")`
# measures by the inputs alone, as LUT-NN does, which costs much accuracy and saves nothing).
# Every layer then meets inputs that the layers before it have already distorted. `reconstruct_` goes layer by layer:
# codebooks are learned from what really arrives, and the table is the one that comes closest to the float layer's
# output, by least squares. It needs a few hundred inputs, and no labels.


# %%
def inner(module: nn.Module, name: str) -> bool:
    return name not in ("0", "6")  # first and last layer stay float


calibration = images[train[:512]].split(64)
at_once, model = copy.deepcopy(network), copy.deepcopy(network)
quantize_(at_once, LUTConfig(), filter_fn=inner, calibration=calibration)
for row in reconstruct_(model, LUTConfig(), filter_fn=inner, calibration=calibration):
    print(f"  {row.name:<8} error of the output {row.tied_error:.3f}, after the fit {row.fitted_error:.3f}")
print(f"swapped at once: {accuracy(at_once):.3f}   layer by layer: {accuracy(model):.3f}")

# %% [markdown]
# ## 3. Training together, with the float network as the teacher
# Codebooks, tables and temperatures learn at rates of their own; `param_groups` sorts them out. The teacher's scores
# say more about an image than its label does, which matters when there are few epochs. The monitor tells whether the
# training is healthy: few centroids should go unused, codes should keep their entropy, and the error of each layer
# shows where accuracy is lost. Batch norm would move every input a little with the company it is in, and codes with it:
# renormalized, it trains with the values of inference and the gradient of batch norm.

# %%
renormalize_batch_norm_(model)
optimizer = torch.optim.Adam(param_groups(model, lr=1e-3, centroid_lr=2e-3, temperature_lr=1e-2))
monitor = Monitor(model, [images[train[:64]]], reference=network)
step = 0
for _epoch in range(4):
    for batch in train[torch.randperm(len(train))].split(64):
        with torch.no_grad():
            target = network(images[batch])
        scores = model.train()(images[batch])
        loss = distillation_loss(scores, target) + 0.3 * nn.functional.cross_entropy(scores, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    monitor(step)
    save_checkpoint(folder / "run.pt", {"step": step}, model=model, optimizer=optimizer)
monitor.print(Console(width=100))
monitor.save(folder / "layers.csv")  # or .png, with matplotlib

# %% [markdown]
# The checkpoint holds everything a run needs to go on: make the same layers, load, then make the optimizer.

# %%
again = float_network()
quantize_(again, LUTConfig(), filter_fn=inner)
print(load_checkpoint(folder / "run.pt", model=again))

# %% [markdown]
# Batch-norm statistics were averages over weights that have moved on. Measuring them again is free accuracy.

# %%
reestimate_batch_norm_(model, images[train].split(128))
table_accuracy = accuracy(model)
print(f"trained tables: {table_accuracy:.3f}")

# %% [markdown]
# ## 4. Trees instead of distances
# `encoder="tree"` replaces the search by four comparisons a codebook: much cheaper, less exact. Patterns give layers
# different settings, so trees can stay where they hurt little.

# %%
mixed = copy.deepcopy(network)
reconstruct_(
    mixed,
    {"2.conv1": LUTConfig(encoder="tree"), "2.conv2": LUTConfig(table_bits=4), "3.*": LUTConfig()},
    calibration=calibration,
)
print(f"one layer of trees, one of 4-bit tables, untrained: {accuracy(mixed):.3f}")

# %% [markdown]
# ## 5. What was trained is what is compiled

# %%
quantize_(model.eval(), step="convert")
path = folder / "digits.onnx"
lutc.export_model(model, (images[:1],), path)
session = lutc.load(lutc.compile(path, "native", output=folder / "digits.lutc").path)
found = [int(next(iter(session.run(image[None].numpy()).values())).argmax()) for image in images[test]]
compiled_accuracy = float((torch.tensor(found) == labels[test]).float().mean())
print(f"compiled: {compiled_accuracy:.3f}")
assert abs(compiled_accuracy - table_accuracy) < 0.005
assert compiled_accuracy > float_accuracy - 0.04
