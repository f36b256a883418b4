"""Slides by OpenSlide."""

import openslide
import pytest
import tifffile
from helpers import assert_reads, message_of, noise


def test_slides_by_name_are_read_by_openslide(tmp_path):
    slide = noise(600, 700, 3)
    with tifffile.TiffWriter(tmp_path / "a.bif") as writer:
        for level, pixels in enumerate((slide, slide[::2, ::2])):
            writer.write(pixels, photometric="rgb", tile=(256, 256), subfiletype=level, metadata=None,
                         resolution=(20_000, 40_000), resolutionunit="CENTIMETER")  # fmt: skip
    layout = assert_reads(tmp_path / "a.bif", slide, (256, 256))
    assert layout.levels == ((600, 700), (300, 350))
    assert layout.mpp == pytest.approx((0.25, 0.5))
    with openslide.OpenSlide(tmp_path / "a.bif") as peer:
        assert layout.mpp[1] == pytest.approx(float(peer.properties["openslide.mpp-x"]))
    assert_reads(tmp_path / "a.bif", slide[::2, ::2], (256, 256), level=1)
    assert message_of(tmp_path / "a.bif", level=2)[0] == "no_such_level"
