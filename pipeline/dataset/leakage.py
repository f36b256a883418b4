"""Leakage: groups and images in several splits, so that what is learned from one split gives away another."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.config import Patch
from pipeline.dataset.reading import Dataset
from pipeline.elements import index_file, shard_file
from pipeline.storage.files import digest_of
from transforms.encoding import decode_patch
from transforms.perceptual_hash import CELLS, cell_shares, difference_hash, luma_or_mean, pairs_within

# Of 36 pictures, 35 differ from their copy at half the size in up to 1 bit, 34 from their copy as JPEG of quality 20 in
# up to 4; pictures of different things differ in 12 and more.
DISTANCE = 4
_AT_A_TIME = 1 << 12  # fingerprints that are compared with all of another split


class Leak(NamedTuple):
    """The same thing in two splits: what it is, and where it is in each."""

    what: str
    here: str
    there: str


def find_groups(images: pa.Table) -> Iterator[Leak]:
    """Yields the groups of ``images.parquet`` that are in several splits."""
    pairs = images.filter(pc.is_valid(images["split"])).group_by(["group", "split"]).aggregate([])
    several = pairs.group_by("group").aggregate([("split", "list")])
    for row in several.filter(pc.greater(pc.list_value_length(several["split_list"]), 1)).to_pylist():
        here, there = sorted(row["split_list"])[:2]
        yield Leak(f"group {row['group']!r}", f"in {here}", f"in {there}")


def find_same_files(images: pa.Table, listing: pa.Table) -> Iterator[Leak]:
    """Yields images of several splits whose files have the same content.

    Fingerprints of stores and those of ``input.fingerprint: content`` follow from the content. Local files are read
    where others of the same size are in another split.
    """
    taken = images.filter(pc.is_valid(images["split"])).select(["image_id", "split"])
    rows = listing.select(["image_id", "uri", "fingerprint"]).join(taken, "image_id", join_type="inner").to_pylist()
    for _, alike in _by(rows, lambda row: _own(row).partition("-")[0]):  # the size, or a digest
        if len({row["split"] for row in alike}) > 1:
            same = [row | {"content": content} for row, content in zip(alike, storage.read_many(alike, _content))]
            for content, equal in _by(same, lambda row: row["content"]):
                first, other = equal[0], next((row for row in equal if row["split"] != equal[0]["split"]), None)
                if other and not content.startswith("missing"):
                    yield Leak("the same file", *(f"{row['image_id']} in {row['split']}" for row in (first, other)))


def _by(rows: list[dict[str, str]], key: Callable[[dict[str, str]], str]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    ordered = sorted(rows, key=lambda row: (key(row), row["image_id"]))
    return ((value, list(same)) for value, same in itertools.groupby(ordered, key))


def _own(row: dict[str, str]) -> str:
    """Returns the fingerprint of the image alone, without those of its masks."""
    return row["fingerprint"].partition("+")[0]


def _content(row: dict[str, str]) -> str:
    return digest_of(row["uri"]) if storage.is_local(row["uri"]) else _own(row)


class ImageHashes(NamedTuple):
    """The fingerprints of the images of a split, see ``transforms.perceptual_hash``.

    Attributes:
        image_ids: ids of the images that have one.
        bits: ``[N]`` uint64.
        unknown: images without one, because their patches show too little of them.
    """

    image_ids: list[str]
    bits: np.ndarray
    unknown: int


def hash_images(dataset: Dataset, images: pa.Table, split: str, threads: int) -> ImageHashes:
    """Returns fingerprints of the images of a split, from small pictures that are made of their unaugmented patches.

    Reads all its shards. Takes about 1.5 KB of memory for each image.

    Args:
        dataset: a version.
        images: its ``images.parquet``.
        split: one of its splits.
        threads: shards that are read at the same time.
    """
    images = images.filter(pc.equal(images["split"], split))
    sizes = dict(zip(images["image_id"].to_pylist(), zip(images["height"].to_pylist(), images["width"].to_pylist())))
    pictures = _no_pictures()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for found in pool.map(lambda shard: _pictures(dataset, shard, sizes), dataset.shards(split)):
            for image_id, picture in found.items():
                pictures[image_id] += picture
    bits = {name: difference_hash(picture[0], picture[1], sizes[name]) for name, picture in sorted(pictures.items())}
    known = {name: one for name, one in bits.items() if one is not None}
    return ImageHashes(list(known), np.array(list(known.values()), np.uint64), len(sizes) - len(known))


def _pictures(dataset: Dataset, shard: str, sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Returns image -> ``[2, 8, 9]``, sums and weights in one shard, for ``perceptual_hash.difference_hash``."""
    config, found = dataset.config, _no_pictures()
    shape = (*config.patch.size, config.input.channels)
    wanted = ["image_id", "row", "col", "image_offset", "image_length", *(["augmentation"] * config.has_copies)]
    with storage.open_read(storage.join(dataset.folder, index_file(shard))) as file:
        index = pq.read_table(file, columns=wanted).to_pylist()
    with storage.open_read(storage.join(dataset.folder, shard_file(shard))) as file:
        for row in index:
            if row.get("augmentation", "{}") != "{}":
                continue
            file.seek(row["image_offset"])
            patch = decode_patch(file.read(row["image_length"]), config.output.encoding, shape, config.input.dtype)
            image_id, start = row["image_id"], (row["row"], row["col"])
            height, width = _own_pixels(start, sizes[image_id], config.patch, bool(config.input.points))
            axes = zip(start, (height, width), config.patch.dilation, sizes[image_id], CELLS)
            down, across = (cell_shares(*axis) for axis in axes)
            sums = down @ luma_or_mean(patch[:height, :width]) @ across.T
            found[image_id] += np.stack([sums, np.outer(down.sum(axis=1), across.sum(axis=1))])
    return found


def _no_pictures() -> collections.defaultdict[str, np.ndarray]:
    return collections.defaultdict(lambda: np.zeros((2, *CELLS)))


def _own_pixels(start: tuple[int, int], image: tuple[int, int], patch: Patch, around_points: bool) -> tuple[int, int]:
    """Returns the rows and columns of a patch up to the next one, or all of them at the border of the image.

    So every pixel of overlapping patches counts once, and the picture does not depend on the grid.
    """
    if patch.crops or around_points:
        return patch.size
    axes = zip(start, image, patch.size, patch.span, patch.steps, patch.dilation)
    height, width = (
        size if first + span >= extent else min(size, -(-step // dilation))
        for first, extent, size, span, step, dilation in axes
    )
    return height, width


def find_alike(hashes: dict[str, ImageHashes]) -> Iterator[Leak]:
    """Yields images of several splits that look the same."""
    for one, other in itertools.combinations(hashes, 2):
        # The first of the images with equal bits stands for all: many equal ones do not pair each with each.
        (a, ids_a), (b, ids_b) = (np.unique(hashes[split].bits, return_index=True) for split in (one, other))
        for first in range(0, len(a), _AT_A_TIME):
            here, there = pairs_within(a[first : first + _AT_A_TIME], b, DISTANCE)
            for i, j in zip(ids_a[first + here].tolist(), ids_b[there].tolist()):
                names = f"{hashes[one].image_ids[i]} in {one}", f"{hashes[other].image_ids[j]} in {other}"
                yield Leak("looks alike", *names)
