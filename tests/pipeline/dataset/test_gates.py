"""A version that a gate holds back is complete and not read; each gate passes what it should and nothing else."""

import io
import json

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from helpers import SAMPLES, configure, make_manifest, rewrite_manifest, run
from PIL import Image

from pipeline import storage
from pipeline.cli.version_commands import version_table
from pipeline.config import Config, Gates
from pipeline.dataset import gates
from pipeline.dataset.gates import judge
from pipeline.dataset.leakage import find_groups, find_same_files
from pipeline.dataset.reading import Dataset, open_dataset
from pipeline.dataset.verify import verify
from pipeline.elements import shard_file
from pipeline.errors import HeldBackError
from pipeline.versions import history, lease, lifecycle
from pipeline.versions.lifecycle import Version
from pipeline.versions.manifest import write_manifest
from transforms import pixel_statistics

NAME = "20260101T000000Z-abababab"
rng = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("no_graphs")


def version(folder, patches=100, labels=None, pixels=None, images=10, rejected=0):
    """What the gates read of a version, with one split."""
    channels = pixel_statistics.describe(pixel_statistics.measure(pixels)) if pixels is not None else []
    patches = len(pixels) if pixels is not None else patches
    split = {"patches": patches, "labels": labels or {}, "channels": channels}
    folder = Version(str(folder), NAME).folder
    storage.write_bytes(f"{folder}/statistics.json", json.dumps({"splits": {"train": split}}).encode())
    size = list(pixels.shape[1:3]) if pixels is not None else 256
    config = Config.model_validate({"input": {"images": "a"}, "output": {"path": "b"}, "patch": {"size": size}})
    manifest = make_manifest(
        version=NAME,
        accounts={"images": images, "images_rejected": rejected},
        splits={"train": {"images": images}},
        config=config.model_dump(mode="json"),
    )
    write_manifest(folder, manifest)
    return Dataset(folder, manifest, config)


def verdicts(new, published, **strict):
    old = published.folder if published else None
    return {verdict.gate: verdict for verdict in judge(new, old, Gates.model_validate(strict))}


def test_no_gates_say_nothing(tmp_path):
    assert judge(version(tmp_path), None, Gates()) == []


@pytest.mark.parametrize(("rejected", "passes"), [(0, True), (1, True), (2, False)])
def test_rejections(tmp_path, rejected, passes):
    found = verdicts(version(tmp_path, rejected=rejected), None, rejected=0.1)["rejected"]
    assert (found.passed, found.measured) == (passes, {"images": rejected / 10})
    assert found.sentence == f"{rejected} of 10 images have rejections, {rejected / 10:.4g} of at most 0.1"


@pytest.mark.parametrize(
    ("patches", "bounds", "passes"),
    [
        (100, {"min": 1}, True),
        (99, {"min": 1}, False),
        (0, {"min": 0.5}, False),
        (99, {"max": 1}, True),
        (101, {"max": 1}, False),
        (150, {"min": 0.9, "max": 1.5}, True),
    ],
)
def test_numbers_of_patches(tmp_path, patches, bounds, passes):
    new, old = version(tmp_path / "new", patches), version(tmp_path / "old", 100)
    found = verdicts(new, old, patches=bounds)["patches"]
    assert (found.passed, found.measured) == (passes, {"train": patches / 100})
    assert passes or f"train 100 -> {patches}" in found.sentence


def test_labels_that_shrink_or_are_gone_are_named(tmp_path):
    old = version(tmp_path / "old", labels={"cat": 50, "dog": 40, "cow": 10})
    new = version(tmp_path / "new", labels={"cat": 50, "dog": 20, "emu": 9})
    found = verdicts(new, old, patches_per_label={"min": 0.6})["patches_per_label"]
    assert not found.passed
    assert found.sentence == (
        "train/dog 40 -> 20, 0.5 times; train/cow 10 -> 0, 0 times; at least 0.6 times is allowed"
    )
    assert found.measured == {"train/cow": 0, "train/cat": 1}


