"""From a dataset back to images: exact inverses, blended predictions, pyramids that other libraries read."""

import itertools

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from pipeline.build import build
from pipeline.cli.main import main
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.stitch import stitch_image
from pipeline.dataset.tiff_pyramid import halved, write_pyramid
from pipeline.errors import UsageError
from pipeline.runners.options import parse_options

SIZE = (700, 1300)
pytestmark = pytest.mark.usefixtures("no_graphs")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two images in the three dtypes, tiled, so that they are cut in several windows."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    pixels = {
        "uint8": rng.integers(0, 256, (*SIZE, 3), np.uint8),
        "uint16": rng.integers(0, 65536, (*SIZE, 5), np.uint16),
        "float32": rng.normal(size=(*SIZE, 1)).astype(np.float32),
    }
    for name, values in pixels.items():
        (root / name).mkdir()
        form = {"photometric": "rgb" if name == "uint8" else "minisblack"}
        form |= {"planarconfig": "contig"} if values.shape[2] > 1 else {}
        tifffile.imwrite(root / name / "a.tif", values, tile=(64, 64), **form)
        tifffile.imwrite(root / name / "b.tif", values[::-1, :99], tile=(64, 64), **form)
    return root, pixels


def make_dataset(source, tmp_path, dtype="uint8", **patch):
    root, pixels = source
    values = {
        "input": {"images": f"{root}/{dtype}/*.tif", "dtype": dtype, "channels": pixels[dtype].shape[2]},
        "output": {"path": str(tmp_path / "out"), "encoding": "png" if dtype == "uint8" else "raw"},
        "patch": {"size": [96, 128]} | patch,
    }
    build(Config.model_validate(values), parse_options(["--direct_num_workers=1"]))
    return open_dataset(str(tmp_path / "out")), pixels[dtype]


@pytest.mark.parametrize(
    ("dtype", "blend", "patch"),
    [
        ("uint8", "average", {"stride": [50, 64]}),
        ("uint8", "crop", {"edge": ["shift", "pad"], "origin": [0, -20]}),
        ("uint16", "hann", {"stride": 70, "edge": "shift"}),
        ("float32", "gaussian", {"stride": [96, 40], "pad_mode": "constant"}),
    ],
)
def test_a_dataset_gives_its_images_back_to_the_bit(source, tmp_path, dtype, blend, patch):
    dataset, pixels = make_dataset(source, tmp_path, dtype, **patch)
    path = tmp_path / "a.tif"
    done = stitch_image(dataset, "a.tif", str(path), blend=blend)

    assert (done.shape, done.missing) == (pixels.shape, 0)
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[0].asarray().reshape(pixels.shape)
        assert tiff.pages[0].is_tiled and tiff.pages[0].dtype == dtype
    np.testing.assert_array_equal(found, pixels)


def test_reduced_levels_are_means_of_the_level_above_and_are_found_by_readers(source, tmp_path):
    dataset, _ = make_dataset(source, tmp_path, edge="shift")
    stitch_image(dataset, "a.tif", str(tmp_path / "a.tif"))

    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert [level.shape[:2] for level in levels] == [(700, 1300), (350, 650), (175, 325)]
    for above, level in itertools.pairwise(levels):
        even = np.pad(above, ((0, above.shape[0] % 2), (0, above.shape[1] % 2), (0, 0)), mode="edge").astype(float)
        mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
        np.testing.assert_array_equal(level, np.round(mean))


def save_predictions(folder, dataset, make, parts=2):
    """``make(row, col)`` for every patch of every image, in several arrays, as a training framework would save them."""
    import pipeline

    elements = [e for split in dataset.manifest.splits for e in pipeline.load(dataset.folder, split)]
    folder.mkdir()
    for part in range(parts):
        mine = elements[part::parts]
        np.save(folder / f"{part}.npy", np.stack([make(int(e["row"]), int(e["col"])) for e in mine]))
        (folder / f"{part}.keys").write_text("".join(e["key"].numpy().decode() + "\n" for e in mine))


