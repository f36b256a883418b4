"""The contents of a dataset, as text for people."""

from __future__ import annotations

from pipeline.cli.text import counted
from pipeline.dataset.reading import Dataset


def describe(dataset: Dataset) -> str:
    """Describes splits, counts, labels, statistics and features of a dataset."""
    manifest, statistics = dataset.manifest, dataset.statistics()
    config, accounts = dataset.config, manifest.accounts
    height, width = config.patch.size
    form = f"{config.input.channels} {config.input.dtype}, {config.output.encoding}"
    names = [f"meta/{name}" for name in config.input.columns or ()] + config.companions
    more = "".join(f", {name}" for name in names)
    lines = [
        f"version   {manifest.version}, built {manifest.created} in {manifest.seconds} s",
        f"folder    {dataset.folder}",
        f"patches   {height} x {width} x {form}",
        f"accounts  {accounts.planned:,} planned = {accounts.written:,} written + {accounts.filtered:,} filtered "
        f"+ {accounts.rejected:,} rejected",
        f"features  image, shape, dtype, key, image_id, level, row, col, label, group{more}",
    ]
    for split, facts in manifest.splits.items():
        lines.append("")
        lines.append(
            f"{split}: {counted(facts.patches, 'patch')} of {counted(facts.images, 'image')} in "
            f"{counted(facts.shards, 'shard')}, {facts.bytes / 1e6:,.1f} MB"
        )
        labels = ", ".join(
            f"{name or '(none)'} {count:,}" for name, count in list(statistics["splits"][split]["labels"].items())[:20]
        )
        lines.append(f"  labels   {labels or '-'}")
        for number, channel in enumerate(statistics["splits"][split]["channels"]):
            if channel["count"]:
                low, median, high = (channel["quantiles"][q] for q in ("0.01", "0.5", "0.99"))
                lines.append(
                    f"  channel {number}  mean {channel['mean']:.6g}  std {channel['std']:.6g}  min {channel['min']:g}"
                    f"  1% {low:g}  median {median:g}  99% {high:g}  max {channel['max']:g}"
                )
    return "\n".join(lines)
