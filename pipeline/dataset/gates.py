"""Gates that a complete version has to pass before it is published; each explains its verdict in a sentence.

A gate that compares does so with the published version. Before the first there is nothing to compare with, and the gate
passes; if the published version cannot be read, the gate does not pass.

===============================  =====================================================================================
gate                             passes if
===============================  =====================================================================================
verify                           every byte is as it was written, read again from the storage
rejected                         at most this share of the images has rejections
patches, patches_per_label       the number of patches of every split, or of every label of every split, divided by
                                 that of the published version, is within the bounds
drift.mean                       the mean of every channel moved by at most so many standard deviations
drift.std                        the standard deviation of every channel changed by at most this fraction
drift.jensen_shannon_divergence  the histogram of every channel is at most so far from the published one
drift.labels.*                   the shares of the labels moved at most so far; see ``pipeline.dataset.drift``
leakage                          no group and no file is in two splits; ``perceptual``: and no images that look alike
===============================  =====================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import storage
from pipeline.config import Bounds, Distances, Drift, Gates
from pipeline.dataset.drift import Channel, Labels, features_of, infinity_norm, jensen_shannon_divergence
from pipeline.dataset.reading import Dataset, open_dataset
from pipeline.parallel import cores
from pipeline.versions.manifest import Verdict

_SHOWN = 3
_Splits = Mapping[str, Mapping[str, Channel | Labels]]


def judge(new: Dataset, published: str | None, gates: Gates) -> list[Verdict]:
    """Returns the verdicts of the gates of a configuration on a version.

    Args:
        new: the version, complete and not published.
        published: folder of the version that it would replace; None before the first.
        gates: the gates and their limits.
    """
    return [*_alone(new, gates), *_compared(new, published, gates)]


def _verdict(gate: str, passed: bool, sentence: str, measured: dict[str, float]) -> Verdict:
    return Verdict(gate=gate, passed=passed, sentence=sentence, measured=measured)


def _alone(new: Dataset, gates: Gates) -> Iterator[Verdict]:
    if gates.verify:
        yield _verify(new)
    if gates.rejected is not None:
        accounts = new.manifest.accounts
        share = accounts.images_rejected / accounts.images
        said = f"{accounts.images_rejected:,} of {accounts.images:,} images have rejections, {share:.4g}"
        yield _verdict("rejected", share <= gates.rejected, f"{said} of at most {gates.rejected:g}", {"images": share})
    if gates.leakage:
        yield _leakage(new, gates.leakage == "perceptual")


def _verify(new: Dataset) -> Verdict:
    from pipeline.tensorflow_import import import_tensorflow

    import_tensorflow()
    from pipeline.dataset.verify import verify

    problems = verify(new, cores())
    said = f"{new.manifest.shards:,} shards with {new.manifest.accounts.written:,} records are as written"
    if problems:
        said = f"{len(problems):,} problems: {_some(problems)}"
    return _verdict("verify", not problems, said, {"problems": len(problems)})


def _leakage(new: Dataset, perceptual: bool) -> Verdict:
    from pipeline.dataset import leakage

    images = storage.read_table(storage.join(new.folder, "images.parquet"))
    listing = storage.read_table(storage.join(new.folder, "inputs.parquet"))
    splits = [split for split, facts in new.manifest.splits.items() if facts.images]
    hashes = {
        split: leakage.hash_images(new, images, split, cores()) for split in splits if perceptual and len(splits) > 1
    }
    leaks = itertools.chain(
        leakage.find_groups(images), leakage.find_same_files(images, listing), leakage.find_alike(hashes)
    )
    shown = [f"{leak.what}: {leak.here} and {leak.there}" for leak in itertools.islice(leaks, _SHOWN + 1)]
    count = len(shown) + sum(1 for _ in leaks)
    unknown = sum(of_split.unknown for of_split in hashes.values())
    unhashed = f"; {unknown:,} images show too little in their patches to be compared" if unknown else ""
    said = f"{len(splits)} splits share no group and no image{unhashed}" if len(splits) > 1 else "all is in one split"
    if count:
        said = f"{count:,} leaks between splits: {_some(shown)}{unhashed}"
    return _verdict("leakage", not count, said, {"leaks": count})


def _some(texts: list[str]) -> str:
    return "; ".join(texts[:_SHOWN]) + ("; ..." if len(texts) > _SHOWN else "")


def _compared(new: Dataset, published: str | None, gates: Gates) -> Iterator[Verdict]:
    counts = (("patches", gates.patches, _patches), ("patches_per_label", gates.patches_per_label, _labels))
    bounded = [(name, bounds, count) for name, bounds, count in counts if bounds]
    limits = list(_limits(gates))
    names = [name for name, *_ in bounded] + [name for name, *_ in limits]
    if not names:
        return
    try:
        old = open_dataset(published) if published else None
    except ValueError as error:  # DatasetError, and the error of pydantic for keys that no longer exist
        problem = f"the published version cannot be read to be compared with: {str(error).splitlines()[0]}"
        yield from (_verdict(name, False, problem, {}) for name in names)
        return
    if not old:
        yield from (_verdict(name, True, "nothing is published that it could be compared with", {}) for name in names)
        return
    statistics = [of.statistics()["splits"] for of in (new, old)]
    for name, bounds, count in bounded:
        yield _within(name, bounds, *(dict(count(splits)) for splits in statistics))
    height, width = new.config.patch.size
    features = [{split: features_of(one, height * width) for split, one in splits.items()} for splits in statistics]
    for name, limit, kind, distance in limits:
        yield _near(name, limit, _distances(kind, distance, *features))


def _patches(splits: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return ((split, facts["patches"]) for split, facts in splits.items())


def _labels(splits: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return ((f"{split}/{label}", n) for split, facts in splits.items() for label, n in facts["labels"].items())


def _within(gate: str, bounds: Bounds, new: dict[str, int], old: dict[str, int]) -> Verdict:
    ratios = {name: new.get(name, 0) / count for name, count in old.items() if count}
    low, high = bounds.min or 0.0, float("inf") if bounds.max is None else bounds.max
    outside = [name for name, ratio in ratios.items() if not low <= ratio <= high]
    allowed = f"{low:g} to {high:g}" if bounds.max is not None else f"at least {low:g}"
    said = f"{len(ratios):,} counts are each {allowed} times the published ones"
    if outside:
        told = [f"{name} {old[name]:,} -> {new.get(name, 0):,}, {ratios[name]:.4g} times" for name in outside]
        said = f"{_some(told)}; {allowed} times is allowed"
    ends = sorted(ratios, key=lambda name: ratios[name])
    return _verdict(gate, not outside, said, {name: ratios[name] for name in (*ends[:1], *ends[-1:])})


# The distance of two features, and where they differ most, if that is known.
_Distance = Callable[[Any, Any], tuple[float, str]]
_GONE = float("inf")


def _limits(gates: Gates) -> Iterator[tuple[str, float, str, _Distance]]:
    """Yields name, limit, prefix of the features and distance of every gate on drift that has a limit."""
    drift = gates.drift or Drift()
    labels = drift.labels or Distances()
    divergence: _Distance = lambda a, b: (jensen_shannon_divergence(a, b), "")
    every: list[tuple[str, float | None, str, _Distance]] = [
        ("drift.mean", drift.mean, "channel_", lambda a, b: (_moved(a.mean, b.mean, b.std), "")),
        ("drift.std", drift.std, "channel_", lambda a, b: (_moved(a.std, b.std, b.std), "")),
        ("drift.jensen_shannon_divergence", drift.jensen_shannon_divergence, "channel_", divergence),
        ("drift.labels.infinity_norm", labels.infinity_norm, "label", infinity_norm),
        ("drift.labels.jensen_shannon_divergence", labels.jensen_shannon_divergence, "label", divergence),
    ]
    return ((name, limit, kind, distance) for name, limit, kind, distance in every if limit is not None)


def _moved(new: float, old: float, std: float) -> float:
    """Returns how far a number moved, in standard deviations of the published version."""
    return abs(new - old) / (std or 1.0)


def _distances(kind: str, distance: _Distance, new: _Splits, old: _Splits) -> dict[str, float]:
    """Returns the distances of the features of a kind, in every split that has patches in the published version."""
    found: dict[str, float] = {}
    for split, published in old.items():
        if split not in new:
            found |= {split: _GONE} if published else {}
            continue
        for name, feature in published.items():
            if name.startswith(kind):
                value, what = distance(new[split][name], feature) if name in new[split] else (_GONE, "")
                found[f"{split}/{name} {what}".rstrip()] = value
    return found


def _near(gate: str, limit: float, distances: dict[str, float]) -> Verdict:
    far = [name for name in sorted(distances, key=lambda name: -distances[name]) if distances[name] > limit]
    said = f"at most {max(distances.values(), default=0):.4g}, {limit:g} is allowed"
    if far:
        told = [f"{name} is gone" if distances[name] == _GONE else f"{name} by {distances[name]:.4g}" for name in far]
        said = f"moved too far: {_some(told)}; {limit:g} is allowed"
    return _verdict(gate, not far, said, {name: value for name, value in distances.items() if value != _GONE})
