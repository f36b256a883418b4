"""Object stores behave as local disks do, also where they fail now and then, and send no more than is needed.

Against servers on this machine: moto for S3, gcp-storage-emulator for Google Cloud Storage. With
``PATCHBEAM_MINIO=PATH`` S3 is a real MinIO: ``./run_local.sh minio`` builds one and runs these tests.
"""

import hashlib
import io
import os
import pathlib

import boto3
import imagecodecs
import numpy as np
import pytest
import servers
import tifffile
from helpers import leave_out_graphs

import pipeline
from pipeline import errors, storage
from pipeline.build import build
from pipeline.cli import runs
from pipeline.config import Config
from pipeline.dataset.reading import open_dataset
from pipeline.dataset.verify import verify
from pipeline.errors import TransientError, UsageError
from pipeline.readers import open_image
from pipeline.runners.options import parse_options
from pipeline.storage import gcs, object_store, range_file, s3
from pipeline.storage.object_store import objects_below, retry, store_of
from pipeline.versions import lease
from transforms.grid import Box

MINIO = os.environ.get("PATCHBEAM_MINIO")
KEYS = {"AWS_ACCESS_KEY_ID": "testtest", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3_proxy():
    with servers.minio(MINIO) if MINIO else servers.moto() as port:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="testtest",
            aws_secret_access_key="testtest",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="bucket")
        proxy = servers.Proxy(port)
        yield proxy
        proxy.close()


@pytest.fixture(scope="module")
def gs_proxy():
    with servers.gcs() as port:
        proxy = servers.Proxy(port)
        yield proxy
        proxy.close()


@pytest.fixture(params=["s3"] if MINIO else ["s3", "gs"])
def scheme(request):
    return request.param


@pytest.fixture
def proxy(scheme, request, monkeypatch):
    """The proxy before the store of the scheme, which does not fail yet; nothing is cached from the test before."""
    proxy = request.getfixturevalue(f"{scheme}_proxy")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(range_file, "_cache", range_file._Blocks())
    s3.store.cache_clear()
    gcs.store.cache_clear()
    proxy.every, proxy.delay = 0, 0.0
    proxy.reset()
    yield proxy
    proxy.every, proxy.delay = 0, 0.0


@pytest.fixture
def root(scheme, proxy, request):
    """A folder of its own in the store."""
    return f"{scheme}://bucket/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


NAMES = ["a.bin", "deep/er/b.bin", "sp ace/ü 日本.bin", "a+b%20c&d=e.bin", "deep/a.bin"]


def test_files_are_written_found_read_and_removed(root):
    for number, name in enumerate(NAMES):
        storage.write_bytes(f"{root}/{name}", bytes([number]) * number)
    assert storage.files_below(root) == sorted(NAMES)
    for number, name in enumerate(NAMES):
        assert storage.size(f"{root}/{name}") == number
        assert storage.read_bytes(f"{root}/{name}") == bytes([number]) * number
    assert [found.uri for found in storage.glob(f"{root}/**/b*.bin")] == [f"{root}/deep/er/b.bin"]
    assert [found.uri for found in storage.glob(f"{root}/*/*.bin")] == [
        f"{root}/{name}" for name in ("deep/a.bin", "sp ace/ü 日本.bin")
    ]
    storage.delete(f"{root}/deep/a.bin")
    assert storage.size(f"{root}/deep/a.bin") is None
    with pytest.raises(FileNotFoundError):
        storage.open_read(f"{root}/deep/a.bin")
    with pytest.raises(FileNotFoundError):
        storage.open_read(f"{root}/deep")
    assert storage.files_below(f"{root}/nothing") == []


def test_a_fingerprint_is_that_of_the_content_and_the_same_from_listing_and_question(root):
    storage.write_bytes(f"{root}/a", b"one")
    (first,) = storage.glob(f"{root}/a")
    assert list(storage.fingerprints([f"{root}/a", f"{root}/gone"])) == [first.fingerprint, None]
    storage.write_bytes(f"{root}/a", b"two")
    (second,) = storage.glob(f"{root}/a")
    storage.write_bytes(f"{root}/a", b"one")
    assert second != first
    assert list(storage.glob(f"{root}/a")) == [first]


def test_a_block_that_raises_writes_nothing(root):
    storage.write_bytes(f"{root}/x", b"old")
    with pytest.raises(ValueError):
        with storage.atomic_write(f"{root}/x") as file:
            file.write(b"half")
            raise ValueError
    assert storage.read_bytes(f"{root}/x") == b"old"
    assert storage.files_below(root) == ["x"]


