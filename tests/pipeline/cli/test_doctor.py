"""What the doctor says of healthy and unhealthy machines."""

import importlib.metadata
import shutil

import pytest
import tensorflow as tf

from pipeline.cli import doctor
from pipeline.errors import Unreadable
from pipeline.runners import flink
from transforms.encoding import encode_patch


def findings(config=None):
    return {f.subject: f for f in doctor.examine(config)}


def test_a_healthy_machine_passes_every_check(tmp_path, make_config):
    (tmp_path / "a.png").write_bytes(b"x")
    config = make_config(input={"images": str(tmp_path / "*.png")}, output={"path": str(tmp_path / "out")})
    found = findings(config)
    assert {"python", "packages", "codecs", "decoder", "java", "device", "input", "output", "disk"} == found.keys()
    assert [f for f in found.values() if f.status == "FAIL"] == []
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_and_an_old_package_are_named_with_what_is_needed(monkeypatch):
    version = importlib.metadata.version

    def other(name):
        if name == "imagecodecs":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    found = findings()["packages"]
    assert found.status == "FAIL"
    assert "imagecodecs missing, needed >=" in found.text and "numpy 1.0, needed >=2" in found.text
    assert "requirements.lock" in found.text


def test_a_decoder_that_does_not_start_or_reads_nonsense_fails(monkeypatch):
    def broken(*_):
        raise Unreadable("missing_extra", "does not start")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.readers.isolated.open_isolated", broken)
        found = findings()["decoder"]
    assert (found.status, found.text) == ("FAIL", "does not start; what it printed stands above")
    monkeypatch.setattr("transforms.encoding.encode_patch", lambda patch, kind: encode_patch(patch[::-1], kind))
    assert findings()["decoder"].status == "FAIL"


def test_missing_java_is_a_note_only(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = findings()["java"]
    assert (found.status, "apt-get install" in found.text) == ("note", True)


def test_a_gpu_that_is_asked_for_and_not_there_fails(monkeypatch, make_config, tmp_path):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    config = make_config(workers={"device": "gpu"}, output={"path": str(tmp_path)})
    assert findings(config)["device"].status == "FAIL"
    assert findings()["device"].status == "ok"


def test_an_input_without_images_and_an_output_that_cannot_be_written_fail(make_config, tmp_path):
    (tmp_path / "file").write_text("")
    config = make_config(input={"images": str(tmp_path / "*.png")}, output={"path": str(tmp_path / "file/out")})
    found = findings(config)
    assert found["input"].status == found["output"].status == "FAIL"
    assert "matches no file" in found["input"].text
    assert "disk" not in found


@pytest.mark.parametrize("free", [5 * 10**9, 50 * 10**9])
def test_a_nearly_full_disk_is_noted(monkeypatch, make_config, tmp_path, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**12, 0, free))
    config = make_config(output={"path": str(tmp_path)})
    assert findings(config)["disk"].status == ("note" if free < 10**10 else "ok")


def test_the_flink_of_the_configuration_is_asked(make_config, tmp_path, monkeypatch):
    facts = {"flink-version": "1.19.3", "slots-available": 2, "slots-total": 3}
    monkeypatch.setattr(flink, "cluster_overview", lambda master: facts)
    beam = {"runner": "FlinkRunner", "flink_master": "jobs:8081"}
    found = lambda beam: findings(make_config(beam=beam, output={"path": str(tmp_path)})).get("flink")
    assert found(beam).status == "ok" and "1.19.3 at jobs:8081, 2 of 3 slots free" in found(beam).text
    assert found({}) is None
    lost = found(beam | {"flink_job_server_jar": "/no/such.jar"})
    assert lost.status == "FAIL" and "/no/such.jar does not exist; make it with 'mvn" in lost.text
    monkeypatch.undo()
    silent = found(beam | {"flink_master": "127.0.0.1:9"})
    assert silent.status == "FAIL" and "no Flink answers at http://127.0.0.1:9 (Connection refused)" in silent.text