def test_drift_of_pixels(tmp_path):
    pixels = rng.normal(100, 20, (2, 40, 40, 2)).clip(0, 255).astype(np.uint8)
    moved = pixels.copy()
    moved[..., 1] += 10
    old, same, new = (version(tmp_path / name, pixels=p) for name, p in dict(a=pixels, b=pixels, c=moved).items())
    strict = {"drift": {"mean": 0.1, "std": 0.1, "jensen_shannon_divergence": 0.02}}
    assert all(verdict.passed for verdict in verdicts(same, old, **strict).values())
    found = verdicts(new, old, **strict)
    assert {name for name, verdict in found.items() if not verdict.passed} == {
        "drift.mean",
        "drift.jensen_shannon_divergence",
    }
    expected = 10 / pixels[..., 1].std()
    assert found["drift.mean"].measured == pytest.approx({"train/channel_0": 0, "train/channel_1": expected})
    assert found["drift.mean"].sentence == f"moved too far: train/channel_1 by {expected:.4g}; 0.1 is allowed"
    assert found["drift.std"].measured == pytest.approx({"train/channel_0": 0, "train/channel_1": 0}, abs=1e-9)


def test_drift_of_labels(tmp_path):
    old, new = (version(tmp_path / str(n), labels={"a": n, "b": 10 - n}) for n in (5, 7))
    strict = {"drift": {"labels": {"infinity_norm": 0.1, "jensen_shannon_divergence": 0.1}}}
    found = verdicts(new, old, **strict)
    assert (found["drift.labels.infinity_norm"].passed, found["drift.labels.jensen_shannon_divergence"].passed) == (
        False,
        True,
    )
    assert list(found["drift.labels.infinity_norm"].measured.values()) == pytest.approx([0.2])


DRIFT = {"mean": 0.5, "std": 0.5, "jensen_shannon_divergence": 0.5, "labels": {"infinity_norm": 0.5}}


def test_what_is_gone_does_not_pass(tmp_path):
    pixels = rng.normal(0, 1, (2, 16, 16, 2)).astype(np.float32)
    half = pixels.copy()
    half[..., 1] = np.nan
    old, new = version(tmp_path / "old", 2, {"a": 2}, pixels), version(tmp_path / "new", 2, {}, half)
    found = verdicts(new, old, drift=DRIFT)
    assert [verdict.passed for verdict in found.values()] == [False] * 4
    assert found["drift.mean"].sentence == "moved too far: train/channel_1 is gone; 0.5 is allowed"
    assert found["drift.labels.infinity_norm"].sentence == "moved too far: train/label is gone; 0.5 is allowed"
    json.dumps([verdict.model_dump() for verdict in found.values()], allow_nan=False)
    manifest = make_manifest(version=NAME, splits={"train": {"images": 0}}, config=new.manifest.config)
    new = new._replace(manifest=manifest)
    storage.write_bytes(f"{new.folder}/statistics.json", json.dumps({"splits": {}}).encode())
    assert {verdict.sentence for verdict in verdicts(new, old, drift=DRIFT).values()} == {
        "moved too far: train is gone; 0.5 is allowed"
    }


def test_a_published_version_that_cannot_be_read_holds_back(tmp_path):
    new, old = version(tmp_path / "new"), version(tmp_path / "old")
    manifest = json.loads(storage.read_bytes(f"{old.folder}/manifest.json"))
    manifest["accounts"]["images"] = 11
    storage.write_bytes(f"{old.folder}/manifest.json", json.dumps(manifest).encode())
    (verdict,) = verdicts(new, old, patches={"min": 0.1}).values()
    assert not verdict.passed
    assert "the published version cannot be read to be compared with: " in verdict.sentence
    assert verdicts(new, old, rejected=1)["rejected"].passed

    rewrite_manifest(old.folder, lambda content: content["config"].update(a_key_that_is_no_more=1))
    assert not verdicts(new, old, patches={"min": 0.1})["patches"].passed


