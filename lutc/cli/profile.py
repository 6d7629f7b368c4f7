"""``lutc profile``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import (
    PATH,
    artifact_argument,
    check_json_path,
    input_option,
    json_option,
    seed_option,
    show_report,
    size_option,
    threads_option,
    verbosity_options,
)
from lutc.errors import ArtifactError


@click.command("profile", short_help="Show where the time of a run goes.")
@artifact_argument
@input_option
@seed_option
@size_option
@click.option("--repeat", type=click.IntRange(1), default=100, metavar="N", help="Timed runs.  [default: 100]")
@threads_option
@click.option("--html", type=PATH, metavar="FILE", help="Also write the report as a web page.")
@json_option
@verbosity_options
def profile_command(
    artifact: Path,
    input_path: Path | None,
    seed: int,
    sizes: dict[str, int],
    repeat: int,
    threads: int,
    html: Path | None,
    json_path: str | None,
) -> None:
    """Time every kernel of ARTIFACT on this machine, on the inputs of a file or on random ones.

    Layers of tables are split into quantizing, search (encode) and table read, each beside the least time that the
    CPU's ports allow; what is not a table is listed by kernel.
    """
    from lutc.artifact.store import read_artifact
    from lutc.files import check_writable
    from lutc.inputs import check_input_file, load_inputs, random_inputs
    from lutc.runtime.sizes import specs_at
    from lutc.targets import check_runs_here

    manifest = read_artifact(artifact, check=False).manifest
    check_runs_here(manifest.target)
    if input_path is not None:
        check_input_file(input_path)
    if html is not None:
        check_writable(html, ArtifactError)
    check_json_path(json_path)
    inputs = load_inputs(input_path, manifest.inputs) if input_path else random_inputs(specs_at(manifest, sizes), seed)
    from lutc.benchmark.profile import profile

    report = profile(artifact, inputs, repeat=repeat, threads=threads)
    show_report(report, json_path)
    if html is not None:
        report.save(html)
