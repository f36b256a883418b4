"""Names and splits follow from the image id alone; what cannot be used says why, and what to set."""

import collections
import hashlib

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as _TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from pipeline.config import Constant, Regex
from pipeline.elements import ImageInfo, ImageRef, Rejected
from pipeline.errors import Unreadable
from pipeline.inputs.labels import name_by_rule, split_of
from pipeline.inputs.listing import make_listing
from pipeline.inputs.slices import Slice
from pipeline.planning.inspect_images import InspectImages, inspect_image, inspect_images
from pipeline.planning.region_rows import Totals


@pytest.mark.parametrize(
    ("image_id", "source", "name"),
    [
        ("tumor/p7/a.svs", None, ""),
        ("tumor/p7/a.svs", "image", "tumor/p7/a.svs"),
        ("tumor/p7/a.svs", "folder", "p7"),
        ("a.svs", "folder", ""),
        ("a.svs", Constant(constant="all"), "all"),
        ("tumor/p7/a.svs", Regex(regex="(p[0-9]+)"), "p7"),
        ("tumor/p7/p8.svs", Regex(regex="(p[0-9]+)"), "p7"),  # the first place where it matches
        ("tumor/p7/p8.svs", Regex(regex=r"(p[0-9]+)\.svs$"), "p8"),
        ("tumor/a.svs", Regex(regex="^([^/]*)/"), "tumor"),
        ("é ü/a.svs", Regex(regex="^(.*)/"), "é ü"),
        ("a.svs", Regex(regex="(x?)a"), ""),
    ],
)
def test_a_name_comes_from_its_source(image_id, source, name):
    assert name_by_rule(image_id, source) == name


@pytest.mark.parametrize("expression", ["(p[0-9]+)", "tumor|(normal)"])
def test_an_expression_without_a_match_or_without_its_group_gives_no_name(expression):
    with pytest.raises(Unreadable) as caught:
        name_by_rule("tumor/a.svs", Regex(regex=expression))
    assert caught.value.args == (
        "no_name",
        f"the expression {expression!r} finds no name in the image id 'tumor/a.svs'",
    )


GROUPS = [f"slides/patient-{i}.svs" for i in range(20_000)]


@pytest.mark.parametrize(
    "splits",
    [{"train": 0.8, "val": 0.15, "test": 0.05}, {"a": 0.5, "b": 0.5}, {"train": 0.999, "val": 0.001}],
    ids=str,
)
def test_splits_have_their_fractions_of_the_groups(make_config, splits):
    config = make_config(splits=splits)
    counts = collections.Counter(split_of(group, config.splits, config.seed) for group in GROUPS)
    for name, fraction in splits.items():
        tolerance = 4 * (fraction * (1 - fraction) / len(GROUPS)) ** 0.5  # four standard deviations
        assert counts[name] / len(GROUPS) == pytest.approx(fraction, abs=tolerance)


@pytest.mark.parametrize(
    "splits", [{"a": 0.0, "b": 1.0}, {"b": 1.0, "a": 0.0}, {"c": 0.0, "b": 1.0, "a": 0.0}], ids=str
)
def test_a_split_without_a_share_is_never_used(make_config, splits):
    config = make_config(splits=splits)
    assert {split_of(group, config.splits, config.seed) for group in GROUPS} == {"b"}


@pytest.mark.parametrize(
    ("number", "split"),
    [(0, "b"), (2**62, "b"), (2**63 + 2**62, "c"), (2**64 - 1, "c")],
)
def test_the_first_and_the_last_digest_fall_into_splits_that_have_a_share(make_config, monkeypatch, number, split):
    monkeypatch.setattr("pipeline.inputs.labels.digest", lambda *parts: number)
    # Ten tenths and the like add up to a little less than 1; what is left must not fall into "d".
    config = make_config(splits={"a": 0.0, "b": 0.5 - 4e-10, "c": 0.5 - 4e-10, "d": 0.0})
    assert split_of("g", config.splits, config.seed) == split


