"""A small manifest for tests."""

from __future__ import annotations

from lutc.artifact.manifest import LayerRow, Manifest, Source, TargetInfo, TensorSpec


def make_manifest(**changes: object) -> Manifest:
    """A manifest with one table layer and one float layer."""
    target = TargetInfo(name="generic", arch="x86_64", triple="x86_64-linux-gnu", cpu="x86-64", attrs=[], requires=[])
    rows = [
        LayerRow(
            name="conv1", op="conv2d", kind="lut", kernel="table_read_avx2", num_centroids=16, subvector_len=9,
            num_codebooks=3, outputs=8, encode_dtype="int8", table_dtype="int8", table_bytes=384, schedule="rule",
        ),
        LayerRow(name="fc", op="dense", kind="float", reason="--keep-float 'fc'", outputs=10),
    ]  # fmt: skip
    fields: dict = {
        "name": "net",
        "versions": {"lutc": "0.1.0", "apache-tvm": "0.27.0.post1"},
        "source": Source(file="net.onnx", sha256="0" * 64),
        "target": target,
        "inputs": [TensorSpec("x", "float32", [1, 3, 8, 8])],
        "outputs": [TensorSpec("y", "float32", [1, 10])],
        "layers": rows,
    }
    return Manifest(**{**fields, **changes})
