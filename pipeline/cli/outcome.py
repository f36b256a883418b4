"""The outcome of a build, as lines of text."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator

from pipeline.cli.text import counted
from pipeline.config import Config
from pipeline.versions.lifecycle import Version
from pipeline.versions.manifest import Manifest


def print_outcome(manifest: Manifest, config: Config, unchanged: bool, built: bool) -> None:
    """Prints what a version holds and what its build did.

    Args:
        manifest: manifest of the version.
        config: the build.
        unchanged: whether it was published already.
        built: whether this command built it.
    """
    if unchanged:
        print(f"Nothing changed since {manifest.created}: no pixel was read.")
    for line in itertools.chain(_contents(manifest), _work(manifest) if built else ()):
        print(line)
    if not manifest.splits[config.training_split].patches:
        print(
            f"warning   no patch is in {config.training_split}: whole groups are dealt out, see splits and input.group"
        )
    for sentence, gates in itertools.groupby(manifest.gates, lambda gate: gate.sentence):
        print(f"gate      {', '.join(gate.gate for gate in gates)}: {sentence}")
    print(f"dataset   {Version(config.output.path, manifest.version).folder}")
    print(f"took      {manifest.seconds} s" + ("" if built else " when it was built"))
    print(f"look      {_program()} inspect {config.output.path}")


def _contents(manifest: Manifest) -> Iterator[str]:
    accounts = manifest.accounts
    yield f"images    {accounts.images:,}, {accounts.images_rejected} of them with rejections"
    for name, split in manifest.splits.items():
        size = f"{counted(split.shards, 'shard')}, {split.bytes / 1e6:,.1f} MB"
        yield f"{name:<9} {counted(split.patches, 'patch')} of {counted(split.images, 'image')}, {size}"
    planned = counted(accounts.planned, "patch")
    if accounts.filters:
        filters = ", ".join(f"{count:,} by {name}" for name, count in accounts.filters.items())
        yield f"filtered  {accounts.filtered:,} of {planned}: {filters}"
    if accounts.reasons:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in accounts.reasons.items())
        yield f"rejected  {accounts.rejected:,} of {planned}: {reasons}; see rejected.jsonl"


def _work(manifest: Manifest) -> Iterator[str]:
    counters, shards = manifest.counters, counted(manifest.shards, "shard")
    count = lambda name: counters.get(name, 0)
    if reused := count("shards_reused"):
        yield f"reused    {reused} of {shards}, finished by an earlier attempt"
    if manifest.previous:
        rewritten = count("records_rewritten")
        names = f" with new names around {rewritten:,}" if rewritten else ""
        records = f"{count('records_copied') + rewritten:,}{names} records"
        yield f"copied    {count('shards_taken_over')} of {shards}, and {records}, from {manifest.previous}"
        opened, images = count("images_opened"), counted(manifest.accounts.images, "image")
        yield f"read      {opened:,} of {images}, {count('pixels_decoded') / 1e6:,.1f} megapixels"
    if busy := count("gpu_busy_ms"):
        rate = count("patches_written") / busy * 1000
        waited = count("gpu_wait_ms") / 1e3
        yield f"gpu       busy {busy / 1e3:,.1f} s, {rate:,.0f} patches/s; waited for input {waited:,.1f} s"


def _program() -> str:
    """Returns how the command is called here."""
    if shutil.which("patchbeam"):
        return "patchbeam"
    called = os.path.relpath(sys.argv[0])
    return called if called.endswith("patchbeam") else "python -m patchbeam"