def test_a_listing_goes_on_after_its_first_page(root, scheme, monkeypatch):
    for number in range(7):
        storage.write_bytes(f"{root}/{number}", b"")
    client = store_of(root)._client  # type: ignore[attr-defined]
    if scheme == "s3":
        page = client.list_objects_v2
        monkeypatch.setattr(client, "list_objects_v2", lambda **given: page(**given, MaxKeys=3))
        assert len(list(objects_below(f"{root}/"))) == 7
        assert len(store_of(root).page(f"{root}/", None)[0]) == 3
    else:
        assert len(list(objects_below(f"{root}/"))) == 7


@pytest.mark.parametrize("every", [0, 3])
def test_a_large_file_goes_in_parts(root, proxy, monkeypatch, every):
    monkeypatch.setattr(s3, "_PART_BYTES", 5 << 20)  # the least that S3 takes
    data = np.random.default_rng(0).bytes((12 << 20) + 5)
    proxy.every, proxy.how = every, "reset"
    storage.write_bytes(f"{root}/large", data)
    assert storage.read_bytes(f"{root}/large") == data
    with storage.open_read(f"{root}/large") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("how", ["error", "reset", "cut"])
def test_every_kind_of_request_is_made_again(root, proxy, how):
    proxy.every, proxy.how = 2, how
    storage.write_bytes(f"{root}/a", b"x" * 100_000)
    assert storage.size(f"{root}/a") == 100_000
    assert storage.read_bytes(f"{root}/a") == b"x" * 100_000
    assert storage.files_below(root) == ["a"]
    storage.delete(f"{root}/a")
    assert storage.files_below(root) == []
    assert proxy.failed >= 4


def test_a_request_without_an_answer_is_given_up_and_made_again(root, proxy, monkeypatch):
    storage.write_bytes(f"{root}/a", b"123")
    monkeypatch.setattr(object_store, "TIMEOUT_S", 0.5)
    s3.store.cache_clear()
    gcs.store.cache_clear()
    proxy.every, proxy.how, proxy.stall_s = 2, "stall", 2
    assert storage.read_bytes(f"{root}/a") == b"123"
    assert proxy.failed >= 1


def test_a_store_that_never_answers_is_an_error_that_says_how_often(root, proxy):
    storage.write_bytes(f"{root}/a", b"123")
    proxy.every, proxy.how = 1, "error"
    proxy.reset()
    with pytest.raises(OSError, match=r"a: the store answers 503 \(after 8 tries\)"):
        storage.open_read(f"{root}/a")
    assert proxy.requests == 8


def test_what_will_not_pass_is_not_tried_again(root, proxy, scheme):
    proxy.reset()
    with pytest.raises(FileNotFoundError):
        storage.open_read(f"{root}/gone")
    assert proxy.requests == 1
    with pytest.raises(OSError):
        list(objects_below(f"{scheme}://no-such-bucket/"))


def test_pauses_grow_and_are_not_those_of_other_workers(monkeypatch):
    pauses = []
    monkeypatch.setattr(object_store.time, "sleep", pauses.append)

    def fail():
        raise TransientError("no")

    with pytest.raises(OSError, match=r"no \(after 8 tries\)"):
        retry(fail)
    limits = [0.25 * 2**n for n in range(7)]
    assert all(limit / 2 <= pause <= limit for limit, pause in zip(limits, pauses))
    assert len(pauses) == 7


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(root, scheme):
    storage.write_bytes(f"{root}/a", bytes(1_000_000))
    with storage.open_read(f"{root}/a") as file:
        file.read(10)
        storage.write_bytes(f"{root}/a", bytes(999_999))
        if scheme == "gs":
            pytest.skip("the emulator keeps no generations apart")
        with pytest.raises(OSError, match="was replaced while it was read"):
            file.read(900_000)
    with storage.open_read(f"{root}/a") as file:
        assert len(file.read()) == 999_999


def test_reading_anywhere_gives_what_is_there(root, proxy):
    data = np.random.default_rng(1).bytes(1_500_000)
    storage.write_bytes(f"{root}/a", data)
    local, rng = io.BytesIO(data), np.random.default_rng(2)
    with storage.open_read(f"{root}/a") as file:
        for _ in range(200):
            offset, size = int(rng.integers(0, 1_600_000)), int(rng.choice([1, 100, 70_000, 300_000]))
            if rng.random() < 0.2:
                file.prefetch([(offset, size), (max(0, offset - 5000), 3000)])  # type: ignore[attr-defined]
            if rng.random() < 0.7:
                file.seek(offset), local.seek(offset)
            assert file.read(size) == local.read(size)
            assert file.tell() == local.tell()
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        with pytest.raises(ValueError):
            file.seek(-1)


def test_reading_from_end_to_end_gets_ahead(root, proxy):
    data = bytes(4 << 20)
    storage.write_bytes(f"{root}/a", data)
    proxy.reset()
    with storage.open_read(f"{root}/a") as file:
        while piece := file.read(10_000):
            assert not any(piece)
    assert proxy.requests < 14  # of 64 blocks
    assert proxy.body_bytes == len(data)


