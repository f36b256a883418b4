"""NIfTI: the slices of nibabel."""

import nibabel
import numpy as np
import pytest
from helpers import assert_reads, message_of, noise


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", ">i2"])
def test_slices_of_a_volume_are_nibabels(tmp_path, suffix, dtype):
    volume = noise(50, 40, 3, 2, dtype="int16").astype(dtype)
    image = nibabel.Nifti1Image(volume, np.diag([0.25, 0.5, 3, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / f"a.{suffix}")
    loaded = np.asanyarray(nibabel.load(tmp_path / f"a.{suffix}").dataobj)  # type: ignore[attr-defined]
    for page in range(6):
        expected = loaded[:, :, page % 3, page // 3].T[..., None]
        expected = expected.astype(expected.dtype.newbyteorder("="))
        layout = assert_reads(tmp_path / f"a.{suffix}", expected, (1, 50) if suffix == "nii" else (40, 50), page=page)
        assert layout.mpp == (500, 250)
    assert message_of(tmp_path / f"a.{suffix}")[0] == "unsupported_mode"
    assert message_of(tmp_path / f"a.{suffix}", page=6)[0] == "no_such_page"


def test_a_scale_of_a_volume_is_applied(tmp_path):
    image = nibabel.Nifti2Image(noise(50, 40, dtype="int16"), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    loaded = nibabel.load(tmp_path / "a.nii")
    slope, inter = loaded.dataobj.slope, loaded.dataobj.inter  # type: ignore[attr-defined]
    expected = (loaded.dataobj.get_unscaled() * slope + inter).astype(np.float32)  # type: ignore[attr-defined]
    assert_reads(tmp_path / "a.nii", expected.T[..., None], (1, 50))


def test_gzip_of_something_else_is_an_unknown_format(tmp_path):
    import gzip

    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello" * 200))
    assert message_of(tmp_path / "a.gz")[0] == "unknown_format"
