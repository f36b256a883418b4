"""What the version before knows of a slice of a listing: found whatever the ids are, and nothing else is kept."""

import itertools

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.elements import ImageInfo, ImageRef, Previous, Rejected
from pipeline.inputs.listing import make_listing
from pipeline.planning.image_rows import IMAGES_SCHEMA
from pipeline.planning.known_headers import known_headers

# Sorted as listings are: by the parts between the slashes. "-" sorts before "/", and "." and control characters, too.
NAMES = ["a", "a/", "a//b", "a b/x", "a-/x", "a.png", "a/\x01", "b/a", "b/é", "b/😀", "c"]
IDS = sorted(NAMES, key=lambda name: name.split("/"))


def version(folder, ids):
    """A version that has these images, each with its place in IDS as its height."""
    make_listing(ImageRef(one, f"/data/{one}", "1-1") for one in ids).save(str(folder / "inputs.parquet"))
    rows = [
        {"image_id": one, "split": "train", "height": 1 + IDS.index(one), "width": 1, "block_height": 1}
        | {"block_width": 1, "facts": ""}
        for one in ids
    ]
    storage.write_table(str(folder / "images.parquet"), pa.Table.from_pylist(rows, IMAGES_SCHEMA))
    return Previous(str(folder), {"train": 1}, False)


def test_every_range_of_ids_is_found(tmp_path, make_config):
    config = make_config()
    previous = version(tmp_path, IDS[1::2])
    for first, end in itertools.combinations(range(len(IDS) + 1), 2):
        refs = [ImageRef(one, f"/data/{one}", "1-1") for one in IDS[first:end]]
        found = list(known_headers(refs, config, previous))
        assert [one.image_id for one in found] == IDS[first:end]
        for one in found:
            assert isinstance(one, ImageInfo) == (one.image_id in IDS[1::2])
            assert isinstance(one, ImageRef) or (one.height, one.previous_split) == (
                1 + IDS.index(one.image_id),
                "train",
            )


@pytest.mark.parametrize("changed", [{"fingerprint": "2-2"}, {"points": "[[1, 2]]"}])
def test_what_changed_is_read_again(tmp_path, make_config, changed):
    ref = ImageRef("a", "/data/a", "1-1")
    previous = version(tmp_path, ["a"])
    assert isinstance(next(known_headers([ref], make_config(), previous)), ImageInfo)
    assert next(known_headers([ref._replace(**changed)], make_config(), previous)) == ref._replace(**changed)


def test_a_rejection_is_recalled_unless_it_may_have_passed(tmp_path, make_config):
    ref, config = ImageRef("a", "/data/a", "1-1"), make_config()
    previous = version(tmp_path, ["a"])
    for reason, kind in (("corrupt_header", Rejected), ("io_error", ImageRef)):
        row = {"image_id": "a", "reason": reason, "message": "why"}
        storage.write_table(f"{previous.folder}/images.parquet", pa.Table.from_pylist([row], IMAGES_SCHEMA))
        assert isinstance(next(known_headers([ref], config, previous)), kind)
        assert isinstance(next(known_headers([ref], config, previous._replace(retry_rejected=True))), ImageRef)