def test_predictions_are_blended_over_the_overlap(source, tmp_path):
    dataset, _ = make_dataset(source, tmp_path, stride=[96, 64], edge="drop")
    save_predictions(tmp_path / "p", dataset, lambda row, col: np.full((96, 128, 2), [row, col], np.float32))
    done = stitch_image(
        dataset, "a.tif", str(tmp_path / "a.tif"), predictions=str(tmp_path / "p"), blend="average", fill=-1
    )
    found = tifffile.imread(tmp_path / "a.tif", key=0)

    assert done.shape == (*SIZE, 2)
    row, col = np.mgrid[:672, :1280]
    expected_col = np.clip((col // 64 * 64 - 32).astype(float), 0, 1152)  # the mean of two starts that lie 64 apart
    expected_col[:, 1216:] = 1152
    np.testing.assert_array_equal(found[:672, :1280, 0], row // 96 * 96)
    np.testing.assert_array_equal(found[:672, :1280, 1], expected_col)
    assert (found[672:] == -1).all() and (found[:, 1280:] == -1).all()


def test_one_prediction_for_each_patch_becomes_a_map_of_classes(source, tmp_path):
    dataset, _ = make_dataset(source, tmp_path)
    save_predictions(tmp_path / "p", dataset, lambda row, col: np.array([row // 96 + 10 * (col // 128)], np.uint8))
    stitch_image(dataset, "a.tif", str(tmp_path / "a.tif"), predictions=str(tmp_path / "p"), labels=True)

    row, col = np.mgrid[: SIZE[0], : SIZE[1]]
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        np.testing.assert_array_equal(tiff.pages[0].asarray(), row // 96 + 10 * (col // 128))
        assert set(np.unique(tiff.pages[2].asarray())) <= set(np.unique(tiff.pages[0].asarray()))


def test_patches_that_are_missing_are_counted_and_filled(source, tmp_path):
    dataset, _ = make_dataset(source, tmp_path)
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p/a.npy", np.full((1, 96, 128), 5, np.uint8))
    (tmp_path / "p/a.keys").write_text("a.tif#0/96/128\n")
    done = stitch_image(dataset, "a.tif", str(tmp_path / "a.tif"), predictions=str(tmp_path / "p"), fill=9)
    found = tifffile.imread(tmp_path / "a.tif", key=0)

    assert (done.patches, done.missing) == (1, 8 * 11 - 1)
    assert (
        (found[96:192, 128:256] == 5).all()
        and (found == 5).sum() == 96 * 128
        and (found != 5).sum() == (found == 9).sum()
    )


def test_what_does_not_fit_is_named(source, tmp_path):
    dataset, _ = make_dataset(source, tmp_path)
    folder = tmp_path / "p"
    go = lambda image="a.tif": stitch_image(dataset, image, str(tmp_path / "o.tif"), predictions=str(folder))
    with pytest.raises(UsageError, match=r"--image z.tif: is not there; images.parquet lists all"):
        go("z.tif")
    with pytest.raises(UsageError, match=r"holds no NAME.npy"):
        go()
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((2, 96, 127)))
    with pytest.raises(UsageError, match=r"has the shape \(2, 96, 127\); expected \[N, 96, 128"):
        go()
    np.save(folder / "a.npy", np.zeros((2, 96, 128)))
    with pytest.raises(UsageError, match=r"a.keys: cannot be read: No such file"):
        go()
    (folder / "a.keys").write_text("a.tif#0/0/0\n")
    with pytest.raises(UsageError, match="has 1 lines for 2 predictions"):
        go()
    (folder / "a.keys").write_text("x#0/0/0\ny#0/0/0\n")
    with pytest.raises(UsageError, match=r"no key of 'a.tif' is there"):
        go()
    np.save(folder / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        go()
    assert not (tmp_path / "o.tif").exists()


def test_the_command_writes_the_image(source, tmp_path):
    _, pixels = make_dataset(source, tmp_path)
    arguments = ["stitch", str(tmp_path / "out"), "--image", "b.tif", "--output", str(tmp_path / "b.tif")]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)

    assert done.output == f"{tmp_path}/b.tif: 700 x 99 x 3 pixels from 8 patches\n"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif", key=0), pixels[::-1, :99])


def test_the_same_pixels_are_the_same_bytes(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (600, 800, 1), np.uint8)
    read = lambda box: pixels[box.row : box.row + box.height, box.col : box.col + box.width]
    for name in ("a", "b"):
        write_pyramid(str(tmp_path / name), pixels.shape, pixels.dtype, read)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_classes_are_picked_and_not_averaged():
    classes = np.array([[[0], [9], [3]], [[9], [9], [9]], [[5], [1], [7]]], np.uint8)

    assert halved(classes, average=False)[..., 0].tolist() == [[0, 3], [5, 7]]
    assert halved(classes, average=True)[..., 0].tolist() == [[7, 6], [3, 7]]


def test_a_window_that_fails_leaves_no_file(tmp_path):
    def read(box):
        raise RuntimeError("no pixels")

    with pytest.raises(RuntimeError, match="no pixels"):
        write_pyramid(str(tmp_path / "x.tif"), (10, 10, 1), np.dtype(np.uint8), read)
    assert list(tmp_path.iterdir()) == []
