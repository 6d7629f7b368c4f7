"""A transformer from a float ONNX file to lookup tables: what pays, what the rest costs, what it is worth.

A BERT-shaped encoder of two layers with random weights, so that it runs in a minute; `examples/networks.py` writes the
real sizes, and every command here takes them. Random weights say nothing about accuracy: this is about time and memory.
"""

# %% [markdown]
# ## 1. A float model
# The network classes are in `examples/networks.py`. Token ids and a mask go in, class scores come out.

# %%
import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnxruntime

import lutc
from lutc.benchmark.network_suite import benchmark_networks
from lutc.benchmark.profile import profile

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import networks

folder = Path(mkdtemp())
tokens = 32
small = networks.Network(lambda: networks.BERT(layers=2, width=128, heads=4, inner=512), tokens, tokens=True)
model = small.export(folder / "bert.onnx", net=small.build())
inputs = {name: value.numpy() for name, value in small.inputs().items()}

# %% [markdown]
# ## 2. All in float
# A model without tables compiles too. Matrix products, layer norms, softmax and GELU get schedules of their own, and
# the results are onnxruntime's to the last digits: exponentials are polynomials in vectors, with errors below one in a
# million.

# %%
float_artifact = lutc.compile(model, output=folder / "float.lutc")
(wanted,) = onnxruntime.InferenceSession(model).run(None, inputs)
(got,) = lutc.load(float_artifact.path, threads=1).run(inputs).values()
error = np.abs(got - wanted).max() / np.abs(wanted).max()
print(f"largest difference from onnxruntime: {error:.1e} of the largest output")
assert error < 1e-4

# %% [markdown]
# ## 3. Which layers should be tables?
# `estimate` compares each layer as a table with the same layer in float32 and int8, from a model of the target's core.
# A layer with few outputs cannot pay for the search of its codes: the classifier has two.

# %%
report = lutc.estimate(model, "x86-64-v3")
print(report)
rows = {row.name: row for row in report.rows}
assert rows["layers.0.up"].table_us < rows["layers.0.up"].float_us

# %% [markdown]
# ## 4. Codebooks, and the same model with tables
# Query, key and value read one tensor: they get the same codebooks, and its codes are searched once for the three.
# `keep_float=["auto"]` leaves those layers alone that the estimate finds slower as tables.

# %%
rng = np.random.default_rng(0)
samples = {"ids": rng.integers(0, networks.WORDS, (16, tokens)), "mask": np.ones((16, tokens), np.float32)}
codebooks = lutc.calibrate(model, samples, keep_float=["pooler", "classifier"])
np.testing.assert_array_equal(codebooks["layers.0.query"].centroids, codebooks["layers.0.value"].centroids)

artifact = lutc.compile(model, codebooks=codebooks, keep_float=["auto"], output=folder / "tables.lutc")
tables = [layer.name for layer in artifact.manifest.layers if layer.kind == "lut"]
print(f"{len(tables)} layers are tables: {', '.join(tables)}")
assert len(tables) == 12

# %% [markdown]
# ## 5. Where the time goes
# The profile sets the tables against the rest. The last line under it is Amdahl's law: what tables that cost nothing
# would bring, as long as the rest stays. With few layers replaced, that is little, however fast the tables are.

# %%
told = profile(artifact.path, inputs, repeat=20)
print(told)
assert any("free tables would make it" in note for note in told.notes())

# %% [markdown]
# ## 6. Beside other engines
# `lutc bench bert.onnx` compiles the model and times it in turns with onnxruntime and OpenVINO, in float32 and int8;
# where `bert.codebooks.safetensors` lies beside the file, also with tables. Each engine's peak memory is that of a
# process of its own.

# %%
codebooks.save(folder / "bert.codebooks.safetensors")
suite = benchmark_networks(model, baselines=["onnxruntime"], repeat=10)
print(suite)
assert [row.engine for row in suite.rows] == ["lutc", "lutc-tables", "onnxruntime"]
