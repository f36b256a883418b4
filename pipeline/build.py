"""The whole flow on one screen: from images to a published dataset."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from pydantic import ValidationError

from pipeline import errors, storage
from pipeline.config import Config, Gates
from pipeline.dataset import gates
from pipeline.dataset.reading import SHARDS, Dataset
from pipeline.elements import FORMAT, Previous, digest_of_values, files_of
from pipeline.errors import TRANSIENT, TooManyRejectedError, WithdrawnError
from pipeline.inputs.listing import Listing, find_images
from pipeline.inputs.slices import slices_of
from pipeline.planning.inspect_images import InspectImages
from pipeline.planning.plan_shards import PlanShards, largest_to_mean, read_plan
from pipeline.runners.options import threads_per_process
from pipeline.runners.run import counters_of, make_runner, run_to_end
from pipeline.shards import receipts
from pipeline.tensorflow_import import import_tensorflow
from pipeline.versions import accounts, lease, lifecycle
from pipeline.versions.normalization import graphs_program
from pipeline.versions.progress import watch
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
    """How a build ended.

    Attributes:
        folder, manifest: of the published version.
        unchanged: whether it was published already.
        built: whether this build made it; an earlier one may have, and died before it published.
    """

    folder: str
    manifest: dict[str, Any]
    unchanged: bool = False
    built: bool = True


def plan_flow(
    p: beam.Pipeline, config: Config, listing_uri: str, images: int, work: str, previous: Previous | None = None
) -> beam.PCollection[tuple[str, str]]:
    """The half that reads headers only; leaves the plan and the table of images in ``work``."""
    slices = p | "ListImages" >> beam.Create(slices_of(images)) | beam.Reshuffle()  # Slice
    totals = slices | InspectImages(config, listing_uri, work, previous)  # (split, Totals)
    return totals | PlanShards(config, work, images)  # name of a shard, URI of a table with its regions


def make_pipeline(
    config: Config, options: Any, folder: str, images: int, previous: Previous | None = None
) -> beam.Pipeline:
    """The pipeline of a build, from ``inputs.parquet`` in ``folder``, the folder of a version, to the shards there."""
    import_tensorflow()  # takes seconds; a plan and an unchanged build do without it
    from pipeline.shards.write_shards import WriteShards

    p = beam.Pipeline(runner=make_runner(options), options=options)
    work = storage.join(folder, lifecycle.WORK)
    planned = plan_flow(p, config, storage.join(folder, "inputs.parquet"), images, work, previous)
    shards = planned | WriteShards(config, folder, threads_per_process(options), previous)  # names of shards
    shards | receipts.SumReceipts(folder, work)
    return p


def begin(config: Config, listing: Listing) -> str:
    """The folder of the version to build in, with the listing in it; see ``versions.begin``."""
    name, _ = lifecycle.begin(config.output.path, config.content_digest(), _identity(config, listing))
    folder = lifecycle.folder_of(config.output.path, name)
    listing.save(storage.join(folder, "inputs.parquet"))
    return folder


def build(
    config: Config, options: Any, show: Any = None, retry: bool = False, fresh: bool = False, wait: bool = False
) -> Outcome:
    """Builds and publishes a dataset; finishes an interrupted build, and does nothing where nothing changed.

    Args:
        config: what to build.
        options: Beam's, from :func:`pipeline.runners.options.parse_options`.
        show: called with progress, see :func:`pipeline.versions.progress.watch`.
        retry: tries again what the published version rejected.
        fresh: takes nothing over from earlier versions.
        wait: for another build that writes to the same output.

    Raises:
        ConfigError: if there are no images, the output cannot be written, or what is published there was changed or
            made by a newer patchbeam.
        TooManyRejectedError: if the budget of rejections is exceeded; everything but the publishing was done.
        BusyError: if another build writes to the same output.
        LeaseLostError: if another one does by now.
        WithdrawnError: if a version of the same images and configuration was taken back by ``patchbeam rollback``.
        HeldBackError: if the version is complete, and a gate holds it back.
    """
    out, started = config.output.path, time.time()
    config, listing = find_images(config)
    with lease.hold(out, wait) as held:
        lifecycle.check_format(out)
        published = None if fresh else unchanged(config, listing)
        if published and not (retry and published.manifest["accounts"]["reasons"]):
            return published
        ready = None if fresh or retry else _ready(config, listing)
        outcome = ready or _build(config, listing, options, show, retry, fresh, started)
        outcome = _pass_gates(config, outcome)
        lifecycle.publish(out, outcome.manifest["version"], held)
    return outcome


def _build(
    config: Config, listing: Listing, options: Any, show: Any, retry: bool, fresh: bool, started: float
) -> Outcome:
    """Makes a version complete."""
    out = config.output.path
    previous = None if fresh else find_previous(config, retry)
    folder = begin(config, listing)
    name, work = folder.rpartition("/")[2], storage.join(folder, lifecycle.WORK)
    with graphs_program(ahead=previous is not None) as write_graphs:  # a rebuild is short
        counters = _run(config, options, folder, work, listing, previous, show)
        totals = _collect(folder, work)
        account = accounts.reconcile(folder, work, config, listing.images, totals)
        _check_budget(account, config, folder, counters)
        summarize(folder, config, totals, write_graphs)
    manifest = {
        "format": FORMAT,
        "version": name,
        "identity": _identity(config, listing),
        "content_digest": config.content_digest(),
        "created": lease.utc(time.time()),
        "seconds": round(time.time() - started, 1),
        "host": platform.node(),
        "software": _software(),
        "config": config.model_dump(mode="json"),
        "inputs": {"images": listing.images, "digest": listing.digest},
        "previous": previous.folder.rpartition("/")[2] if previous else None,
        "accounts": account._asdict(),
        "splits": _splits(totals, account),
        "counters": counters,
        "files": _checksums(folder, totals),
    }
    return Outcome(folder, lifecycle.complete(out, name, manifest))


def _pass_gates(config: Config, outcome: Outcome) -> Outcome:
    """Asks the gates, and notes in the manifest what they say.

    Raises:
        HeldBackError: if one of them does not let the version pass.
    """
    out, folder, manifest = config.output.path, outcome.folder, outcome.manifest
    name, latest = manifest["version"], lifecycle.latest(out)
    published = lifecycle.folder_of(out, latest) if latest else None
    verdicts = gates.judge(Dataset(folder, manifest, config), published, config.gates or Gates())
    manifest = lifecycle.complete(out, name, manifest | {"gates": [verdict._asdict() for verdict in verdicts]})
    if failed := [verdict for verdict in verdicts if not verdict.passed]:
        reasons = "\n".join(f"  {verdict.gate}: {verdict.sentence}" for verdict in failed)
        stays = f"{latest} stays published" if latest else "nothing is published"
        raise errors.HeldBackError(
            f"{name} is complete, and held back:\n{reasons}\n"
            f"{stays}; patchbeam publish {out} {name} publishes it anyway",
            manifest,
            outcome.built,
        )
    return outcome._replace(manifest=manifest)


def _ready(config: Config, listing: Listing) -> Outcome | None:
    """A version that is complete and newer than the published one, of the same images and configuration.

    Its build died before it was published, or a gate held it back: the gates are asked again, as they are set now.

    Raises:
        WithdrawnError: if it was published, and taken back.
    """
    out = config.output.path
    for name in reversed([name for name in lifecycle.complete_versions(out) if name > (lifecycle.latest(out) or "")]):
        folder = lifecycle.folder_of(out, name)
        manifest = lifecycle.read_manifest(folder)
        if not manifest or manifest.get("identity") != _identity(config, listing):
            continue
        if name in (taken_back := lifecycle.withdrawn(out)):
            raise WithdrawnError(
                f"{name} is of the same images and configuration, and was taken back at {taken_back[name]}; nothing "
                f"was published. patchbeam publish {out} {name} publishes it again"
            )
        if not TRANSIENT & manifest["accounts"]["reasons"].keys():
            return Outcome(folder, manifest, built=False)
    return None


def unchanged(config: Config, listing: Listing) -> Outcome | None:
    """The published version, if it is of the same images and configuration and nothing of it has to be tried again."""
    out = config.output.path
    name = lifecycle.latest(out)
    folder = lifecycle.folder_of(out, name) if name else ""
    manifest = lifecycle.read_manifest(folder) if name else None
    if not manifest or manifest["identity"] != _identity(config, listing):
        return None
    if TRANSIENT & manifest["accounts"]["reasons"].keys():
        return None  # what failed in passing is tried again
    return Outcome(folder, manifest, unchanged=True, built=False)


def find_previous(config: Config, retry_rejected: bool = False) -> Previous | None:
    """The published version, if its images and records can serve: the configuration of the pixels is the same.

    Args:
        config: what is built.
        again: whether what was rejected is tried again; it is in any case with other versions of the libraries.

    Raises:
        ConfigError: if the output was made by a newer patchbeam, or its manifest was changed.
    """
    out = config.output.path
    name = lifecycle.latest(out)
    folder = lifecycle.folder_of(out, name) if name else ""
    manifest = lifecycle.read_manifest(folder) if name else None
    if not manifest or manifest["format"] != FORMAT:
        return None
    try:
        built = Config.model_validate(manifest["config"])
    except ValidationError:  # of keys that are no more
        return None
    if built.pixel_digest() != config.pixel_digest():
        return None
    shards = {split: facts["shards"] for split, facts in manifest["splits"].items()}
    return Previous(storage.absolute(folder), shards, retry_rejected or manifest["software"] != _software())


def _software() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in _SOFTWARE}


def _identity(config: Config, listing: Listing) -> str:
    return digest_of_values("dataset", {"config": config.content_digest(), "images": listing.digest}).hex()


def _run(
    config: Config, options: Any, folder: str, work: str, listing: Listing, previous: Previous | None, show: Any
) -> dict[str, int]:
    """Runs the pipeline to its end and returns its counters."""
    folder, work = storage.absolute(folder), storage.absolute(work)  # the workers may run in another folder
    if storage.size(storage.join(work, "plan.json")) is not None:  # of the attempt that is resumed
        storage.delete(storage.join(work, "plan.json"))
    p = make_pipeline(config, options, folder, listing.images, previous)
    with watch(folder, work, show):
        return counters_of(run_to_end(p, options))


def _collect(folder: str, work: str) -> dict[str, receipts.Sums]:
    """What the shards of each split add up to, and their table; whatever else an earlier attempt left is removed."""
    plan = read_plan(work) or {}
    totals = {split: receipts.read_sums(work, split, facts["shards"]) for split, facts in plan.items()}
    lifecycle.keep_only(folder, _shard_files(totals) | {"inputs.parquet"})
    storage.write_table(storage.join(folder, SHARDS), pa.concat_tables(split.shards for split in totals.values()))
    return totals


def _shard_files(totals: dict[str, receipts.Sums]) -> set[str]:
    """Paths of all files of all shards, below the version."""
    names = (name for split in totals.values() for name in split.shards["shard"].to_pylist())
    return {path for name in names for path in files_of(name)}


def _check_budget(account: accounts.Accounts, config: Config, folder: str, counters: dict[str, int]) -> None:
    known = {"accounts": account._asdict(), "counters": counters}
    where = f"see {storage.join(folder, 'rejected.jsonl')}"
    reasons = ", ".join(f"{count} x {reason}" for reason, count in account.reasons.items())
    if not account.written:
        left_out = f", {account.filtered} patches filtered" if account.filtered else ""
        raise TooManyRejectedError(
            f"no patch was written: {account.images} images, {reasons or 'no rejections'}{left_out}; {where}",
            known,
        )
    if account.images_rejected > account.allowed(config):
        raise TooManyRejectedError(
            f"{account.images_rejected} of {account.images} images have rejections ({reasons}), and max_rejected: "
            f"{config.max_rejected:g} allows {account.allowed(config)}; {where}. Nothing was published; after the "
            "repair, or with a higher max_rejected, the same command takes over the shards that are finished",
            known,
        )


def _splits(totals: dict[str, receipts.Sums], account: accounts.Accounts) -> dict[str, dict[str, Any]]:
    return {
        split: {
            "images": account.split_images.get(split, 0),
            "patches": part.records,
            "shards": part.shards.num_rows,
            "bytes": sum(part.shards["bytes"].to_pylist()),
            "largest_to_mean": round(largest_to_mean(part.shards["records"].to_numpy()), 3),
        }
        for split, part in totals.items()
    }


def _checksums(folder: str, totals: dict[str, receipts.Sums]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file of the version but those of the shards, which are in their table."""
    elsewhere = _shard_files(totals)
    files = {}
    for below in storage.files_below(folder):
        if below not in elsewhere and not below.startswith(f"{lifecycle.WORK}/"):
            data = storage.read_bytes(storage.join(folder, below))
            files[below] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return files