@pytest.fixture
def tiles(root):
    """A tiled TIFF of 3072 x 3072 pixels of noise, in the store: (uri, pixels, bytes)."""
    pixels = np.random.default_rng(0).integers(0, 256, (3072, 3072, 3), np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, tile=(128, 128), photometric="rgb", compression="deflate")
    storage.write_bytes(f"{root}/a.tif", file.getvalue())
    return f"{root}/a.tif", pixels, len(file.getvalue())


def test_a_window_costs_its_tiles_and_the_header_once(tiles, proxy):
    uri, pixels, size = tiles
    box = Box(1024, 512, 256, 384)
    proxy.reset()
    reader = open_image(uri)
    np.testing.assert_array_equal(reader.read(box), pixels[1024:1280, 512:896])
    wanted = 256 * 384 * 3
    assert proxy.body_bytes < 1.1 * wanted + 3 * range_file.BLOCK_BYTES < 0.05 * size
    requests = proxy.requests
    assert requests <= 8
    reader.close()
    proxy.reset()
    again = open_image(uri)
    assert proxy.body_bytes == 0  # the header is cached
    assert [method for method, *_ in proxy.log if method != "HEAD"] == ([] if uri.startswith("s3") else ["GET"])
    again.close()


def test_an_image_that_was_replaced_is_not_taken_from_the_cache(tiles):
    uri, pixels, _ = tiles
    open_image(uri).close()
    file = io.BytesIO()
    tifffile.imwrite(file, pixels[:200, :100], tile=(128, 128), photometric="rgb")
    storage.write_bytes(uri, file.getvalue())
    reader = open_image(uri)
    assert reader.layout[:2] == (200, 100)
    np.testing.assert_array_equal(reader.read(Box(0, 0, 200, 100)), pixels[:200, :100])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of several formats, a broken one, and a manifest, in a local folder."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    noise = lambda height, width: rng.integers(0, 256, (height, width, 3), np.uint8)
    (folder / "a.png").write_bytes(imagecodecs.png_encode(noise(150, 170)))
    (folder / "b.jpg").write_bytes(imagecodecs.jpeg_encode(noise(200, 333), 90))
    tifffile.imwrite(folder / "c.tif", noise(700, 697), tile=(64, 64), photometric="rgb", compression="deflate")
    tifffile.imwrite(folder / "d.tif", noise(300, 297), photometric="rgb", rowsperstrip=16)
    (folder / "e.png").write_bytes(b"<html>not here</html>")
    names = ["a.png", "b.jpg", "c.tif", "d.tif", "e.png"]
    (folder / "m.csv").write_text("uri,label,n\n" + "".join(f"{name},l{i},{i}\n" for i, name in enumerate(names)))
    return folder


def configure(folder, out):
    return Config.model_validate(
        {
            "input": {"manifest": f"{folder}/m.csv"},
            "output": {"path": f"{out}/out", "shard_size": "200KB"},
            "patch": {"size": 64},
            "splits": {"train": 0.6, "test": 0.4},
            "max_rejected": 0.5,
        }
    )


