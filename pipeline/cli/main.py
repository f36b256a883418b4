"""The command line: build, retry, plan, status, inspect, verify, stitch, doctor, and what is in version_commands.

Every command ends with one of the exit codes of ``pipeline.cli.exits``.
"""

from __future__ import annotations

import itertools
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
from pipeline.cli.runs import Notify, Run, recorded
from pipeline.cli.version_commands import COMMANDS
from pipeline.config import Config, load_config
from pipeline.errors import CommandError, Exit
from pipeline.inputs.listing import check_inputs
from pipeline.versions.lifecycle import folder_of

_RUNNERS = {"direct": "DirectRunner", "flink": "FlinkRunner", "dataflow": "DataflowRunner"}

# Only what answers a wrong configuration is imported above: Beam and TensorFlow take seconds.


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="patchbeam")
def main() -> None:
    """Turns large sets of large images into sharded, shuffled, reproducible TFRecord patch datasets."""


def _takes_config(command: Callable) -> Callable:
    """The arguments of the commands that work on a configuration."""
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
    """The words of a command, as a shell would divide them."""
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise click.BadParameter(f"{command!r}: {error}") from error
    if words and not shutil.which(words[0]):
        raise click.BadParameter(f"{words[0]!r} is no program that can be run; give its path")
    return words


def _tells(command: Callable) -> Callable:
    """The options of the commands that are recorded as runs."""
    for decorator in (
        click.option(
            "--notify-command",
            "notify",
            metavar="COMMAND",
            callback=_arguments,
            help="Run without a shell when this ends, with the outcome as JSON on its standard input.",
        ),
        click.option("--metrics-file", metavar="FILE", help="Gets the outcome in the text format of Prometheus."),
    ):
        command = decorator(command)
    return command


_takes_version = click.option(
    "--version", metavar="NAME", help="A version of the dataset; the latest one if not given."
)


@main.command()
@_takes_config
@click.option("--runner", type=click.Choice(list(_RUNNERS)), help="What runs the build; this machine if not given.")
@click.option("--flink-master", metavar="HOST:PORT", help="REST interface of a Flink cluster, for --runner flink.")
@click.option("--fresh", is_flag=True, help="Read everything again, take nothing over from the published version.")
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

    Reads only what changed since the published version, does nothing if nothing did, and finishes what was interrupted.
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

    For files that were repaired since; with the configuration that DATASET was built with, from the same folder.
    """
    from pipeline.dataset.reading import open_dataset

    def prepare(run: Run) -> tuple[Config, Any]:
        built = open_dataset(dataset).manifest["config"]
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
    from pipeline.cli.plan_report import preview

    with tempfile.TemporaryDirectory() as work:
        print(preview(config, options, work))


@main.command()
@click.argument("dataset")
@_takes_version
@click.option("--sheets", metavar="FOLDER", default=".", help="Where the contact sheets go; here if not given.")
def inspect(dataset: str, version: str | None, sheets: str) -> None:
    """Print what DATASET holds, and write a contact sheet (PNG) of sampled patches for each split."""
    from pipeline.dataset.contact_sheet import contact_sheet
    from pipeline.dataset.describe import describe
    from pipeline.dataset.reading import open_dataset

    found = open_dataset(dataset, version)
    print(describe(found))
    os.makedirs(sheets, exist_ok=True)
    for split in found.manifest["splits"]:
        if picture := contact_sheet(found, split):
            path = os.path.join(sheets, f"{found.manifest['version']}-{split}.png")
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
        print(f"patchbeam: {len(problems)} problems in {found.folder}", file=sys.stderr)
        sys.exit(1)
    shards = sum(split["shards"] for split in found.manifest["splits"].values())
    print(f"{found.folder}: {shards} shards with {found.manifest['accounts']['written']} records: all as written")


@main.command()
@click.argument("output")
def status(output: str) -> None:
    """Print how far the build is that writes to OUTPUT, wherever it runs, and what is published there."""
    from pipeline.cli.progress_bar import describe_output

    print(describe_output(output))


@main.command()
@click.argument("dataset")
@_takes_version
@click.option("--image", "image_id", metavar="ID", required=True, help="Identity of the image, see images.parquet.")
@click.option("--predictions", metavar="FOLDER", help="NAME.npy with NAME.keys; the patches themselves if not given.")
@click.option("--raster", metavar="NAME", help="A further raster, such as a mask, in place of the image.")
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
    """Put an image of DATASET together, from its patches or from predictions, as a tiled pyramidal TIFF."""
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
    sys.exit(1 if failed else 0)


def _build(command: str, notify_how: Notify, prepare: Callable[[Run], tuple[Config, Any]], **how: bool) -> None:
    """Builds with a bar, records the run, and prints what came of it."""
    try:
        with recorded(command, notify_how) as run:
            config, options = prepare(run)
            from pipeline.build import build as build_dataset
            from pipeline.cli.progress_bar import bar

            with bar() as show:
                outcome = build_dataset(config, options, show, **how)
            run.manifest, run.unchanged, run.built = outcome.manifest, outcome.unchanged, outcome.built
    except CommandError as ended:
        if "version" in ended.manifest:  # complete, but not published
            _print_outcome(ended.manifest, config, unchanged=False, built=ended.built)
        raise
    _print_outcome(outcome.manifest, config, outcome.unchanged, outcome.built)


def _prepare(
    config: str,
    beam_options: tuple[str, ...],
    overrides: tuple[str, ...],
    images: tuple[str, ...],
    output: str | None,
    run: Run | None = None,
) -> tuple[Config, Any]:
    """The checked configuration and Beam's options; raises ConfigError before anything slow is imported."""
    if run:
        run.output = output or ""  # what is known before the configuration is read
    checked = load_config(config, overrides, images, output)
    if run:
        run.output = checked.output.path
    check_inputs(checked.input)
    import logging

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    from pipeline.runners.options import is_flink, option_names, parse_options

    options = parse_options(list(beam_options), checked.beam)
    if is_flink(options):
        from pipeline.runners.flink import complete_options

        complete_options(options, option_names(beam_options) | checked.beam.keys())
    return checked, options