def test_the_first_version_has_nothing_to_be_compared_with(tmp_path):
    strict = {"patches": {"min": 1}, "drift": {"mean": 0}}
    found = verdicts(version(tmp_path), None, **strict)
    assert {(v.passed, v.sentence) for v in found.values()} == {
        (True, "nothing is published that it could be compared with")
    }
    assert list(found) == ["patches", "drift.mean"]


def images_table(**split_of):
    rows = [{"image_id": name, "split": split, "group": name[0]} for name, split in split_of.items()]
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in ("image_id", "split", "group")]))


def test_groups_in_several_splits():
    table = images_table(a1="train", a2="train", b1="test", b2="train", c1="test", d1=None, d2="train")
    assert [tuple(leak) for leak in find_groups(table)] == [("group 'b'", "in test", "in train")]


def test_the_same_file_in_several_splits(tmp_path):
    contents = {"a1": b"x" * 9, "b1": b"x" * 9, "c1": b"y" * 9, "d1": b"x" * 8, "e1": b"z" * 7, "f1": b"z" * 7}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    refs = [
        {"image_id": name, "uri": str(tmp_path / name), "fingerprint": f"{len(data)}-{number}+5-6"}
        for number, (name, data) in enumerate(contents.items())
    ]
    refs.append({"image_id": "s1", "uri": "s3://bucket/s1", "fingerprint": "9-etag"})
    refs.append({"image_id": "t1", "uri": "s3://bucket/t1", "fingerprint": "9-etag"})
    splits = dict(a1="train", b1="test", c1="test", d1="test", e1="train", f1="train", s1="test", t1="train")
    found = list(find_same_files(images_table(**splits), pa.Table.from_pylist(refs)))
    assert sorted(tuple(leak)[1:] for leak in found) == [
        ("a1 in train", "b1 in test"),
        ("s1 in test", "t1 in train"),
    ]


def test_the_table_in_the_module_names_every_gate():
    names = {"verify", "rejected", "leakage", "drift.mean", "drift.std", "drift.jensen_shannon_divergence"}
    assert all(f"\n{name} " in gates.__doc__ for name in names)
    assert "\npatches, patches_per_label " in gates.__doc__
    assert set(Gates.model_fields) == {"verify", "rejected", "patches", "patches_per_label", "drift", "leakage"}


# A real build from here on.


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(pixels))


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for number in range(12):
        write_png(root / f"{'ab'[number % 2]}/{number}.png", rng.integers(0, 200, (40, 40, 3)).astype(np.uint8))
    return root


STRICT = {"gates": {"verify": True, "patches": {"min": 0.5}, "drift": {"mean": 0.01}}}


def test_a_version_that_is_held_back_is_complete_and_can_be_published_anyway(images, tmp_path):
    config = configure(images, tmp_path / "out", **STRICT)
    out, first = config.output.path, run(config)
    assert [verdict.passed for verdict in first.manifest.gates] == [True, True, True]
    write_png(images / "a/99.png", np.full((200, 200, 3), 255, np.uint8))
    (images / "a/0.png").unlink()
    with pytest.raises(HeldBackError) as caught:
        run(config)
    name = caught.value.manifest.version
    assert str(caught.value).startswith(f"{name} is complete, and held back:\n  drift.mean: moved too far: t")
    assert str(caught.value).endswith(
        f"\n{first.manifest.version} stays published; patchbeam publish {out} {name} publishes it anyway"
    )
    assert lifecycle.latest(out) == first.version
    held_back = open_dataset(out, name)
    assert verify(held_back, 2) == []
    assert [verdict.gate for verdict in held_back.manifest.gates if not verdict.passed] == ["drift.mean"]
    assert version_table(out).endswith("held back: drift.mean")

    with pytest.raises(HeldBackError) as again:  # nothing is built again, and nothing forgotten
        run(config)
    assert (caught.value.built, again.value.built) == (True, False)
    assert [summary.version.name for summary in history.list_versions(out)] == [first.manifest.version, name]

    with lease.hold(out) as held:
        lifecycle.publish(Version(out, name), held, by="publish")
    assert run(config).unchanged