@pytest.fixture(scope="module")
def local(images, tmp_path_factory):
    """Checksums of the dataset that is built from and to the local disk."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_graphs(patch)
        outcome = build(configure(images, tmp_path_factory.mktemp("local")), parse_options(["--direct_num_workers=1"]))
    return checksums(outcome.folder)


def checksums(folder):
    """File -> sha256, except of what names places, times or the machine."""
    return {
        name: hashlib.sha256(storage.read_bytes(f"{folder}/{name}")).hexdigest()
        for name in storage.files_below(folder)
        if not name.startswith(("manifest.json", "inputs.parquet", "receipts", "regions", "shards.parquet"))
    }


def upload(folder, root):
    for path in pathlib.Path(folder).iterdir():
        storage.write_bytes(f"{root}/{path.name}", path.read_bytes())


FAULTS = [("s3", "error"), ("s3", "reset"), ("s3", "cut"), ("s3", "slow"), ("gs", "error"), ("gs", "cut")]


@pytest.mark.parametrize(("scheme", "how"), [fault for fault in FAULTS if not MINIO or fault[0] == "s3"])
def test_a_dataset_from_and_to_a_store_that_fails_is_the_local_one(images, local, root, proxy, how, no_graphs):
    upload(images, root)
    proxy.every, proxy.how = (0 if how == "slow" else 10), how
    proxy.delay = 0.02 if how == "slow" else 0.0
    config = configure(root, root)
    outcome = build(config, parse_options(["--direct_num_workers=2"]))
    assert checksums(outcome.folder) == local
    assert outcome.manifest.accounts.reasons == {"unknown_format": 1}
    assert proxy.failed >= (5 if proxy.every else 0)
    assert build(config, parse_options([])).unchanged
    proxy.every, proxy.delay = 0, 0.0
    if how == "error":
        assert verify(open_dataset(f"{root}/out"), threads=2) == []
        elements = list(pipeline.load(f"{root}/out", "train").as_numpy_iterator())
        assert len(elements) == outcome.manifest.splits["train"].patches > 0
        written = b"".join(
            storage.read_bytes(f"{outcome.folder}/{name}") for name in storage.files_below(outcome.folder)
        )
        assert b"testtest" not in written


def test_secrets_are_refused_before_the_store_is_asked(proxy, tmp_path):
    proxy.reset()
    for uri in ("s3://testtest:word@bucket/a.tif", "gs://bucket/a.tif?X-Goog-Signature=word"):
        (tmp_path / "m.csv").write_text(f"uri\n{uri}\n")
        with pytest.raises(UsageError) as caught:
            build(configure(tmp_path, tmp_path), parse_options([]))
        assert "line 2" in str(caught.value) and "word@" not in str(caught.value) and "=word" not in str(caught.value)
    assert proxy.requests == 0


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(UsageError, match=r"s3:// needs boto3: pip install 'patchbeam\[aws\]'"):
        store_of("s3://bucket/a")


def test_other_schemes_are_those_of_beam():
    with pytest.raises(UsageError, match="nothing:// is not known"):
        storage.size("nothing://bucket/a")


def test_a_file_is_copied_without_its_bytes_coming_here(root, proxy):
    data = os.urandom(200_000)
    storage.write_bytes(f"{root}/a", data)
    proxy.reset()
    storage.copy(f"{root}/a", f"{root}/b/c")
    assert not any(command == "GET" and "Range" in str(headers) for command, _, headers in proxy.log)
    assert proxy.body_bytes == 0
    assert storage.read_bytes(f"{root}/b/c") == data == storage.read_bytes(f"{root}/a")


def test_folders_are_listed_without_what_is_in_them(root, scheme, monkeypatch):
    assert storage.folders_in(root) == []
    for name in ("a/1", "a/2/3", "b c/1", "file", "d/1"):
        storage.write_bytes(f"{root}/{name}", b"x")
    assert storage.folders_in(root) == ["a", "b c", "d"]


@pytest.fixture
def conditions(scheme, proxy):
    """The emulator of Google's store knows no conditions; with this the proxy sees to them, as documented."""
    proxy.conditions = scheme == "gs"
    yield
    proxy.conditions = False


def test_a_file_is_written_on_conditions(root, conditions):
    uri = f"{root}/x"
    assert storage.read_version(uri) is None
    assert storage.write_if(uri, b"one", "12345") is None
    first = storage.write_if(uri, b"one", None)
    assert storage.read_version(uri) == (b"one", first)
    assert storage.write_if(uri, b"two", None) is None
    second = storage.write_if(uri, b"two", first)
    assert second and second != first
    assert storage.write_if(uri, b"three", first) is None
    assert storage.read_version(uri) == (b"two", second)


@pytest.mark.parametrize("condition", [True, False], ids=["with-conditions", "without"])
def test_one_build_at_a_time_has_an_output_in_a_store(root, scheme, proxy, request, monkeypatch, condition):
    monkeypatch.setattr(lease, "_SETTLES_S", 0.05)
    if condition:
        request.getfixturevalue("conditions")
    elif scheme == "s3":
        put = s3._S3.put_if  # a server that does not look at them
        monkeypatch.setattr(
            s3._S3, "put_if", lambda self, uri, data, version: put(self, uri, data, None) or always(self, uri, data)
        )

        def always(store, uri, data):
            store.put(uri, io.BytesIO(data), len(data))
            return store.stat(uri).version

    name = "20240101T000000Z-abababab"
    with lease.hold(root) as held:
        with pytest.raises(errors.BusyError), lease.hold(root):
            pass
        held.renew()
        held.publish(name)
        other = lease.Owner.me()._replace(process="elsewhere/1")
        storage.write_bytes(f"{root}/LEASE", other.encode())
        with pytest.raises(errors.LeaseLostError):
            held.publish(name)
    assert storage.read_bytes(f"{root}/LATEST").decode().strip() == name
    assert lease.Owner.decode(storage.read_bytes(f"{root}/LEASE")).id == other.id


def test_runs_are_noted_in_a_store_where_there_is_an_output(root):
    for there in (False, True):
        if there:
            storage.write_bytes(f"{root}/versions/20240101T000000Z-abababab/manifest.json", b"{}")
        for number in range(3):
            runs.add({"output": root, "number": number})
        assert [run["number"] for run in runs.read_runs(root)] == [0, 1, 2] * there
