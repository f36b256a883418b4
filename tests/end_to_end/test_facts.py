"""What a header says of the world arrives in the table of images."""

import numpy as np
import pyarrow.parquet as pq
import rasterio
from helpers import configure, run
from rasterio.transform import Affine


def test_the_place_of_an_image_is_in_the_table(tmp_path, no_graphs):
    (tmp_path / "in").mkdir()
    with rasterio.open(tmp_path / "in/a.tif", "w", driver="GTiff", height=64, width=64, count=3, dtype="uint8",
                       crs="EPSG:32633", transform=Affine(10, 0, 5000, 0, -20, 7000), nodata=7) as dataset:  # fmt: skip
        dataset.write(np.zeros((3, 64, 64), np.uint8))
    outcome = run(configure(tmp_path / "in", tmp_path / "out", splits={"train": 1.0}))
    (row,) = pq.read_table(f"{outcome.folder}/images.parquet").to_pylist()
    assert (row["crs"], row["nodata"], row["mpp"]) == ("EPSG:32633", "7", None)
    assert row["transform"] == [10, 0, 5000, 0, -20, 7000]
    assert row["written"] == 4
