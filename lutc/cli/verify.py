"""``lutc verify``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.failure import EXIT_CHECK_FAILED, EXIT_OK
from lutc.cli.options import (
    PATH,
    artifact_argument,
    check_json_path,
    emulate_option,
    input_option,
    json_option,
    remote_option,
    seed_option,
    show_report,
    size_option,
    verbosity_options,
)


@click.command("verify", short_help="Check an artifact against its model.")
@artifact_argument
@click.option("-r", "--reference", type=PATH, metavar="MODEL",
              help="Model to compare with.  [default: the one it was compiled from]")  # fmt: skip
@click.option("--codebooks", type=PATH, metavar="FILE", help="Codebooks a float MODEL was compiled with.")
@input_option
@click.option("--samples", type=click.IntRange(1), default=8, metavar="N",
              help="Random inputs when no --input is given.  [default: 8]")  # fmt: skip
@seed_option
@size_option
@click.option("--per-layer/--no-per-layer", default=True, help="Also compare every lookup-table layer.")
@emulate_option
@remote_option
@json_option
@verbosity_options
def verify_command(
    artifact: Path,
    reference: Path | None,
    codebooks: Path | None,
    input_path: Path | None,
    samples: int,
    seed: int,
    sizes: dict[str, int],
    per_layer: bool,
    emulate: bool,
    remote: str | None,
    json_path: str | None,
) -> int:
    """Check that ARTIFACT computes what its model says, on the inputs of a file or on random ones.

    Exits with 1 when it does not.
    """
    from lutc.artifact.store import read_artifact
    from lutc.files import check_file
    from lutc.inputs import check_input_file, load_inputs
    from lutc.runtime.sizes import specs_at
    from lutc.targets import check_runs_here

    manifest = read_artifact(artifact, check=False).manifest
    if reference is not None:
        check_file(reference, (".onnx", ".pt2"), what="the reference")
    if codebooks is not None:
        check_file(codebooks, (".safetensors",), what="the codebook file")
    if input_path is not None:
        check_input_file(input_path)
    check_json_path(json_path)
    if not emulate and remote is None:
        check_runs_here(manifest.target)
    specs_at(manifest, sizes)
    inputs = load_inputs(input_path, manifest.inputs) if input_path else None
    from lutc.verify import verify

    report = verify(
        artifact, reference, inputs, codebooks=codebooks, samples=samples, seed=seed, sizes=sizes,
        per_layer=per_layer, emulate=emulate, remote=remote,
    )  # fmt: skip
    show_report(report, json_path)
    return EXIT_OK if report.passed else EXIT_CHECK_FAILED
