"""Zarr and OME-Zarr: what was written, by chunks, levels and pages."""

import numpy as np
import pytest
import zarr
from helpers import assert_reads, message_of, noise


def test_an_array_is_read_by_its_chunks(tmp_path):
    pixels = noise(70, 100, 3)
    array = zarr.create_array(tmp_path / "a.zarr", shape=pixels.shape, chunks=(32, 48, 3), dtype="uint8")
    array[:] = pixels
    assert_reads(tmp_path / "a.zarr/zarr.json", pixels, (32, 48))


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_has_levels_pages_and_channels(tmp_path, version):
    levels = [noise(2, 3, 4, 64, 96, dtype="uint16"), noise(2, 3, 4, 32, 48, dtype="uint16")]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    datasets = []
    for number, pixels in enumerate(levels):
        array = group.create_array(str(number), shape=pixels.shape, chunks=(1, 1, 1, 32, 32), dtype="uint16")
        array[:] = pixels
        scale = [1, 1, 5, 0.25 * 2**number, 0.5 * 2**number]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": "t"}, {"name": "c"}, *({"name": axis, "unit": "micrometer"} for axis in "zyx")]
    scales = [{"axes": axes, "datasets": datasets}]
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"multiscales": scales}})
    path = tmp_path / "a.zarr" / (".zattrs" if version == 2 else "zarr.json")
    for level, pixels in enumerate(levels):
        for page in (0, 5, 7):
            expected = np.moveaxis(pixels[page // 4, :, page % 4], 0, -1)
            layout = assert_reads(path, expected, (32, 32), level, page=page)
            assert layout.mpp == (0.25 * 2**level, 0.5 * 2**level)
            assert layout.levels == ((64, 96), (32, 48))
    assert message_of(path)[0] == "unsupported_mode"
    assert message_of(path, page=8)[0] == "no_such_page"
    assert message_of(path, level=2, page=0)[0] == "no_such_level"
