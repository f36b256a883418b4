"""The command line: build, retry, plan, status, inspect, verify, stitch, doctor, schema, and ``version_commands``.

Every command ends with one of the exit codes of ``pipeline.errors``.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import click

from pipeline import __version__
from pipeline.cli.exits import explain
from pipeline.cli.outcome import print_outcome
from pipeline.cli.runs import Notify, Run, recorded
from pipeline.cli.text import counted
from pipeline.cli.version_commands import COMMANDS
from pipeline.config import Config, json_schema, load_config
from pipeline.errors import Exit, HeldBackError
from pipeline.inputs.listing import check_inputs

_RUNNERS = {"direct": "DirectRunner", "flink": "FlinkRunner", "dataflow": "DataflowRunner"}

# Only what is needed to reject a wrong configuration is imported above: Beam and TensorFlow take seconds.


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="patchbeam")
def main() -> None:
    """Turns large sets of large images into sharded, shuffled, reproducible TFRecord patch datasets."""


def _takes_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the arguments of the commands that work on a configuration."""
    for decorator in (
        click.argument("beam_options", nargs=-1, metavar="[-- BEAM OPTIONS]"),
        click.argument("config", metavar="CONFIG"),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. patch.size=512. Repeatable."),
        click.option("--output", metavar="FOLDER", help="Replaces output.path."),
        click.option("--input", "images", multiple=True, metavar="PATTERN", help="Replaces input.images. Repeatable."),
    ):
        command = decorator(command)
    return command


def _arguments(_: click.Context, __: click.Parameter, command: str | None) -> list[str]:
    """Splits a command into words, as a shell would."""
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise click.BadParameter(f"{command!r}: {error}") from error
    if words and not shutil.which(words[0]):
        raise click.BadParameter(f"{words[0]!r} is no program that can be run; give its path")
    return words


