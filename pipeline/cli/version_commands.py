"""The commands on the versions of an output: versions, diff, publish, rollback, prune."""

from __future__ import annotations

import click


@click.command("versions")
@click.argument("output")
def versions_(output: str) -> None:
    """List the versions in OUTPUT: time, images, patches, size, change, and which one is published."""
    print(version_table(output))


def version_table(output: str) -> str:
    """Returns a line for every complete version, with the change from the previous one, and its status."""
    from pipeline.cli.text import as_table, in_bytes
    from pipeline.versions.history import list_versions

    rows, before = [], None
    for version, manifest, status in list_versions(output):
        if not manifest:
            rows.append((version.name, "", "", "", "", "its manifest cannot be read", status))
            continue
        images, patches = manifest.accounts.images, sum(split.patches for split in manifest.splits.values())
        size = in_bytes(sum(split.bytes for split in manifest.splits.values()))
        change = f"{images - before[0]:+,} images, {patches - before[1]:+,} patches" if before else ""
        built = manifest.created.rstrip("Z").replace("T", " ")
        failed = ", ".join(gate.gate for gate in manifest.failed_gates)
        became = f"{status}: {failed}" if failed else status
        rows.append((version.name, built, f"{images:,}", f"{patches:,}", size, change, became))
        before = images, patches
    return as_table(["version", "built (UTC)", ">images", ">patches", ">size", "change", ""], rows)


@click.command()
@click.argument("output")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
def diff(output: str, a: str, b: str) -> None:
    """Print what differs between the versions A and B of OUTPUT: images, patches, labels, statistics."""
    from pipeline.dataset.compare import describe_difference
    from pipeline.dataset.reading import open_dataset

    print(describe_difference(open_dataset(output, a), open_dataset(output, b)))


@click.command()
@click.argument("output")
@click.argument("version")
@click.option("--wait", is_flag=True, help="Wait for a build that writes to OUTPUT.")
def publish(output: str, version: str, wait: bool) -> None:
    """Publish VERSION, for example one that a gate held back."""
    from pipeline.versions import history, lease, lifecycle

    named = lifecycle.Version(output, version)
    with lease.hold(output, wait) as held:
        failed = ", ".join(gate.gate for gate in history.require_publishable(named).failed_gates)
        lifecycle.publish(named, held, by="publish")
    print(f"published {version}" + (f", which did not pass {failed}" if failed else ""))


@click.command()
@click.argument("output")
@click.option("--wait", is_flag=True, help="Wait for a build that writes to OUTPUT.")
def rollback(output: str, wait: bool) -> None:
    """Publish the version that was published before; builds will not publish the present one again by themselves."""
    from pipeline.versions import history, lease

    with lease.hold(output, wait) as held:
        published, withdrawn = history.roll_back(output, held)
    print(f"published {published.name}\nwithdrawn {withdrawn.name}")


@click.command()
@click.argument("output")
@click.option(
    "--keep", type=click.IntRange(min=0), default=5, show_default=True, help="How many of the newest versions to keep."
)
@click.option("--keep-days", type=float, default=30, show_default=True, help="Keep versions younger than this, too.")
@click.option("--delete", is_flag=True, help="Remove them; without this option they are only listed.")
def prune(output: str, keep: int, keep_days: float, delete: bool) -> None:
    """Remove old versions of OUTPUT, never the published one. Other versions keep the files that they share."""
    from pipeline.versions import history, lease, lifecycle

    with lease.hold(output):
        versions = history.prunable(output, keep, keep_days)
        for version in versions:
            freed = history.exclusive_bytes(version) / 1e6
            if delete:
                lifecycle.remove(version)
            print(f"{'removed' if delete else 'would remove'} {version.name}: {freed:,.1f} MB of its own")
    if not versions:
        print("nothing to remove")
    elif not delete:
        print("nothing was removed; --delete does it")


COMMANDS = (versions_, diff, publish, rollback, prune)