def test_the_split_of_a_group_depends_on_its_name_and_the_seed_alone(make_config):
    config = make_config(splits={"train": 0.5, "val": 0.5})
    alone = [split_of(group, config.splits, config.seed) for group in GROUPS[:200]]
    among_others = {group: split_of(group, config.splits, config.seed) for group in reversed(GROUPS)}
    assert alone == [among_others[group] for group in GROUPS[:200]]
    other_seed = make_config(splits={"train": 0.5, "val": 0.5}, seed=1)
    moved = sum(split_of(group, other_seed.splits, other_seed.seed) != among_others[group] for group in GROUPS) / len(
        GROUPS
    )
    assert moved == pytest.approx(0.5, abs=0.02)


def test_a_larger_share_takes_groups_over_and_gives_none_away(make_config):
    before, after = make_config(splits={"train": 0.8, "val": 0.2}), make_config(splits={"train": 0.9, "val": 0.1})
    previous_split = {group for group in GROUPS if split_of(group, before.splits, before.seed) == "train"}
    assert previous_split < {group for group in GROUPS if split_of(group, after.splits, after.seed) == "train"}


def test_the_split_is_where_the_digest_falls_among_the_fractions(make_config):
    config = make_config(splits={"a": 0.25, "b": 0.25, "c": 0.5}, seed=7)
    for group in GROUPS[:500]:
        digest = hashlib.blake2b(repr((7, "split", group)).encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        assert split_of(group, config.splits, config.seed) == ("a" if share < 0.25 else "b" if share < 0.5 else "c")


@pytest.fixture
def image(tmp_path):
    """``image(height, width, channels=3, dtype="uint8", name="a.png")``: a reference to a PNG."""

    def write(height, width, channels=3, dtype="uint8", name="folder/a.png"):
        pixels = np.zeros((height, width, channels), dtype)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(tmp_path / name)
        return ImageRef(name, str(tmp_path / name), "1-2")

    return write


def rejection(ref, config):
    with pytest.raises(Unreadable) as caught:
        inspect_image(ref, config)
    return caught.value.args


def test_an_image_that_fits_gets_its_size_its_names_and_its_split(image, make_config):
    ref = image(30, 20)
    config = make_config(input={"label": "folder", "group": "folder"}, splits={"only": 1})
    assert inspect_image(ref, config) == ImageInfo(
        image_id="folder/a.png", uri=ref.uri, fingerprint="1-2", height=30, width=20, block_height=30, block_width=20,
        split="only", label="folder", group="folder",
    )  # fmt: skip


def test_the_split_follows_the_group_and_not_the_image(image, make_config):
    config = make_config(input={"group": "folder"}, splits={"a": 0.5, "b": 0.5})
    infos = [inspect_image(image(5, 5, name=f"p{p}/{i}.png"), config) for p in range(12) for i in range(3)]
    by_group = collections.defaultdict(set)
    for info in infos:
        by_group[info.group].add(info.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert set().union(*by_group.values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("channels", "dtype", "asked"),
    [(1, "uint8", (3, "uint8")), (3, "uint8", (1, "uint8")), (1, "uint16", (1, "uint8")), (4, "uint8", (3, "uint16"))],
)
def test_another_format_says_what_to_set(image, make_config, channels, dtype, asked):
    config = make_config(input={"channels": asked[0], "dtype": asked[1]})
    reason, message = rejection(image(300, 300, channels, dtype), config)
    assert reason == "format_mismatch"
    assert message.startswith(
        f"{channels}-channel {dtype}, the configuration asks for {asked[0]}-channel {asked[1]}; "
        f"build it apart with input.channels: {channels}, input.dtype: {dtype}",
    )
    assert ("input.convert" in message) == (channels != asked[0])
    assert ("input.depth" in message) == (dtype != asked[1])
    as_told = make_config(input={"channels": channels, "dtype": dtype})
    assert inspect_image(image(300, 300, channels, dtype), as_told).height == 300


@pytest.mark.parametrize("edge", ["drop", "shift"])
@pytest.mark.parametrize(("height", "width"), [(31, 100), (100, 15), (1, 1)])
def test_an_image_smaller_than_a_patch_is_too_small_unless_it_is_padded(image, make_config, edge, height, width):
    ref = image(height, width)
    assert rejection(ref, make_config(patch={"size": [32, 16], "edge": edge})) == (
        "too_small",
        f"{height} x {width} pixels hold no patch of 32 x 16; patch.edge: pad would keep it, {edge} does not",
    )
    assert inspect_image(ref, make_config(patch={"size": [32, 16], "edge": "pad"})).width == width


def test_an_image_that_ends_before_the_origin_is_too_small(image, make_config):
    assert rejection(image(40, 30), make_config(patch={"size": 8, "origin": [0, 30]})) == (
        "too_small",
        "40 x 30 pixels end before patch.origin, 0, 30",
    )


@pytest.mark.parametrize("edge", ["drop", "shift", "pad"])
def test_an_image_of_exactly_one_patch_is_large_enough(image, make_config, edge):
    assert inspect_image(image(32, 16), make_config(patch={"size": [32, 16], "edge": edge})).height == 32


def test_what_cannot_be_opened_keeps_its_reason(image, make_config, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    assert rejection(ImageRef("e", str(tmp_path / "empty.png"), ""), make_config())[0] == "empty_file"
    assert rejection(ImageRef("g", str(tmp_path / "gone.png"), ""), make_config())[0] == "io_error"
    assert rejection(image(300, 300), make_config(input={"level": 1}))[0] == "no_such_level"
    assert rejection(image(300, 300), make_config(input={"label": {"regex": "(x)/"}}))[0] == "no_name"


def test_every_image_comes_out_as_information_or_as_a_rejection(image, make_config, tmp_path):
    good, grey = image(30, 20, name="good.png"), image(30, 20, 1, name="grey.png")
    (tmp_path / "page.png").write_bytes(b"<html>")
    page, gone = ImageRef("page.png", str(tmp_path / "page.png"), ""), ImageRef("gone", str(tmp_path / "gone"), "")
    config = make_config(splits={"all": 1})
    info = ImageInfo("good.png", good.uri, "1-2", 30, 20, 30, 20, "all", "", "good.png")
    rows = [
        ("format_mismatch", "1-channel uint8, the configuration asks for 3-channel uint8; build it apart with "
         "input.channels: 1, input.dtype: uint8; or choose input.bands, or input.convert: rgb or gray", "grey.png"),
        ("unknown_format", "starts with b'<html>' (a web page?); known are JPEG, PNG, TIFF, WebP, AVIF, "
         "JPEG 2000, BMP, GIF, PNM, DICOM, NIfTI, Zarr and slides", "page.png"),
        ("io_error", "cannot be opened: No such file or directory", "gone"),
    ]  # fmt: skip
    grey_, page_, gone_ = (Rejected("inspect", *row, level=0) for row in rows)
    known = info._replace(image_id="known.png")
    found = inspect_images([known, gone, good, grey_, page], config)
    assert list(found) == [known, gone_, info, grey_, page_]
    make_listing([good, gone, grey, page]).save(str(tmp_path / "inputs.parquet"))
    with _TestPipeline(runner="FnApiRunner", argv=[]) as p:
        totals = (
            p | beam.Create([Slice(1, 3, 1, 3), Slice(0, 3, 0, 1), Slice(2, 3, 3, 4)])
            | InspectImages(config, str(tmp_path / "inputs.parquet"), str(tmp_path))
        )  # fmt: skip
        assert_that(totals, equal_to([("all", Totals(1, 1, 1, 1, 600))]))
    facts = [pq.read_table(tmp_path / f"images-0000{n}-of-00003.parquet").to_pylist() for n in range(3)]
    columns = ("image_id", "split", "height", "planned", "reason", "message")
    assert [[tuple(row[name] for name in columns) for row in rows] for rows in facts] == [
        [("good.png", "all", 30, 1, None, None)],
        [(row.image_id, None, None, 0, row.reason, row.message) for row in (gone_, grey_)],
        [(row.image_id, None, None, 0, row.reason, row.message) for row in (page_,)],
    ]
