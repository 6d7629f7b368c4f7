"""From a float torch model to ARM and x86 code with lookup tables, step by step. Runs in about a minute."""

# %% [markdown]
# ## 1. A float model
# Anything made of nn.Linear and nn.Conv2d will do. This one learns scikit-learn's handwritten digits for a few seconds.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import lutc
from lutc.nn import LUTConfig, param_groups, quantize_

torch.manual_seed(0)
torch.set_num_threads(1)
folder = Path(mkdtemp())
digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, test = order[:1400], order[1400:]

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip


def fit(epochs: int, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


def accuracy() -> float:
    model.eval()
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


fit(8, torch.optim.Adam(model.parameters(), lr=2e-3))
float_accuracy = accuracy()
print(f"float: {float_accuracy:.3f}")

# %% [markdown]
# ## 2. Layers become lookup tables
# `step="prepare"` swaps layers. Each gets codebooks of 16 centroids for its subvectors of the input: by default one
# codebook per input channel of a 3x3 convolution (9 numbers), or per 16 features of a dense layer. They start from
# k-means on what the float model really sees. The first layer stays float: it has one channel and few operations.

# %%
rows = quantize_(
    model, LUTConfig(), step="prepare", filter_fn=lambda module, name: name != "0", calibration=images[train].split(64)
)
for row in rows:
    print(f"  {row.name:<4}{row.kind:<7}{row.reason}")
print(f"tables from k-means alone: {accuracy():.3f}")

# %% [markdown]
# ## 3. Training
# The forward pass picks the closest centroid, as the compiled code will. The backward pass sees a softmax over the
# distances, so centroids, weights and the softmax's temperature all learn.

# %%
fit(6, torch.optim.Adam(param_groups(model, lr=1e-3, centroid_lr=1e-3, temperature_lr=1e-2)))
quantize_(model.eval(), step="convert")
table_accuracy = accuracy()
print(f"trained tables: {table_accuracy:.3f}")

# %% [markdown]
# ## 4. Export
# ONNX, with the operators `lutc::LUTConv2d` and `lutc::LUTDense`. Each is also a function of standard operators, so
# ONNX Runtime runs the same file: it says what the file means.

# %%
path = folder / "digits.onnx"
lutc.export_model(model, (images[:1],), path)
print(lutc.inspect(path))

# %% [markdown]
# ## 5. Compile, run
# For this machine, and for any arm64.

# %%
artifact = lutc.compile(path, "native", output=folder / "digits.lutc")
lutc.compile(path, "arm64", output=folder / "digits-arm64.lutc")
session = lutc.load(artifact.path)
predictions = [int(np.argmax(next(iter(session.run(image[None].numpy()).values())))) for image in images[test]]
compiled_accuracy = float(np.mean(np.array(predictions) == labels[test].numpy()))
print(f"compiled: {compiled_accuracy:.3f}")
assert abs(compiled_accuracy - table_accuracy) < 0.005
assert compiled_accuracy > float_accuracy - 0.05

# %% [markdown]
# ## 6. Is the answer right?
# Each layer's codes are compared with an integer oracle, and the outputs with ONNX Runtime.

# %%
report = lutc.verify(artifact.path, path)
print(report)
assert report.passed
