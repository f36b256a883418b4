"""Digests on disk stay what they are, whatever is renamed: one of each kind, as it was when FORMAT became 4.

A change here makes every published dataset be cut anew. Where that is meant, raise FORMAT and write docs/format.md.
"""

import re

from helpers import REPO

from pipeline.build import identity_of
from pipeline.config import load_config
from pipeline.elements import FORMAT, ImageInfo, ImageRef, Region, ShardPlan, digest
from pipeline.inputs.listing import make_listing

IMAGE = ImageInfo(
    "a/b.tif", "/here/a/b.tif", "12-34", 600, 400, 256, 128, "train", "cat", "p7", mask="/here/m.png",
    points="[[3, 4]]", meta='{"age": 7}', facts='{"mpp": [0.5, 0.5]}',
)  # fmt: skip


def test_the_history_of_the_format_has_this_one():
    text = (REPO / "docs/format.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == [str(number) for number in range(FORMAT, 0, -1)]


def test_of_a_configuration():
    config = load_config(str(REPO / "configs/annotated_slide.yaml"))
    assert config.content_digest() == "e6dff7d6b1e76d73a566e9d4d64e39d999ffc7c19179db139971c22b6a47cac2"
    assert config.pixel_digest() == "1c3d802d3647726c49e9c8c039a7227c2457fe2ace2429a2680577005c893bf8"
    assert config.shard_digest() == "bb63c377608507cac824acf42cfe1003d3ae1d9723fc3d6c6e3554a16592ee14"


def test_a_key_that_has_its_default_counts_as_one_that_is_not_there(make_config):
    written = make_config(input={"level": 0, "depth": "exact"}, patch={"edge": "pad", "stride": 256}, seed=0)
    assert written.content_digest() == make_config().content_digest()


def test_of_an_image_a_region_and_a_shard():
    region = Region(IMAGE, 0, 128, 256, 256)
    assert IMAGE.names_digest.hex() == "84c165e832da02981a246815f0d168f9"
    assert region.pixels_digest("c" * 64, 2).hex() == "8c50735f38d6babb424b4b2d7a7bf30d"
    assert (
        ShardPlan("train", 3, 16, (region,)).digest("c" * 64)
        == "4ae01dc5ef031b0aaf8b7a532832dec693b8f67e56f85bc04d20cbed46aedbd7"
    )


def test_of_a_listing_and_a_dataset(make_config):
    plain = ImageRef("a/b.tif", "a/b.tif", "12-34")
    listing = make_listing([plain, ImageRef("c.tif", "c.tif", "5-6", "cat", mask="m.png", points="[[3, 4]]")])
    assert listing.digest == "e2506d3066f8d65b3b5a4358cc06d3d8972c89d158e2a35826151ced786c5cd4"
    assert identity_of(make_config(), listing) == "c7eece00eda82d22f6b6987bffc598d7ffce90d277e2afd4bdf3fce5444a8007"


def test_what_says_where_images_lie_or_were_is_left_out():
    moved = IMAGE._replace(uri="s3://b/a.tif", mask="s3://b/m.png", previous_split="test")
    assert Region(moved, 0, 0, 9, 9).pixels_digest("", 1) == Region(IMAGE, 0, 0, 9, 9).pixels_digest("", 1)
    (one, other) = (ShardPlan("train", 0, 1, (Region(image, 0, 0, 9, 9),)).digest("") for image in (IMAGE, moved))
    assert one == other


def test_of_what_decides_places():
    """These are in the bytes of records: split, shard and order of every dataset follow from them."""
    assert digest(0, "shard", "a/b.tif") == 6078287337823927230
