"""The whole flow on one screen: from images to a published dataset."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
import time
from typing import Any, NamedTuple

import apache_beam as beam
from pydantic import ValidationError

from pipeline import storage
from pipeline.config import Config, Gates
from pipeline.dataset import gates
from pipeline.dataset.reading import Dataset
from pipeline.elements import FORMAT, Previous, digest_of_values
from pipeline.errors import TRANSIENT, FormatError, HeldBackError, WithdrawnError
from pipeline.inputs.listing import Listing, find_images
from pipeline.inputs.slices import slices_of
from pipeline.planning.image_rows import read_images
from pipeline.planning.inspect_images import InspectImages
from pipeline.planning.plan_shards import PlanShards, SplitPlan, forget_plan, read_split_plans
from pipeline.runners.options import parse_options, threads_per_process
from pipeline.runners.run import counters_of, make_runner, run_to_end
from pipeline.shards import receipts
from pipeline.tensorflow_import import import_tensorflow
from pipeline.versions import lease, lifecycle
from pipeline.versions.accounts import check_budget, reconcile
from pipeline.versions.contents import collect, file_facts, split_facts
from pipeline.versions.lifecycle import Version
from pipeline.versions.manifest import Inputs, Manifest, write_manifest
from pipeline.versions.normalization import graphs_program
from pipeline.versions.progress import Show, watch
from pipeline.versions.summary import summarize

_SOFTWARE = (
    "apache-beam",
    "tensorflow",
    "tensorflow-transform",
    "numpy",
    "imagecodecs",
    "tifffile",
    "pillow",
    "pyarrow",
    "simplejpeg",
)


class Outcome(NamedTuple):
    """The outcome of a build.

    Attributes:
        version, manifest: the published version and its manifest.
        unchanged: whether it was published already.
        built: whether this build made it; an earlier one may have, and died before it published.
    """

    version: Version
    manifest: Manifest
    unchanged: bool = False
    built: bool = True

    @property
    def folder(self) -> str:
        """The folder of the version."""
        return self.version.folder


def plan_flow(
    p: beam.Pipeline, config: Config, listing_uri: str, images: int, work: str, previous: Previous | None = None
) -> beam.pvalue.PCollection[tuple[str, str]]:
    """Builds the half that reads headers only, and leaves the plan and the table of images in ``work``."""
    slices = p | "ListImages" >> beam.Create(slices_of(images)) | beam.Reshuffle()  # Slice
    totals = slices | InspectImages(config, listing_uri, work, previous)  # (split, Totals)
    planned: beam.pvalue.PCollection[tuple[str, str]] = totals | PlanShards(config, work, images)
    return planned  # name of a shard, URI of a table with its regions


class Plan(NamedTuple):
    """The plan of a build.

    Attributes:
        images: images that were found.
        opened: images whose headers were read; those of the others are known from the previous version.
        previous: name of the published version that a build would copy from; None if none can serve.
        splits: split -> the work that there is to do, and its number of shards.
        rejected: a row of ``image_id``, ``reason`` and ``message`` for each image that cannot be used.
    """

    images: int
    opened: int
    previous: str | None
    splits: dict[str, SplitPlan]
    rejected: list[dict[str, str]]


def plan(config: Config) -> Plan:
    """Reads headers only, on this machine, and says what a build would do.

    Raises:
        ConfigError: if there are no images.
    """
    config, listing = find_images(config)
    options, previous = parse_options([]), find_previous(config)
    with tempfile.TemporaryDirectory() as work:
        inputs = storage.join(work, "inputs.parquet")
        listing.save(inputs)
        p = beam.Pipeline(runner=make_runner(options), options=options)
        plan_flow(p, config, inputs, listing.images, work, previous)
        opened = counters_of(run_to_end(p, options)).get("images_opened", 0)
        splits = read_split_plans(work)
        table = read_images(work, listing.images)
    rejected = table.filter(table["reason"].is_valid()).select(["image_id", "reason", "message"]).to_pylist()
    return Plan(listing.images, opened, previous.folder.rpartition("/")[2] if previous else None, splits, rejected)


def make_pipeline(
    config: Config, options: Any, version: Version, images: int, previous: Previous | None = None
) -> beam.Pipeline:
    """Makes the pipeline of a build, from ``inputs.parquet`` in the folder of a version to the shards there."""
    import_tensorflow()  # takes seconds; a plan and an unchanged build do without it
    from pipeline.shards.write_shards import WriteShards

    # The workers may have another working directory.
    folder, work = storage.absolute(version.folder), storage.absolute(version.work)
    p = beam.Pipeline(runner=make_runner(options), options=options)
    planned = plan_flow(p, config, storage.join(folder, "inputs.parquet"), images, work, previous)
    shards = planned | WriteShards(config, folder, threads_per_process(options), previous)  # names of shards
    shards | receipts.SumReceipts(folder, work)
    return p


def build(
    config: Config, options: Any, show: Show | None = None, retry: bool = False, fresh: bool = False, wait: bool = False
) -> Outcome:
    """Builds and publishes a dataset; finishes an interrupted build, and does nothing where nothing changed.

    Args:
        config: what to build.
        options: options of Beam, from :func:`pipeline.runners.options.complete_options`.
        show: called with progress, see :func:`pipeline.versions.progress.watch`.
        retry: whether to try again what the published version rejected.
        fresh: whether to take nothing over from earlier versions.
        wait: whether to wait for another build that writes to the same output.

    Raises:
        ConfigError: if there are no images, or the output cannot be written.
        DatasetError: if what is published there was changed, or made by a newer patchbeam.
        TooManyRejectedError: if the budget of rejections is exceeded; finished shards are kept, nothing is published.
        BusyError: if another build writes to the same output.
        LeaseLostError: if the lease of the output is lost to another build.
        WithdrawnError: if a version of the same images and configuration was taken back by ``patchbeam rollback``.
        HeldBackError: if the version is complete, and a gate holds it back.
    """
    output, started = config.output.path, time.time()
    config, listing = find_images(config)
    with lease.hold(output, wait) as held:
        lifecycle.check_format(output)
        published = None if fresh else unchanged(config, listing)
        if published and not (retry and published.manifest.accounts.reasons):
            return published
        ready = None if fresh or retry else _ready(config, listing)
        outcome = ready or _build(config, listing, options, show, retry, fresh, started)
        outcome = _pass_gates(config, outcome)
        lifecycle.publish(outcome.version, held)
    return outcome


def begin(config: Config, listing: Listing) -> Version:
    """Begins the version to build in, and saves the listing in it; see :func:`pipeline.versions.lifecycle.begin`."""
    version, _ = lifecycle.begin(config.output.path, config.content_digest(), identity_of(config, listing))
    listing.save(storage.join(version.folder, "inputs.parquet"))
    return version


def _build(
    config: Config, listing: Listing, options: Any, show: Show | None, retry: bool, fresh: bool, started: float
) -> Outcome:
    """Builds a version until it is complete."""
    previous = None if fresh else find_previous(config, retry)
    version = begin(config, listing)
    with graphs_program(ahead=previous is not None) as write_graphs:  # a rebuild is short
        counters = _run(config, options, version, listing, previous, show)
        totals = collect(version)
        accounts = reconcile(version.folder, version.work, config.input.level, listing.images, totals)
        check_budget(accounts, config.max_rejected, counters, version.folder)
        summarize(version.folder, config, totals, write_graphs)
    manifest = Manifest(
        format=FORMAT,
        version=version.name,
        identity=identity_of(config, listing),
        content_digest=config.content_digest(),
        created=lease.utc(time.time()),
        seconds=round(time.time() - started, 1),
        host=platform.node(),
        software=_software(),
        config=config.model_dump(mode="json"),
        inputs=Inputs(images=listing.images, digest=listing.digest),
        previous=previous.folder.rpartition("/")[2] if previous else None,
        accounts=accounts,
        splits=split_facts(totals, accounts),
        counters=counters,
        files=file_facts(version, totals),
    )
    write_manifest(version.folder, manifest)
    return Outcome(version, manifest)


def _pass_gates(config: Config, outcome: Outcome) -> Outcome:
    """Asks the gates, and notes in the manifest what they say.

    Raises:
        HeldBackError: if one of them does not let the version pass.
    """
    version, latest = outcome.version, lifecycle.latest(config.output.path)
    new = Dataset(version.folder, outcome.manifest, config)
    verdicts = gates.judge(new, latest.folder if latest else None, config.gates or Gates())
    manifest = outcome.manifest.model_copy(update={"gates": tuple(verdicts)})
    write_manifest(version.folder, manifest)
    if failed := manifest.failed_gates:
        reasons = "\n".join(f"  {verdict.gate}: {verdict.sentence}" for verdict in failed)
        stays = f"{latest.name} stays published" if latest else "nothing is published"
        raise HeldBackError(
            f"{version.name} is complete, and held back:\n{reasons}\n"
            f"{stays}; patchbeam publish {version.output} {version.name} publishes it anyway",
            manifest,
            outcome.built,
        )
    return outcome._replace(manifest=manifest)


def _ready(config: Config, listing: Listing) -> Outcome | None:
    """Returns a complete version newer than the published one, of the same images and configuration.

    Its build died before it was published, or a gate held it back: the gates are asked again, as they are set now.

    Raises:
        WithdrawnError: if it was published, and taken back.
    """
    output = config.output.path
    latest, identity = lifecycle.latest(output), identity_of(config, listing)
    for version in reversed(lifecycle.complete_versions(output)):
        if latest and version.name <= latest.name:
            break
        manifest = _readable(version)
        if not manifest or manifest.identity != identity:
            continue
        if version.name in (taken_back := lifecycle.withdrawn(output)):
            raise WithdrawnError(
                f"{version.name} is of the same images and configuration, and was taken back at "
                f"{taken_back[version.name]}; nothing was published. patchbeam publish {output} {version.name} "
                "publishes it again"
            )
        if not TRANSIENT & manifest.accounts.reasons.keys():
            return Outcome(version, manifest, built=False)
    return None


def unchanged(config: Config, listing: Listing) -> Outcome | None:
    """Returns the published version if it is of the same images and configuration and has nothing to try again."""
    version = lifecycle.latest(config.output.path)
    manifest = _readable(version) if version else None
    if not version or not manifest or manifest.identity != identity_of(config, listing):
        return None
    if TRANSIENT & manifest.accounts.reasons.keys():
        return None  # what failed for a transient reason is tried again
    return Outcome(version, manifest, unchanged=True, built=False)


def find_previous(config: Config, retry_rejected: bool = False) -> Previous | None:
    """Returns the published version if its images and records can serve: the configuration of pixels is the same.

    Args:
        config: what is built.
        retry_rejected: whether rejections are tried again; they always are with other versions of the libraries.

    Raises:
        DatasetError: if its manifest was changed.
    """
    version = lifecycle.latest(config.output.path)
    manifest = _readable(version) if version else None
    if not version or not manifest or manifest.format != FORMAT:
        return None
    try:
        built = Config.model_validate(manifest.config)
    except ValidationError:  # for keys that no longer exist
        return None
    if built.pixel_digest() != config.pixel_digest():
        return None
    shards = {name: split.shards for name, split in manifest.splits.items()}
    return Previous(storage.absolute(version.folder), shards, retry_rejected or manifest.software != _software())


def _readable(version: Version) -> Manifest | None:
    """Reads the manifest of a version; None if it has a format that is not read, and cannot serve."""
    try:
        return version.manifest
    except FormatError:
        return None


def _software() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _SOFTWARE}


def identity_of(config: Config, listing: Listing) -> str:
    """Returns 64 hexadecimal digits that identify what a dataset is made of; equal digits mean equal records."""
    return digest_of_values("dataset", {"config": config.content_digest(), "images": listing.digest}).hex()


def _run(
    config: Config, options: Any, version: Version, listing: Listing, previous: Previous | None, show: Show | None
) -> dict[str, int]:
    """Runs the pipeline to its end and returns its counters."""
    forget_plan(version.work)  # the plan of the attempt that is resumed
    p = make_pipeline(config, options, version, listing.images, previous)
    with watch(version.folder, version.work, show):
        return counters_of(run_to_end(p, options))
