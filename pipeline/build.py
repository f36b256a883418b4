"""The whole flow on one screen: from images to a published dataset."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline import accounts, storage, versions
from pipeline.config import Config
from pipeline.elements import FORMAT, PASSING, ShardPlan, ShardResult, index_file, receipt_file, shard_file
from pipeline.headers import InspectImages
from pipeline.listing import Listing, find_images, read_listing
from pipeline.plan import PlanShards, read_plan
from pipeline.progress import watch
from pipeline.quiet import import_tensorflow
from pipeline.runners import make_runner, threads_per_process

_SOFTWARE = (
    "apache-beam",
    "tensorflow",
    "tensorflow-transform",
    "numpy",
    "imagecodecs",
    "tifffile",
    "pillow",
    "pyarrow",
)


class TooManyRejected(RuntimeError):
    """More images had rejections than ``max_rejected`` allows, or no patch was written; nothing was published."""


class Outcome(NamedTuple):
    """How a build ended: the folder and manifest of the published version, and whether it was there already."""

    folder: str
    manifest: dict[str, Any]
    unchanged: bool


def plan_flow(
    p: beam.Pipeline, config: Config, listing_uri: str, images: int, work: str
) -> beam.PCollection[ShardPlan]:
    """The half that reads headers only; leaves the plan and the table of images in ``work``."""
    refs = p | "Listing" >> beam.Create([listing_uri]) | "ListImages" >> beam.FlatMap(read_listing)  # ImageRef
    found = refs | beam.Reshuffle() | InspectImages(config)  # ImageInfo, Rejected
    (found.infos, found.rejected) | accounts.RecordImages(config, work, images)
    return found.infos | PlanShards(config, work)  # ShardPlan


def make_pipeline(config: Config, options: Any, folder: str, images: int) -> beam.Pipeline:
    """The pipeline of a build, from ``inputs.parquet`` in ``folder``, the folder of a version, to the shards there."""
    import_tensorflow()  # takes seconds; a plan and an unchanged build do without it
    from pipeline.shards import WriteShards

    p = beam.Pipeline(runner=make_runner(options), options=options)
    work = storage.join(folder, versions.WORK)
    plans = plan_flow(p, config, storage.join(folder, "inputs.parquet"), images, work)
    plans | WriteShards(config, folder, threads_per_process(options))
    return p


def begin(config: Config, listing: Listing) -> str:
    """The folder of the version to build in, with the listing in it; see ``versions.begin``."""
    name, _ = versions.begin(config.output.path, config.content_digest())
    folder = versions.folder_of(config.output.path, name)
    storage.write_bytes(storage.join(folder, "inputs.parquet"), listing.table)
    return folder


def build(config: Config, options: Any, show: Any = None) -> Outcome:
    """Builds and publishes a dataset; finishes an interrupted build, and does nothing where nothing changed.

    Args:
        config: what to build.
        options: Beam's, from :func:`pipeline.runners.parse_options`.
        show: called with progress, see :func:`pipeline.progress.watch`.

    Raises:
        ConfigError: if there are no images, or the output cannot be written.
        TooManyRejected: if the budget of rejections is exceeded; everything but the publishing was done.
        versions.Busy: if another build on this machine writes to the same output.
    """
    out, started = config.output.path, time.time()
    config, listing = find_images(config)
    with versions.exclusively(out):
        if published := unchanged(config, listing):
            return published
        folder = begin(config, listing)
        name, work = folder.rpartition("/")[2], storage.join(folder, versions.WORK)
        counters = _run(config, options, folder, work, listing, show)
        receipts = _collect(folder, work, config)
        account = accounts.settle(folder, work, config, receipts)
        _check_budget(account, config, folder)
        from pipeline.summary import summarize

        statistics = summarize(folder, config, receipts)
        manifest = {
            "format": FORMAT,
            "version": name,
            "identity": _identity(config, listing),
            "content_digest": config.content_digest(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - started, 1),
            "host": platform.node(),
            "software": {package: importlib.metadata.version(package) for package in _SOFTWARE},
            "config": config.model_dump(mode="json"),
            "inputs": {"images": listing.images, "digest": listing.digest},
            "accounts": account._asdict(),
            "splits": _splits(receipts, account, statistics),
            "counters": counters,
            "shards": [
                r._asdict() | {"rejected": len(r.rejected), "images": len(r.images), "moments": None} for r in receipts
            ],
            "files": _checksums(folder, receipts),
        }
        versions.publish(out, name, manifest)
    return Outcome(folder, manifest, unchanged=False)


def unchanged(config: Config, listing: Listing) -> Outcome | None:
    """The published version, if it is of the same images and configuration and nothing of it has to be tried again."""
    out = config.output.path
    name = versions.latest(out)
    folder = versions.folder_of(out, name) if name else ""
    manifest = versions.read_manifest(folder) if name else None
    if not manifest or manifest["identity"] != _identity(config, listing):
        return None
    if PASSING & manifest["accounts"]["reasons"].keys():
        return None  # what failed in passing is tried again
    return Outcome(folder, manifest, unchanged=True)


def _identity(config: Config, listing: Listing) -> str:
    return hashlib.sha256(repr((FORMAT, config.content_digest(), listing.digest)).encode()).hexdigest()


def _run(config: Config, options: Any, folder: str, work: str, listing: Listing, show: Any) -> dict[str, int]:
    """Runs the pipeline to its end and returns its counters."""
    folder, work = storage.absolute(folder), storage.absolute(work)  # the workers may run in another folder
    if storage.size(storage.join(work, "plan.json")) is not None:  # of the attempt that is resumed
        storage.delete(storage.join(work, "plan.json"))
    p = make_pipeline(config, options, folder, listing.images)
    with watch(folder, work, show):
        result = p.run()
        result.wait_until_finish()
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("patchbeam"))["counters"]
    return {counter.key.metric.name: counter.result for counter in sorted(found, key=lambda c: c.key.metric.name)}


def shard_names(plan: dict[str, dict[str, int]]) -> list[str]:
    """Names of all shards of a plan, by split."""
    return [ShardPlan(s, i, plan[s]["shards"], ()).name for s in plan for i in range(plan[s]["shards"])]


def _collect(folder: str, work: str, config: Config) -> list[ShardResult]:
    """The receipts of all planned shards; whatever else an earlier attempt left is removed."""
    names = shard_names(read_plan(work) or {})
    wanted = {path for name in names for path in (shard_file(name), index_file(name), receipt_file(name))}
    versions.keep_only(folder, wanted | {"inputs.parquet"})
    read = lambda name: json.loads(storage.read_bytes(storage.join(folder, receipt_file(name))))
    return [ShardResult.from_json(read(name)) for name in names]


def _check_budget(account: accounts.Accounts, config: Config, folder: str) -> None:
    where = f"see {storage.join(folder, 'rejected.jsonl')}"
    reasons = ", ".join(f"{count} x {reason}" for reason, count in account.reasons.items())
    if not account.written:
        left_out = f", {account.filtered} patches filtered" if account.filtered else ""
        raise TooManyRejected(
            f"no patch was written: {account.images} images, {reasons or 'no rejections'}{left_out}; {where}"
        )
    if account.images_rejected > account.allowed(config):
        raise TooManyRejected(
            f"{account.images_rejected} of {account.images} images have rejections ({reasons}), and max_rejected: "
            f"{config.max_rejected:g} allows {account.allowed(config)}; {where}. Nothing was published; after the "
            "repair, or with a higher max_rejected, the same command takes over the shards that are finished"
        )


def _splits(receipts: list[ShardResult], account: accounts.Accounts, statistics: dict) -> dict[str, dict[str, int]]:
    return {
        split: {
            "images": account.split_images.get(split, 0),
            "patches": statistics["splits"][split]["patches"],
            "shards": sum(r.split == split for r in receipts),
            "bytes": sum(r.bytes for r in receipts if r.split == split),
        }
        for split in statistics["splits"]
    }


def _checksums(folder: str, receipts: list[ShardResult]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file of the version; those of the shards are taken from the receipts."""
    known = {shard_file(r.shard): {"bytes": r.bytes, "sha256": r.sha256} for r in receipts}
    known |= {index_file(r.shard): {"bytes": r.index_bytes, "sha256": r.index_sha256} for r in receipts}
    files = {}
    for below in storage.files_below(folder):
        if below not in known and not below.startswith(f"{versions.WORK}/"):
            data = storage.read_bytes(storage.join(folder, below))
            known[below] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if below in known:
            files[below] = known[below]
    return files
