"""``lutc bench``."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.cli.options import (
    PATH,
    artifact_argument,
    check_json_path,
    json_option,
    show_report,
    threads_option,
    verbosity_options,
)
from lutc.errors import ArtifactError

_BASELINES = ("onnxruntime", "onnxruntime-int8")


@click.command("bench", short_help="Time an artifact against other engines.")
@artifact_argument
@click.option("--against", type=PATH, metavar="MODEL", help="Float .onnx model that the other engines run.")
@click.option("--baseline", "baselines", multiple=True, type=click.Choice(_BASELINES),
              help="Engine to compare with; may be repeated.  [default: both, with --against]")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1), default=100, metavar="N", help="Timed runs of each.  [default: 100]")
@threads_option
@click.option("--html", type=PATH, metavar="FILE", help="Also write the report as a web page.")
@json_option
@verbosity_options
def bench_command(
    artifact: Path,
    against: Path | None,
    baselines: tuple[str, ...],
    repeat: int,
    threads: int,
    html: Path | None,
    json_path: str | None,
) -> None:
    """Time ARTIFACT on this machine, in turns with other engines that run the float model.

    The runs interleave in one process on the same CPUs, so that a change of clock or load hits all alike; the minimum
    and the median are told.
    """
    from lutc.artifact.store import read_artifact
    from lutc.files import check_file, check_writable
    from lutc.targets import check_runs_here

    check_runs_here(read_artifact(artifact, check=False).manifest.target)
    if against is not None:
        check_file(against, (".onnx",))
    elif baselines:
        raise click.UsageError("--baseline needs --against MODEL, the float model that it runs")
    if html is not None:
        check_writable(html, ArtifactError)
    check_json_path(json_path)
    from lutc.benchmark import benchmark

    chosen = baselines or (_BASELINES if against else ())
    report = benchmark(artifact, baselines=chosen, float_model=against, repeat=repeat, threads=threads)
    show_report(report, json_path)
    if html is not None:
        report.save(html)