def _tells(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the commands that are recorded as runs."""
    for decorator in (
        click.option(
            "--notify-command",
            "notify",
            metavar="COMMAND",
            callback=_arguments,
            help="Command to run, without a shell, when this ends; gets the outcome as JSON on its standard input.",
        ),
        click.option(
            "--metrics-file", metavar="FILE", help="File to write the outcome to, in the text format of Prometheus."
        ),
    ):
        command = decorator(command)
    return command


_takes_version = click.option("--version", metavar="NAME", help="Version of the dataset; the latest one if not given.")


@main.command()
@_takes_config
@click.option("--runner", type=click.Choice(list(_RUNNERS)), help="Runner of the build; this machine if not given.")
@click.option("--flink-master", metavar="HOST:PORT", help="REST interface of a Flink cluster, for --runner flink.")
@click.option("--fresh", is_flag=True, help="Read everything again; take nothing over from the published version.")
@click.option("--wait", is_flag=True, help="Wait for another build that writes to the same output.")
@_tells
def build(
    runner: str | None,
    flink_master: str | None,
    fresh: bool,
    wait: bool,
    metrics_file: str | None,
    notify: list[str],
    **arguments: Any,
) -> None:
    """Build and publish a dataset.

    Reads only what changed since the published version, does nothing if nothing did, and finishes an interrupted build.
    Options for Beam follow two dashes, for example -- --direct_num_workers=2
    """
    if flink_master and runner not in (None, "flink"):
        raise click.UsageError(f"--flink-master is for --runner flink, not {runner}")
    if runner or flink_master:
        flags = [f"--runner={_RUNNERS[runner or 'flink']}"]
        flags += [f"--flink_master={flink_master}"] if flink_master else []
        arguments["beam_options"] = (*flags, *arguments["beam_options"])
    _build("build", Notify(metrics_file, notify), lambda run: _prepare(**arguments, run=run), fresh=fresh, wait=wait)


@main.command()
@click.argument("dataset")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="E.g. max_rejected=0.1. Repeatable.")
@_tells
@click.argument("beam_options", nargs=-1, metavar="[-- BEAM OPTIONS]")
def retry(
    dataset: str,
    overrides: tuple[str, ...],
    metrics_file: str | None,
    notify: list[str],
    beam_options: tuple[str, ...],
) -> None:
    """Build a new version of DATASET, cutting again only the shards in which something was rejected.

    Use it after files were repaired. It takes the configuration that DATASET was built with; run it in the same folder.
    """
    from pipeline.dataset.reading import open_dataset

    def prepare(run: Run) -> tuple[Config, Any]:
        built = open_dataset(dataset).manifest.config
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump(built, file)  # JSON is YAML
            file.flush()
            return _prepare(file.name, beam_options, overrides, (), dataset, run)

    _build("retry", Notify(metrics_file, notify), prepare, retry=True)


@main.command()
@_takes_config
def plan(**arguments: Any) -> None:
    """Read the headers of all images and print what a build would do."""
    config, options = _prepare(**arguments)
    from pipeline.build import plan as plan_build
    from pipeline.cli.plan_report import describe_plan
    from pipeline.parallel import cores
    from pipeline.runners.options import threads_per_process

    print(describe_plan(plan_build(config), config, threads_per_process(options) or cores()))


@main.command()
@click.argument("dataset")
@_takes_version
@click.option("--sheets", metavar="FOLDER", default=".", help="Where the contact sheets go; here if not given.")
def inspect(dataset: str, version: str | None, sheets: str) -> None:
    """Print what DATASET holds, and write a contact sheet (PNG) of sampled patches for each split."""
    from pipeline.cli.dataset_report import describe
    from pipeline.dataset.contact_sheet import contact_sheet
    from pipeline.dataset.reading import open_dataset

    found = open_dataset(dataset, version)
    print(describe(found))
    os.makedirs(sheets, exist_ok=True)
    for split in found.manifest.splits:
        if picture := contact_sheet(found, split):
            path = os.path.join(sheets, f"{found.manifest.version}-{split}.png")
            with open(path, "wb") as file:
                file.write(picture)
            print(f"sampled patches of {split}: {path}")


@main.command()
@click.argument("dataset")
@_takes_version
def verify(dataset: str, version: str | None) -> None:
    """Read every byte of DATASET again and compare it with its checksums, its index and its manifest."""
    from pipeline.dataset.reading import open_dataset
    from pipeline.parallel import cores
    from pipeline.tensorflow_import import import_tensorflow

    import_tensorflow()
    from pipeline.dataset.verify import verify as check

    found = open_dataset(dataset, version)
    problems = check(found, cores())
    for problem in problems:
        print(f"{found.folder}/{problem}")
    if problems:
        print(f"patchbeam: {counted(len(problems), 'problem')} in {found.folder}", file=sys.stderr)
        sys.exit(Exit.FAILED)
    shards, records = counted(found.manifest.shards, "shard"), counted(found.manifest.accounts.written, "record")
    print(f"{found.folder}: {shards} with {records}: all as written")


@main.command()
@click.argument("output")
def status(output: str) -> None:
    """Print the progress of the build that writes to OUTPUT, wherever it runs, and what is published there."""
    from pipeline.cli.progress_bar import describe_output

    print(describe_output(output))


@main.command()
@click.argument("dataset")
@_takes_version
@click.option("--image", "image_id", metavar="ID", required=True, help="Identity of the image, see images.parquet.")
@click.option(
    "--predictions", metavar="FOLDER", help="Holds NAME.npy with NAME.keys; the patches themselves if not given."
)
@click.option("--raster", metavar="NAME", help="Companion raster, such as a mask, in place of the image.")
@click.option(
    "--blend",
    type=click.Choice(["average", "hann", "gaussian", "crop"]),
    default="average",
    show_default=True,
    help="What happens where patches overlap.",
)
@click.option("--labels", is_flag=True, help="The values are classes: nothing is averaged.")
@click.option("--fill", type=float, default=0, show_default=True, help="Value of pixels that lie in no patch.")
@click.option("--output", metavar="FILE", required=True, help="The TIFF to write.")
def stitch(dataset: str, version: str | None, image_id: str, output: str, **how: Any) -> None:
    """Put together an image of DATASET, from its patches or from predictions, as a tiled pyramidal TIFF."""
    from pipeline.dataset.reading import open_dataset
    from pipeline.tensorflow_import import import_tensorflow

    found = open_dataset(dataset, version)
    import_tensorflow()
    from pipeline.dataset.stitch import stitch_image

    stitched = stitch_image(found, image_id, output, **how)
    height, width, channels = stitched.shape
    print(f"{output}: {height} x {width} x {channels} pixels from {stitched.patches:,} patches")
    if stitched.missing:
        print(f"missing   {stitched.missing:,} patches; pixels that lie in no other are {how['fill']:g}")


@main.command()
@click.argument("config", required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for build.")
def doctor(config: str | None, overrides: tuple[str, ...]) -> None:
    """Check this machine and, with CONFIG, its input, output and device, and say what to do."""
    from pipeline.cli.doctor import examine

    failed = False
    for finding in examine(load_config(config, overrides) if config else None):
        print(f"{finding.status:<4}  {finding.subject:<8}  {finding.text}")
        failed |= finding.status == "FAIL"
    sys.exit(Exit.FAILED if failed else Exit.DONE)


@main.command()
def schema() -> None:
    """Print the JSON schema of a configuration, for editors that complete and check YAML."""
    print(json.dumps(json_schema(), indent=1))


def _build(command: str, notify: Notify, prepare: Callable[[Run], tuple[Config, Any]], **how: bool) -> None:
    """Builds with a progress bar, records the run, and prints the outcome."""
    try:
        with recorded(command, notify) as run:
            config, options = prepare(run)
            from pipeline.build import build as build_dataset
            from pipeline.cli.progress_bar import bar

            with bar() as show:
                outcome = build_dataset(config, options, show, **how)
            run.manifest, run.unchanged, run.built = outcome.manifest, outcome.unchanged, outcome.built
    except HeldBackError as held:
        print_outcome(held.manifest, config, unchanged=False, built=held.built)
        raise
    print_outcome(outcome.manifest, config, outcome.unchanged, outcome.built)


def _prepare(
    config: str,
    beam_options: tuple[str, ...],
    overrides: tuple[str, ...],
    images: tuple[str, ...],
    output: str | None,
    run: Run | None = None,
) -> tuple[Config, Any]:
    """Returns the checked configuration and Beam's options; raises ConfigError before anything slow is imported."""
    if run:
        run.output = output or ""  # what is known before the configuration is read
    checked = load_config(config, overrides, images, output)
    if run:
        run.output = checked.output.path
    check_inputs(checked.input)
    from pipeline.runners.options import complete_options

    return checked, complete_options(beam_options, checked.beam)


for _command in COMMANDS:
    main.add_command(_command)


def run() -> None:
    """Runs the commands above as the console script, with errors as one sentence."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # systemd and Kubernetes send it: ends like Ctrl-C
    try:
        main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(Exit.USAGE)
    except SystemExit:
        raise
    except BaseException as error:
        code, said = explain(error)
        if said is None:
            raise
        print(f"patchbeam: {said}", file=sys.stderr, flush=True)
        if code != Exit.INTERRUPTED:
            sys.exit(code)
        os._exit(code)  # at once: threads in the middle of a shard would go on, and files appear whole or not at all
