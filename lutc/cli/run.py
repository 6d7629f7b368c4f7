"""``lutc run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutc.cli.options import (
    artifact_argument,
    check_json_path,
    emulate_option,
    input_option,
    json_option,
    output_option,
    overwrite_option,
    remote_option,
    seed_option,
    show_report,
    size_option,
    threads_option,
    verbosity_options,
)

if TYPE_CHECKING:
    import numpy as np


@click.command("run", short_help="Run an artifact on inputs.")
@artifact_argument
@input_option
@output_option("Write the outputs to this .npz.")
@overwrite_option
@seed_option
@size_option
@threads_option
@emulate_option
@remote_option
@json_option
@verbosity_options
def run_command(
    artifact: Path,
    input_path: Path | None,
    output: Path | None,
    overwrite: bool,
    seed: int,
    sizes: dict[str, int],
    threads: int,
    emulate: bool,
    remote: str | None,
    json_path: str | None,
) -> None:
    """Run ARTIFACT on the inputs of a file, or on random ones of the right shape, and summarize its outputs."""
    from lutc.artifact.store import read_artifact
    from lutc.inputs import check_input_file, load_inputs, random_inputs
    from lutc.report.run import run_report
    from lutc.runtime.sizes import specs_at

    manifest = read_artifact(artifact, check=False).manifest
    if input_path is not None:
        check_input_file(input_path)
    _check_output(output, overwrite)
    check_json_path(json_path)
    inputs = load_inputs(input_path, manifest.inputs) if input_path else random_inputs(specs_at(manifest, sizes), seed)
    outputs = _run(artifact, inputs, threads, emulate, remote)
    if output is not None:
        _save(output, outputs)
    told = str(input_path) if input_path else f"random, seed {seed}"
    show_report(run_report(str(artifact), told, outputs), json_path)


def _check_output(output: Path | None, overwrite: bool) -> None:
    from lutc.errors import ArtifactError
    from lutc.files import check_writable

    if output is not None:
        if output.suffix != ".npz":
            raise click.BadParameter(f"{output} does not end in .npz", param_hint="'--output'")
        check_writable(output, ArtifactError, overwrite=overwrite)


def _run(
    artifact: Path, inputs: dict[str, np.ndarray], threads: int, emulate: bool, remote: str | None
) -> dict[str, np.ndarray]:
    if remote is not None:
        from lutc.runtime.remote import RemoteSession

        with RemoteSession(artifact, remote, threads=threads) as session:
            return session.run(inputs)
    if emulate:
        from lutc.runtime.emulated_session import EmulatedSession

        return EmulatedSession(artifact).run(inputs)
    from lutc.runtime.session import load

    return load(artifact, threads=threads).run(inputs)


def _save(output: Path, outputs: dict[str, np.ndarray]) -> None:
    import numpy as np

    np.savez(output, **outputs)
    click.echo(f"Wrote {output}", err=True)
