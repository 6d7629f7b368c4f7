"""An artifact's time on another machine, where no other engine runs beside it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from lutc.artifact.store import read_artifact
from lutc.benchmark.benchmark import BenchmarkReport, artifact_row
from lutc.benchmark.protocol import Timing
from lutc.inputs import random_inputs
from lutc.runtime.sizes import specs_at


def benchmark_remote(
    subject: str | Path, address: str, *, sizes: Mapping[str, int] | None = None, repeat: int = 100, threads: int = 1,
    timeout: float = 600.0,
) -> BenchmarkReport:  # fmt: skip
    """Time an artifact on random inputs on the machine at `address` ("HOST:PORT"), without the network.

    Each of `repeat` runs is timed there by TVM, after a first one. Raises what `lutc.runtime.remote.RemoteSession`
    raises.
    """
    from lutc.runtime.remote import RemoteSession

    artifact = read_artifact(subject)
    with RemoteSession(artifact.path, address, threads=threads, timeout=timeout) as session:
        seconds = session.time(random_inputs(specs_at(artifact.manifest, sizes)), repeat=repeat)
        machine = session.device.info.get("machine", "")
    timing = Timing(1e6 * min(seconds), 1e6 * statistics.median(seconds), len(seconds))
    details = {
        "artifact": str(artifact.path),
        "target": artifact.manifest.target.name,
        "machine": f"{address} {machine}".strip(),
        "threads": threads,
        "runs": repeat,
    }
    note = "The runs were timed on the other machine, without the network; no other engine ran there."
    return BenchmarkReport([artifact_row(artifact, timing)], details, note)
