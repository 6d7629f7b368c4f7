"""NaN and infinity in a model's input: nothing crashes, and the other images of the batch come out as without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lutc
from lutc.config import LUTConfig
from lutc.runtime.emulated_session import EmulatedSession
from lutc.runtime.session import load
from tests.end_to_end import networks
from tests.execute import why_not_emulated


@pytest.mark.parametrize(
    ("kind", "encode_dtype", "target"),
    [
        ("mlp", "int8", "native"),
        ("mlp", "float32", "arm64"),
        ("cnn", "int8", "native"),
        ("cnn", "int8", "arm64"),
        ("cnn", "float32", "native"),
    ],
)
def test_other_images_are_unaffected(kind: str, encode_dtype: str, target: str, tmp_path: Path) -> None:
    if target == "arm64" and (reason := why_not_emulated()):
        pytest.skip(reason)
    x = networks.inputs(kind)
    net = networks.table_network(kind, LUTConfig(encode_dtype=encode_dtype))
    artifact = lutc.compile(
        networks.export(net, x, tmp_path / "net.onnx"), target, output=tmp_path / f"{target}.lutc"
    )  # fmt: skip
    batches = [x.numpy()]
    for value in (np.nan, np.inf, -np.inf, 3e38):
        spoiled = x.numpy().copy()
        spoiled[1].reshape(-1)[::7] = value
        batches.append(spoiled)
    if target == "arm64":
        clean, *others = (result["y"] for result in EmulatedSession(artifact.path).run_many(batches))
    else:
        session = load(artifact.path, threads=1)
        clean, *others = (session.run(batch)["y"] for batch in batches)
    assert np.isfinite(clean).all()
    for other in others:
        np.testing.assert_array_equal(other[[0, 2]], clean[[0, 2]])
        assert not np.array_equal(other[1], clean[1])