def _print_outcome(manifest: dict[str, Any], config: Config, unchanged: bool, built: bool) -> None:
    account = manifest["accounts"]
    if unchanged:
        print(f"Nothing changed since {manifest['created']}: no pixel was read.")
    counters = manifest["counters"]
    reused, taken_over = (counters.get(f"shards_{how}", 0) for how in ("reused", "taken_over"))
    print(f"images    {account['images']:,}, {account['images_rejected']} of them with rejections")
    for split, facts in manifest["splits"].items():
        size = f"{facts['shards']} shards, {facts['bytes'] / 1e6:,.1f} MB"
        print(f"{split:<9} {facts['patches']:,} patches of {facts['images']:,} images, {size}")
    if account["filters"]:
        filters = ", ".join(f"{count:,} by {name}" for name, count in account["filters"].items())
        print(f"filtered  {account['filtered']:,} of {account['planned']:,} patches: {filters}")
    if account["reasons"]:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in account["reasons"].items())
        print(f"rejected  {account['rejected']:,} of {account['planned']:,} patches: {reasons}; see rejected.jsonl")
    shards = sum(split["shards"] for split in manifest["splits"].values())
    if reused and built:
        print(f"reused    {reused} of {shards} shards, finished by an earlier attempt")
    if (previous := manifest["previous"]) and built:
        print(f"copied    {taken_over} of {shards} shards, and {_copied(counters)} records, from {previous}")
        opened, pixels = counters.get("images_opened", 0), counters.get("pixels_decoded", 0)
        print(f"read      {opened:,} of {account['images']:,} images, {pixels / 1e6:,.1f} megapixels")
    if (busy := manifest["counters"].get("gpu_busy_ms")) and built:
        wait, rate = manifest["counters"]["gpu_wait_ms"], manifest["counters"]["patches_written"] / busy * 1000
        print(f"gpu       busy {busy / 1e3:,.1f} s, {rate:,.0f} patches/s; waited for input {wait / 1e3:,.1f} s")
    if not manifest["splits"][config.training_split]["patches"]:
        print(
            f"warning   no patch is in {config.training_split}: whole groups are dealt out, see splits and input.group"
        )
    for sentence, gates in itertools.groupby(manifest.get("gates", ()), lambda gate: gate["sentence"]):
        print(f"gate      {', '.join(gate['gate'] for gate in gates)}: {sentence}")
    print(f"dataset   {folder_of(config.output.path, manifest['version'])}")
    print(f"took      {manifest['seconds']} s" + ("" if built else " when it was built"))
    print(f"look      {_program()} inspect {config.output.path}")


def _copied(counters: dict[str, int]) -> str:
    rewritten = counters.get("records_rewritten", 0)
    names = f" with new names around {rewritten:,}" if rewritten else ""
    return f"{counters.get('records_copied', 0) + rewritten:,}{names}"


def _program() -> str:
    """How the command is called here."""
    if shutil.which("patchbeam"):
        return "patchbeam"
    called = os.path.relpath(sys.argv[0])
    return called if called.endswith("patchbeam") else "python -m pipeline"


for _command in COMMANDS:
    main.add_command(_command)


def run() -> None:
    """The console script: the commands above, with errors as one sentence."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of systemd and Kubernetes: ends like Ctrl-C
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
