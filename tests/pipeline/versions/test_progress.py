"""How far a build is, told from the storage alone."""

import json

import pytest
from helpers import make_manifest

from pipeline.cli.progress_bar import describe_output
from pipeline.versions import lease, lifecycle
from pipeline.versions.manifest import write_manifest
from pipeline.versions.progress import Progress, Receipts, read_progress

NAME = "20250101T000000Z-abababab"


@pytest.fixture
def building(tmp_path):
    """``write(path, value)`` into a version that is being built, and its folder."""
    folder = tmp_path / "versions" / NAME

    def write(path, value):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(value))

    write("work/build.json", {"content_digest": "ab" * 32})
    return str(tmp_path), str(folder), write


def test_before_the_plan_there_is_nothing_to_tell(building):
    out, folder, _ = building
    assert read_progress(Receipts(folder), f"{folder}/work", 1.0) is None
    assert describe_output(out) == f"published nothing yet\nbuilding  {NAME}: the images are being inspected"


def test_shards_patches_and_rejections_come_from_receipts_which_are_read_once(building, monkeypatch):
    out, folder, write = building
    write("work/plan.json", {"train": {"shards": 4}, "test": {"shards": 2}})
    receipts = Receipts(folder)
    for number in range(3):
        write(f"receipts/train-{number}.json", {"records": 10 + number, "rejected": [{}] * number})
    assert read_progress(receipts, f"{folder}/work", 2.0) == Progress(3, 6, 33, 3, 2.0)
    write("receipts/train-0.json", {"records": 10_000, "rejected": []})  # is not read again
    write("receipts/.tmp-train-3.json", {"half": "of it"})
    write("receipts/test-0.json", {"records": 5, "rejected": []})
    assert read_progress(receipts, f"{folder}/work", 3.0) == Progress(4, 6, 38, 3, 3.0)
    assert describe_output(out) == f"published nothing yet\nbuilding  {NAME}: 4 of 6 shards, 10,028 patches, 3 rejected"


def test_what_is_published_is_told_beside_what_is_being_built(building, tmp_path):
    out, _, _ = building
    version, _ = lifecycle.begin(out, "ab" * 32, "ab" * 32)
    write_manifest(version.folder, make_manifest(version=version.name))
    with lease.hold(out) as held:
        lifecycle.publish(version, held)
    assert describe_output(out) == f"published {NAME}\nbuilding  nothing"
