"""Gates: what a complete version has to pass before everybody reads it, each with a sentence.

Where a gate compares, it does so with the version that is published; before the first there is nothing to compare with,
and it passes.

===============================  =====================================================================================
gate                             passes if
===============================  =====================================================================================
verify                           every byte is as it was written, read again from the storage
rejected                         no larger share of the images has rejections
patches, patches_per_label       the number of patches of every split, or of every label of every split, divided by
                                 that of the published version, is within the bounds
drift.mean                       no mean of a channel moved by more than so many standard deviations
drift.std                        no standard deviation of a channel changed by more than this part of it
drift.jensen_shannon_divergence  of no histogram of a channel from the published one, more, see ``pipeline.drift``
drift.labels.*                   the same, and ``infinity_norm``, of the shares of the labels
leakage                          no group and no file is in two splits; ``perceptual``: and no images that look alike
===============================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.config import Bounds, Distances, Drift, Gates
from pipeline.dataset import Dataset
from pipeline.exits import Ended, Exit
from pipeline.parallel import cores

_SHOWN = 3


class Held(Ended):
    """A version is complete, and a gate holds it back; ``manifest`` is its manifest."""

    code = Exit.HELD

    def __init__(self, message: str, manifest: dict[str, Any]):
        super().__init__(message)
        self.manifest = manifest


class Verdict(NamedTuple):
    """What a gate says.

    Attributes:
        gate: its key below ``gates``.
        passed: whether the version may be published.
        sentence: what was measured and what is allowed.
        measured: the numbers, by what they are of.
    """

    gate: str
    passed: bool
    sentence: str
    measured: dict[str, float]


def judge(new: Dataset, published: Dataset | None, gates: Gates) -> list[Verdict]:
    """What the gates of a configuration say of a version.

    Args:
        new: complete, and not published.
        published: the one that it would replace; None before the first.
        gates: which, and how strict.
    """
    return [*_alone(new, gates), *_compared(new, published, gates)]


def _alone(new: Dataset, gates: Gates) -> Iterator[Verdict]:
    if gates.verify:
        yield _verify(new)
    if gates.rejected is not None:
        account = new.manifest["accounts"]
        share = account["images_rejected"] / account["images"]
        said = f"{account['images_rejected']:,} of {account['images']:,} images have rejections, {share:.4g}"
        yield Verdict("rejected", share <= gates.rejected, f"{said} of at most {gates.rejected:g}", {"images": share})
    if gates.leakage:
        yield _leakage(new, gates.leakage == "perceptual")


def _verify(new: Dataset) -> Verdict:
    from pipeline.quiet import import_tensorflow

    import_tensorflow()
    from pipeline.verify import verify

    problems = verify(new, cores())
    shards = sum(facts["shards"] for facts in new.manifest["splits"].values())
    said = f"{shards:,} shards with {new.manifest['accounts']['written']:,} records are as written"
    if problems:
        said = f"{len(problems):,} problems: {_some(problems)}"
    return Verdict("verify", not problems, said, {"problems": len(problems)})


def _leakage(new: Dataset, perceptual: bool) -> Verdict:
    from pipeline import leakage

    images = storage.read_table(storage.join(new.folder, "images.parquet"))
    listing = storage.read_table(storage.join(new.folder, "inputs.parquet"))
    splits = [split for split, facts in new.manifest["splits"].items() if facts["images"]]
    looks = {split: leakage.look(new, split, cores()) for split in splits if perceptual and len(splits) > 1}
    found = [
        *leakage.find_groups(images),
        *leakage.find_same_files(images, listing),
        *leakage.find_alike(looks),
    ]
    unknown = sum(of_split.unknown for of_split in looks.values())
    beside = f"; {unknown:,} images show too little of themselves in their patches to be compared" if unknown else ""
    said = f"{len(splits)} splits share no group and no image{beside}" if len(splits) > 1 else "all is in one split"
    if found:
        leaks = [f"{leak.what}: {leak.here} and {leak.there}" for leak in found]
        said = f"{len(found):,} leaks between splits: {_some(leaks)}{beside}"
    return Verdict("leakage", not found, said, {"leaks": len(found)})


def _some(texts: list[str]) -> str:
    return "; ".join(texts[:_SHOWN]) + ("; ..." if len(texts) > _SHOWN else "")


def _compared(new: Dataset, published: Dataset | None, gates: Gates) -> Iterator[Verdict]:
    counts = (("patches", gates.patches, _patches), ("patches_per_label", gates.patches_per_label, _labels))
    bounded = [(name, bounds, count) for name, bounds, count in counts if bounds]
    limits = list(_limits(gates))
    if published is None:
        for name in (name for name, *_ in (*bounded, *limits)):
            yield Verdict(name, True, "nothing is published that it could be compared with", {})
        return
    statistics = [of.statistics()["splits"] for of in (new, published)]
    for name, bounds, count in bounded:
        yield _within(name, bounds, *(dict(count(splits)) for splits in statistics))
    for name, limit, distance in limits:
        yield _near(name, limit, _distances(distance, *statistics))


def _patches(splits: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return ((split, facts["patches"]) for split, facts in splits.items())


def _labels(splits: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return ((f"{split}/{label}", n) for split, facts in splits.items() for label, n in facts["labels"].items())


def _within(gate: str, bounds: Bounds, new: dict[str, int], old: dict[str, int]) -> Verdict:
    ratios = {name: new.get(name, 0) / count for name, count in old.items() if count}
    low, high = bounds.min or 0.0, float("inf") if bounds.max is None else bounds.max
    outside = [name for name, ratio in ratios.items() if not low <= ratio <= high]
    between = f"{low:g} to {high:g} times the published"
    said = f"{len(ratios):,} counts are {between}"
    if outside:
        told = [f"{name} {old[name]:,} -> {new.get(name, 0):,}, {ratios[name]:.4g} times" for name in outside]
        said = f"not {between}: {_some(told)}"
    ends = sorted(ratios, key=lambda name: ratios[name])
    return Verdict(gate, not outside, said, {name: ratios[name] for name in (*ends[:1], *ends[-1:])})


_Distance = Callable[[dict[str, Any], dict[str, Any]], Iterable[tuple[str, float]]]


def _limits(gates: Gates) -> Iterator[tuple[str, float, _Distance]]:
    """Name, limit and distance of every gate on drift that has a limit."""
    drift = gates.drift or Drift()
    labels = drift.labels or Distances()
    every: list[tuple[str, float | None, _Distance]] = [
        ("drift.mean", drift.mean, _by_channel(lambda new, old: (new["mean"] - old["mean"]) / (old["std"] or 1.0))),
        ("drift.std", drift.std, _by_channel(lambda new, old: (new["std"] - old["std"]) / (old["std"] or 1.0))),
        ("drift.jensen_shannon_divergence", drift.jensen_shannon_divergence, _divergence("channel")),
        ("drift.labels.infinity_norm", labels.infinity_norm, _infinity_norm),
        ("drift.labels.jensen_shannon_divergence", labels.jensen_shannon_divergence, _divergence("label")),
    ]
    return ((name, limit, distance) for name, limit, distance in every if limit is not None)


def _by_channel(difference: Callable[[dict[str, float], dict[str, float]], float]) -> _Distance:
    def distance(new: dict[str, Any], old: dict[str, Any]) -> Iterator[tuple[str, float]]:
        for number, (a, b) in enumerate(zip(new["channels"], old["channels"])):
            if a["count"] and b["count"]:
                yield f"channel_{number}", abs(difference(a, b))

    return distance


def _features(new: dict[str, Any], old: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Features that both have, by name."""
    from pipeline.drift import to_proto

    found = [{f.path.step[0]: f for f in to_proto("", one).features} for one in (new, old)]
    return ((name, feature, found[1][name]) for name, feature in found[0].items() if name in found[1])


