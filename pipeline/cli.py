"""The command line: build, plan, inspect, verify, stitch, doctor.

Exit codes: 0 done; 1 failed, or ``verify`` found something; 2 too many rejections, nothing published; 64 the
configuration or the command line is wrong (EX_USAGE of sysexits.h); 130 interrupted.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NoReturn

import click

from pipeline import __version__
from pipeline.config import Config, ConfigError, load_config
from pipeline.listing import check_inputs

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


_takes_version = click.option(
    "--version", metavar="NAME", help="A version of the dataset; the latest one if not given."
)


@main.command()
@_takes_config
def build(**arguments: Any) -> None:
    """Build and publish a dataset.

    Does nothing if nothing changed, and finishes what was interrupted. Options for Beam follow two dashes, for example
    -- --direct_num_workers=2
    """
    config, options = _prepare(**arguments)
    from pipeline.build import build as run
    from pipeline.progress import bar

    with bar() as show:
        outcome = run(config, options, show)
    _print_outcome(outcome, config)


@main.command()
@_takes_config
def plan(**arguments: Any) -> None:
    """Read the headers of all images and print what a build would do."""
    config, options = _prepare(**arguments)
    from pipeline.preview import preview

    with tempfile.TemporaryDirectory() as work:
        print(preview(config, options, work))


@main.command()
@click.argument("dataset")
@_takes_version
@click.option("--sheets", metavar="FOLDER", default=".", help="Where the contact sheets go; here if not given.")
def inspect(dataset: str, version: str | None, sheets: str) -> None:
    """Print what DATASET holds, and write a contact sheet (PNG) of sampled patches for each split."""
    from pipeline.contact_sheet import contact_sheet
    from pipeline.dataset import open_dataset
    from pipeline.preview import describe

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
    from pipeline.dataset import open_dataset
    from pipeline.quiet import import_tensorflow

    import_tensorflow()
    from pipeline.verify import verify as check

    found = open_dataset(dataset, version)
    problems = check(found, os.cpu_count() or 1)
    for problem in problems:
        print(f"{found.folder}/{problem}")
    shards, records = len(found.manifest["shards"]), found.manifest["accounts"]["written"]
    if problems:
        print(f"patchbeam: {len(problems)} problems in {found.folder}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{found.folder}: {shards} shards with {records} records, {len(found.manifest['files'])} files: all as written"
    )


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
    from pipeline.dataset import open_dataset
    from pipeline.quiet import import_tensorflow

    found = open_dataset(dataset, version)
    import_tensorflow()
    from pipeline.stitching import stitch_image

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
    from pipeline.doctor import examine

    failed = False
    for finding in examine(load_config(config, overrides) if config else None):
        print(f"{finding.status:<4}  {finding.subject:<8}  {finding.text}")
        failed |= finding.status == "FAIL"
    sys.exit(1 if failed else 0)


def _prepare(
    config: str, beam_options: tuple[str, ...], overrides: tuple[str, ...], images: tuple[str, ...], output: str | None
) -> tuple[Config, Any]:
    """The checked configuration and Beam's options; raises ConfigError before anything slow is imported."""
    checked = load_config(config, overrides, images, output)
    check_inputs(checked.input)
    import logging

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    from pipeline.runners import parse_options

    return checked, parse_options(list(beam_options), checked.beam)


def _print_outcome(outcome: Any, config: Config) -> None:
    manifest, account = outcome.manifest, outcome.manifest["accounts"]
    if outcome.unchanged:
        print(f"Nothing changed since {manifest['created']}: no pixel was read.")
    reused = manifest["counters"].get("shards_reused", 0)
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
    if reused and not outcome.unchanged:
        print(f"reused    {reused} of {len(manifest['shards'])} shards, finished by an earlier attempt")
    if not manifest["splits"][config.training_split]["patches"]:
        print(
            f"warning   no patch is in {config.training_split}: whole groups are dealt out, see splits and input.group"
        )
    print(f"dataset   {outcome.folder}")
    print(f"took      {manifest['seconds']} s" + (" when it was built" if outcome.unchanged else ""))
    print(f"look      {_program()} inspect {config.output.path}")


def _program() -> str:
    """How the command is called here."""
    if shutil.which("patchbeam"):
        return "patchbeam"
    called = os.path.relpath(sys.argv[0])
    return called if called.endswith("patchbeam") else "python -m pipeline"


def run() -> None:
    """The console script: the commands above, with errors as one sentence."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(64)
    except ConfigError as error:
        _fail(error, 64)
    except (KeyboardInterrupt, click.Abort):
        print(
            "\npatchbeam: interrupted; finished shards are kept, the same command goes on from there", file=sys.stderr
        )
        sys.stderr.flush()
        os._exit(130)  # at once: threads in the middle of a shard would go on, and files appear whole or not at all
    except Exception as error:
        from pipeline.build import TooManyRejected
        from pipeline.versions import Busy

        if not isinstance(error, TooManyRejected | Busy):
            raise
        _fail(error, 2 if isinstance(error, TooManyRejected) else 1)


def _fail(message: object, code: int) -> NoReturn:
    print(f"patchbeam: {message}", file=sys.stderr)
    sys.exit(code)
