"""``lutc bench``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutc.cli.failure import EXIT_INTERRUPTED, EXIT_OK
from lutc.cli.options import (
    PATH,
    check_json_path,
    json_option,
    remote_option,
    show_report,
    size_option,
    threads_option,
    verbosity_options,
)
from lutc.config import ENCODE_DTYPES
from lutc.errors import ArtifactError

if TYPE_CHECKING:
    from lutc.benchmark.operators import Operator
    from lutc.report import Report

_BASELINES = ("onnxruntime", "onnxruntime-int8", "openvino-int8")
_ENGINES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8", "tvm")
_OF_MODELS = ("onnxruntime", "onnxruntime-int8")


@click.command("bench", short_help="Time an artifact against other engines.")
@click.argument("artifact", metavar="[SUBJECT]", type=PATH, required=False)
@click.option("--against", type=PATH, metavar="MODEL", help="Float .onnx model that the other engines run.")
@click.option("--suite", type=click.Choice(("operators", "quantizers", "networks")),
              help="Time operators of known networks instead: as tables, or quantized to 4, 3 and 2 bits; or the "
              "networks in the folder SUBJECT.")  # fmt: skip
@click.option("--op", "operator", metavar="TEXT",
              help='Time one operator: "conv2d 64x56x56 -> 64 3x3 [s2] [d2]" or "dense 128x768 -> 3072".')  # fmt: skip
@click.option("--k", type=int, metavar="K", help="Centroids of a codebook of --op.  [default: 16]")
@click.option("--v", type=int, metavar="V",
              help="Length of a subvector of --op.  [default: taps of the kernel; 1x1: 4, dense: 16]")  # fmt: skip
@click.option("--encoder", type=click.Choice(("l2", "tree")), help="How --op finds its codes.  [default: l2]")
@click.option("--encode", type=click.Choice(ENCODE_DTYPES),
              help="Search of --op, or of --suite operators.  [default: int8]")  # fmt: skip
@click.option("-t", "--target", metavar="NAME[,...]",
              help="What operators and networks are compiled for.  [default: native]")  # fmt: skip
@click.option("--simulate", is_flag=True,
              help="Price operators on the core of an AArch64 --target, beside ideal matrix kernels.")  # fmt: skip
@click.option("--baseline", "baselines", multiple=True, type=click.Choice(_ENGINES),
              help="Engine to compare with; may be repeated.  "
              "[default: all but tvm; artifact: the first two]")  # fmt: skip
@click.option("--remainder", type=click.Choice(("float32", "int8")), default="float32",
              help="int8 also times networks with other layers than tables in int8.  [default: float32]")  # fmt: skip
@click.option("--repeat", type=click.IntRange(1), default=100, metavar="N", help="Timed runs of each.  [default: 100]")
@threads_option
@size_option
@remote_option
@click.option("--resume", is_flag=True,
              help="Go on with the networks that --json FILE, which is written after each, does not have.")  # fmt: skip
@click.option("--html", type=PATH, metavar="FILE", help="Also write the report as a web page.")
@json_option
@verbosity_options
def bench_command(
    artifact: Path | None,
    against: Path | None,
    suite: str | None,
    operator: str | None,
    k: int | None,
    v: int | None,
    encoder: str | None,
    encode: str | None,
    target: str | None,
    simulate: bool,
    baselines: tuple[str, ...],
    remainder: str,
    repeat: int,
    threads: int,
    sizes: dict[str, int],
    remote: str | None,
    resume: bool,
    html: Path | None,
    json_path: str | None,
) -> int:
    """Time an artifact, float networks, or single operators, in turns with other engines that run the float layers.

    The runs interleave in one process on the same CPUs, so that a change of clock or load hits all alike; the minimum
    and the median are told. Networks run on one and on two threads, unless --threads says otherwise.

    \b
    lutc bench model.lutc --against model.onnx
    lutc bench model.onnx
    lutc bench --suite networks FOLDER --json FILE.json
    lutc bench --suite operators
    lutc bench --op "conv2d 64x56x56 -> 64 3x3" --k 16 --v 9
    lutc bench --suite operators --target cortex-a76 --simulate
    """
    networks = suite == "networks" or (suite is None and artifact is not None and artifact.suffix == ".onnx")
    if networks and (operator, against, remote, artifact is None, simulate) != (None, None, None, False, False):
        raise click.UsageError("networks are timed by themselves: give SUBJECT, a folder of .onnx files or one file")
    if not networks and sum(given is not None for given in (artifact, suite, operator)) != 1:
        raise click.UsageError("give one of SUBJECT, --suite NAME, and --op TEXT")
    if not networks and remainder != "float32":
        raise click.UsageError("--remainder is for networks: give SUBJECT, a folder of .onnx files or one file")
    if operator is None and (k, v, encoder) != (None, None, None):
        raise click.UsageError("--k, --v and --encoder describe an operator: they need --op")
    if encode is not None and operator is None and suite != "operators":
        raise click.UsageError("--encode describes operators: it needs --op or --suite operators")
    if artifact is None and against is not None:
        raise click.UsageError("--against needs an artifact: operators bring their own float layers")
    if artifact is not None and not networks and target is not None:
        raise click.UsageError("--target is for --suite and --op: an artifact has its target")
    if remote is not None and (artifact is None or against is not None or baselines):
        raise click.UsageError("--remote times ARTIFACT there, and nothing else: no operators, no other engines")
    if sizes and (artifact is None or networks):
        raise click.UsageError("--size is for an artifact with dimensions")
    if simulate and suite == "quantizers":
        raise click.UsageError("--simulate prices lookup tables: give --suite operators or --op")
    if simulate and (artifact is not None or target is None or baselines or threads > 1):
        raise click.UsageError("--simulate prices --suite or --op for a --target on one thread, without --baseline")
    if resume and (not networks or json_path in (None, "-")):
        raise click.UsageError("--resume goes on with a suite of networks: it needs --json FILE")
    if "tvm" in baselines and not networks:
        raise click.UsageError("--baseline tvm is for networks")
    counts = _thread_counts(threads) if networks else (threads,)
    _use_threads(max(counts))  # before anything loads TVM
    if artifact is not None and remote is not None:
        report = _remote(artifact, remote, sizes, repeat, threads, _outputs(html, json_path))
    elif networks and artifact is not None:
        keep = None if json_path in (None, "-") else Path(json_path)
        outputs = _outputs(html, json_path)
        report = _networks(artifact, baselines, target or "native", repeat, counts, remainder, keep, resume, outputs)
    elif suite == "quantizers":
        report = _quantizers(baselines, target or "native", repeat, threads, _outputs(html, json_path))
    elif artifact is not None:
        report = _artifact(artifact, against, baselines, sizes, repeat, threads, _outputs(html, json_path))
    else:
        chosen, check = _operators(operator, k, v, encoder, encode), _outputs(html, json_path)
        if simulate:
            report = _simulate(chosen, target or "", check)
        else:
            report = _suite(chosen, baselines, target or "native", repeat, threads, check)
    show_report(report, json_path)
    if html is not None:
        report.save(html)
    return EXIT_INTERRUPTED if getattr(report, "interrupted", False) else EXIT_OK


def _thread_counts(threads: int) -> tuple[int, ...]:
    """One and two threads, where there are two CPUs and the user did not choose."""
    from click.core import ParameterSource

    chosen = click.get_current_context().get_parameter_source("threads") is not ParameterSource.DEFAULT
    return (threads,) if chosen or (os.cpu_count() or 1) < 2 else (1, 2)


def _use_threads(threads: int) -> None:
    os.environ["TVM_NUM_THREADS"] = str(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _outputs(html: Path | None, json_path: str | None) -> Callable[[], None]:
    """Refuses files that cannot be written; called when the inputs were found good."""

    def check() -> None:
        from lutc.files import check_writable

        if html is not None:
            check_writable(html, ArtifactError)
        check_json_path(json_path)

    return check


def _artifact(
    artifact: Path, against: Path | None, baselines: tuple[str, ...], sizes: dict[str, int], repeat: int, threads: int,
    check_outputs: Callable[[], None],
) -> Report:  # fmt: skip
    from lutc.artifact.store import read_artifact
    from lutc.files import check_file
    from lutc.targets import check_runs_here

    check_runs_here(read_artifact(artifact, check=False).manifest.target)
    if against is not None:
        check_file(against, (".onnx",))
    elif baselines:
        raise click.UsageError("--baseline needs --against MODEL, the float model that it runs")
    check_outputs()
    from lutc.benchmark import benchmark

    chosen = baselines or (_OF_MODELS if against else ())
    return benchmark(artifact, baselines=chosen, float_model=against, sizes=sizes, repeat=repeat, threads=threads)


def _networks(
    subject: Path, baselines: tuple[str, ...], target: str, repeat: int, threads: tuple[int, ...],
    remainder: str, keep: Path | None, resume: bool, check_outputs: Callable[[], None],
) -> Report:  # fmt: skip
    from lutc.targets import check_runs_here, parse_target

    check_runs_here(parse_target(target))
    check_outputs()
    from lutc.benchmark.network_suite import ENGINES, benchmark_networks, find_networks

    with _progress(len(find_networks(subject))) as progress:
        return benchmark_networks(
            subject, baselines=baselines or ENGINES, target=target, threads=threads, repeat=repeat, keep=keep,
            remainder=remainder, resume=resume, progress=progress,
        )  # fmt: skip


def _remote(
    artifact: Path, remote: str, sizes: dict[str, int], repeat: int, threads: int, check_outputs: Callable[[], None]
) -> Report:
    check_outputs()
    from lutc.benchmark.remote_benchmark import benchmark_remote

    return benchmark_remote(artifact, remote, sizes=sizes, repeat=repeat, threads=threads)


def _operators(
    text: str | None, k: int | None, v: int | None, encoder: str | None, encode: str | None
) -> list[Operator]:
    from lutc.benchmark.operators import operator_suite, parse_operator

    if text is None:
        return operator_suite(encode or "int8")
    return [
        parse_operator(
            text, num_centroids=16 if k is None else k, subvector_len=v, encode_dtype=encode or "int8",
            encoder=encoder or "l2",
        )
    ]  # fmt: skip


def _suite(
    operators: list[Operator], baselines: tuple[str, ...], target: str, repeat: int, threads: int,
    check_outputs: Callable[[], None],
) -> Report:  # fmt: skip
    from lutc.targets import check_runs_here, parse_target

    goal = parse_target(target)
    check_runs_here(goal)
    check_outputs()
    from lutc.benchmark.operator_suite import benchmark_operators

    with _progress(len(operators)) as progress:
        return benchmark_operators(
            operators, baselines=baselines or _BASELINES, target=goal, threads=threads, repeat=repeat, progress=progress
        )


def _quantizers(
    baselines: tuple[str, ...], target: str, repeat: int, threads: int, check_outputs: Callable[[], None]
) -> Report:
    from lutc.targets import check_runs_here, parse_target

    goal = parse_target(target)
    check_runs_here(goal)
    check_outputs()
    from lutc.benchmark.quantized_layer import quantized_suite
    from lutc.benchmark.quantizer_suite import benchmark_quantizers

    layers = quantized_suite()
    with _progress(len(layers) + 1) as progress:
        return benchmark_quantizers(
            layers, baselines=baselines or _BASELINES, target=goal, threads=threads, repeat=repeat, progress=progress
        )


def _simulate(operators: list[Operator], target: str, check_outputs: Callable[[], None]) -> Report:
    from lutc.cost_model.arm_cores import core_of
    from lutc.targets import parse_target

    goal = parse_target(target)
    core_of(goal)
    check_outputs()
    from lutc.benchmark.simulated_suite import simulate_operators

    with _progress(len(operators)) as progress:
        return simulate_operators(operators, target=goal, progress=progress)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A line on stderr that tells what is being measured, gone at the end; nothing under --quiet."""
    from rich.console import Console
    from rich.status import Status

    console = Console(stderr=True, quiet=click.get_current_context().meta.get("lutc.quiet", False))
    count = 0
    with Status(f"{total} to measure", console=console) as status:

        def show(name: str) -> None:
            nonlocal count
            count += 1
            status.update(f"{count}/{total} {name}")

        yield show