def _divergence(kind: str) -> _Distance:
    from pipeline.drift import jensen_shannon_divergence

    return lambda new, old: (
        (name, jensen_shannon_divergence(a, b)) for name, a, b in _features(new, old) if name.startswith(kind)
    )


def _infinity_norm(new: dict[str, Any], old: dict[str, Any]) -> Iterator[tuple[str, float]]:
    from pipeline.drift import LABEL, infinity_norm

    for name, a, b in _features(new, old):
        if name == LABEL:
            value, label = infinity_norm(a, b)
            yield f"label {label}", value


def _distances(distance: _Distance, new: dict[str, Any], old: dict[str, Any]) -> dict[str, float]:
    both = ((split, new[split], old[split]) for split in new if split in old)
    return {f"{split}/{name}": value for split, a, b in both for name, value in distance(a, b)}


def _near(gate: str, limit: float, distances: dict[str, float]) -> Verdict:
    if not distances:
        return Verdict(gate, True, "nothing is in both versions that could be compared", {})
    far = [name for name in sorted(distances, key=lambda name: -distances[name]) if distances[name] > limit]
    said = f"at most {max(distances.values()):.4g}, {limit:g} is allowed"
    if far:
        said = f"{_some([f'{name} moved by {distances[name]:.4g}' for name in far])}; {limit:g} is allowed"
    return Verdict(gate, not far, said, distances)
