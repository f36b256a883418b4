"""The commands on the versions of an output: versions, diff, publish, rollback, prune."""

from __future__ import annotations

import click


@click.command("versions")
@click.argument("output")
def versions_(output: str) -> None:
    """List the versions in OUTPUT: when, images, patches, size, the change, and which one is published."""
    from pipeline.versions.history import describe_versions

    print(describe_versions(output))


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
    """Make VERSION the one that everybody reads, for example one that a gate held back."""
    from pipeline.versions import history, lease, lifecycle

    with lease.hold(output, wait) as held:
        failed = history.failed_gates(history.require_publishable(output, version))
        lifecycle.publish(output, version, held, by="publish")
    print(f"published {version}" + (f", which did not pass {failed}" if failed else ""))


@click.command()
@click.argument("output")
@click.option("--wait", is_flag=True, help="Wait for a build that writes to OUTPUT.")
def rollback(output: str, wait: bool) -> None:
    """Publish the version that was published before; builds do not publish the present one again by themselves."""
    from pipeline.versions import history, lease

    with lease.hold(output, wait) as held:
        now, was = history.roll_back(output, held)
    print(f"published {now}\nwithdrawn {was}")


@click.command()
@click.argument("output")
@click.option("--keep", type=click.IntRange(min=0), default=5, show_default=True, help="The newest are kept.")
@click.option("--keep-days", type=float, default=30, show_default=True, help="And those that are younger.")
@click.option("--delete", is_flag=True, help="Do it; without it is only shown what would be removed.")
def prune(output: str, keep: int, keep_days: float, delete: bool) -> None:
    """Remove old versions of OUTPUT, never the published one. Files that other versions share stay there."""
    from pipeline.versions import history, lease, lifecycle

    with lease.hold(output):
        names = history.prunable(output, keep, keep_days)
        for name in names:
            freed = history.exclusive_bytes(output, name) / 1e6
            if delete:
                lifecycle.remove(output, name)
            print(f"{'removed' if delete else 'would remove'} {name}: {freed:,.1f} MB of its own")
    if not names:
        print("nothing to remove")
    elif not delete:
        print("nothing was removed; --delete does it")


COMMANDS = (versions_, diff, publish, rollback, prune)
