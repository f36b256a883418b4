"""Readers that are not installed, and readers of other packages."""

import re
import sys

import numpy as np
import pytest
from helpers import REPO, keep, noise, open_image

from pipeline.errors import Unreadable
from pipeline.readers.converted import Choice
from pipeline.readers.isolated import open_isolated
from transforms.grid import Box


@pytest.mark.parametrize(("module", "name"), [("pydicom", "medical"), ("nibabel", "medical"), ("openslide", "wsi"),
                                              ("zarr", "zarr")])  # fmt: skip
def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch, module, name):
    files = {"pydicom": "a.dcm", "nibabel": "a.nii", "openslide": "a.mrxs", "zarr": "zarr.json"}
    starts = {"pydicom": bytes(128) + b"DICM", "nibabel": bytes(344) + b"n+1\0", "openslide": b"?", "zarr": b"{}"}
    (tmp_path / files[module]).write_bytes(starts[module])
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(Unreadable) as caught:
        open_image(str(tmp_path / files[module]))
    assert caught.value.args == ("missing_extra", f'needs {module}: pip install "patchbeam[{name}]"')


def test_the_reader_of_the_documentation_works_as_a_package_of_its_own(tmp_path, monkeypatch, own_decoders):
    code = re.search(r"```python\n# my_package/raw8.py.*?\n(.*?)```", (REPO / "docs/formats.md").read_text(), re.DOTALL)
    site = tmp_path / "site"
    (site / "my_package-1.dist-info").mkdir(parents=True)
    (site / "my_package").mkdir()
    (site / "my_package/__init__.py").write_text("")
    (site / "my_package/raw8.py").write_text(code[1])
    (site / "my_package-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (site / "my_package-1.dist-info/entry_points.txt").write_text("[patchbeam.readers]\nraw8 = my_package.raw8\n")
    monkeypatch.syspath_prepend(str(site))
    pixels = noise(40, 50, 1)
    (tmp_path / "a.raw8").write_bytes(np.array([40, 50], "<u4").tobytes() + pixels.tobytes())
    reader = keep(open_isolated(str(tmp_path / "a.raw8"), Choice(convert="rgb"), 30))
    np.testing.assert_array_equal(reader.read(Box(3, 4, 20, 30)), np.repeat(pixels[3:23, 4:34], 3, axis=-1))