def test_gates_that_are_loosened_let_a_version_pass_without_building_it_again(images, tmp_path):
    config = configure(images, tmp_path / "out", **STRICT)
    run(config)
    write_png(images / "a/99.png", np.full((200, 200, 3), 255, np.uint8))
    with pytest.raises(HeldBackError) as caught:
        run(config)
    passed = run(configure(images, tmp_path / "out", gates={"drift": {"mean": 10}}))
    assert not passed.built
    assert passed.manifest.version == caught.value.manifest.version
    assert passed.version == lifecycle.latest(config.output.path)
    assert [(verdict.gate, verdict.passed) for verdict in passed.manifest.gates] == [("drift.mean", True)]
    assert open_dataset(config.output.path).manifest == passed.manifest


def test_a_build_that_died_before_the_gates_is_asked_by_the_next_one(images, tmp_path, monkeypatch):
    config = configure(images, tmp_path / "out", **STRICT)
    run(config)
    write_png(images / "a/99.png", np.full((200, 200, 3), 255, np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.dataset.gates.judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    _, version = lifecycle.complete_versions(config.output.path)
    assert open_dataset(config.output.path, version.name).manifest.gates == ()
    with pytest.raises(HeldBackError):
        run(config)


def test_damage_is_found_before_publishing(images, tmp_path):
    found = run(configure(images, tmp_path / "out"))
    dataset = open_dataset(found.folder)
    storage.write_bytes(f"{dataset.folder}/work/build.json", b"{}")  # of a build that goes on
    assert verdicts(dataset, None, verify=True)["verify"].passed
    shard = f"{dataset.folder}/{shard_file(dataset.shards('train')[0])}"
    with open(shard, "r+b") as file:
        file.seek(100)
        file.write(b"damage")
    verdict = verdicts(dataset, None, verify=True)["verify"]
    assert not verdict.passed
    assert "problems: patches-train.tfrecord-00000-of" in verdict.sentence


def test_images_that_look_alike_in_two_splits(tmp_path):
    """Photographs, each also saved again at half the size: in the same split they may be, in another not."""
    root, photos = tmp_path / "images", sorted((SAMPLES / "photos").glob("*.*g"))
    for number, path in enumerate(photos):
        image = Image.open(path).convert("RGB")
        image.thumbnail((900, 900))
        write_png(root / f"{number}.png", np.asarray(image))
        saved = io.BytesIO()
        image.resize((image.width // 2, image.height // 2)).save(saved, "jpeg", quality=80)
        (root / f"{number}-again.jpg").write_bytes(saved.getvalue())
    write_png(root / "blank.png", np.full((70, 70, 3), 9, np.uint8))
    rows = [(f"{n}.png", "train") for n in range(len(photos))]
    rows += [(f"{n}-again.jpg", "test" if n % 2 else "train") for n in range(len(photos))]
    rows.append(("blank.png", "train"))
    lines = ["uri,group,split", *(f"{name},{name},{split}" for name, split in rows)]
    (root / "m.csv").write_text("\n".join(lines))
    config = configure(
        root,
        tmp_path / "out",
        input={"images": [], "manifest": str(root / "m.csv")},
        patch={"size": 64, "stride": 48},
        splits={"train": 0.5, "test": 0.5},
        augment={"flip": True, "brightness": 0.3, "copies": 1},
        gates={"leakage": "perceptual"},
    )
    with pytest.raises(HeldBackError) as caught:
        run(config)
    (verdict,) = caught.value.manifest.gates
    assert verdict.measured == {"leaks": len(photos) // 2}
    assert "looks alike: 1.png in train and 1-again.jpg in test" in verdict.sentence
    assert verdict.sentence.endswith("; 1 images show too little in their patches to be compared")
    assert verdicts(open_dataset(str(tmp_path / "out"), caught.value.manifest.version), None, leakage="exact")[
        "leakage"
    ].passed
