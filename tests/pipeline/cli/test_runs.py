"""Every run leaves its line, whatever became of it; metrics are what Prometheus reads; no shell runs the command."""

import concurrent.futures
import datetime
import json
import re
import sys

import click
import pytest
from helpers import REPO, make_manifest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import storage
from pipeline.cli import runs
from pipeline.cli.exits import explain
from pipeline.cli.prometheus import format_metrics
from pipeline.cli.runs import Notify, read_runs, recorded
from pipeline.errors import (
    BusyError,
    ConfigError,
    Exit,
    HeldBackError,
    JobFailedError,
    LeaseLostError,
    TooManyRejectedError,
    WithdrawnError,
)

GATES = [
    {"gate": "drift.mean", "passed": False, "sentence": "far", "measured": {"train/channel_0": 0.25}},
    {"gate": "verify", "passed": True, "sentence": "whole", "measured": {"problems": 0}},
]
MANIFEST = make_manifest(
    accounts={"images": 5, "images_rejected": 1, "rejected": 3, "written": 40},
    splits={"train": {"patches": 30}, "test": {"patches": 10}},
    counters={"images_opened": 2, "pixels_decoded": 99, "records_copied": 7},
    gates=GATES,
)
ERRORS = [
    (TooManyRejectedError("x", MANIFEST.accounts, MANIFEST.counters), Exit.REJECTED, "rejected"),
    (HeldBackError("x", MANIFEST), Exit.HELD, "held"),
    (WithdrawnError("x"), Exit.HELD, "held"),
    (ConfigError("x"), Exit.USAGE, "usage"),
    (BusyError("x"), Exit.BUSY, "busy"),
    (LeaseLostError("x"), Exit.BUSY, "busy"),
    (JobFailedError("x"), Exit.FAILED, "failed"),
    (OSError(28, "No space left on device"), Exit.FAILED, "failed"),
    (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
    (ZeroDivisionError("a bug"), Exit.FAILED, "failed"),
]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out/versions/one").mkdir(parents=True)
    return str(tmp_path / "out")


def record(out, error=None, unchanged=False, **notify_how):
    """A run that ends like this; its line."""
    try:
        with recorded("build", Notify(**notify_how)) as run:
            run.output = out
            if error:
                raise error
            run.manifest, run.unchanged, run.built = MANIFEST, unchanged, not unchanged
    except BaseException as raised:
        assert raised is error
    return read_runs(out)[-1]


@pytest.mark.parametrize(("error", "code", "outcome"), ERRORS)
def test_every_ending_has_its_line(out, error, code, outcome):
    line = record(out, error)
    assert (line["exit_code"], line["outcome"]) == (code, outcome)
    assert line["reason"]
    assert line["version"] == (MANIFEST.version if isinstance(error, HeldBackError) else None)
    if isinstance(error, TooManyRejectedError):
        assert (line["images"], line["images_rejected"], line["counters"]) == (5, 1, MANIFEST.counters)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["started"])
    assert line["started"] <= line["ended"]


def test_what_was_published_and_what_it_cost(out):
    line = record(out)
    assert (line["exit_code"], line["outcome"], line["reason"]) == (0, "published", None)
    assert (line["images"], line["images_rejected"], line["rejected"]) == (5, 1, 3)
    assert line["patches"] == {"train": 30, "test": 10}
    assert line["counters"] == MANIFEST.counters
    assert line["gates"] == GATES
    line = record(out, unchanged=True)
    assert (line["outcome"], line["counters"], line["images"]) == ("unchanged", {}, 5)
    assert [run["outcome"] for run in read_runs(out)] == ["published", "unchanged"]


def test_errors_of_the_program_show_their_traceback_and_others_a_sentence():
    assert [explain(error)[1] is None for error, _, _ in ERRORS] == [False] * 9 + [True]
    assert explain(click.BadParameter("no")) == (Exit.USAGE, "Invalid value: no")


def test_what_an_earlier_run_did_is_not_counted_again(out):
    with pytest.raises(HeldBackError), recorded("build", Notify()) as run:
        run.output = out
        raise HeldBackError("x", MANIFEST, built=False)
    (line,) = read_runs(out)
    assert (line["version"], line["counters"]) == (MANIFEST.version, {})


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_no_dataset_is_left_alone(tmp_path, there):
    if there:
        (tmp_path / "typo").mkdir()
    with pytest.raises(ConfigError), recorded("build", Notify()) as run:
        run.output = str(tmp_path / "typo")
        raise ConfigError("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["typo"] * there


def test_a_line_that_was_cut_costs_itself(out, tmp_path):
    storage.write_bytes(f"{out}/runs.jsonl", b'{"command": "bui')
    record(out, metrics_file=str(tmp_path / "m.prom"))
    assert [run["outcome"] for run in read_runs(out)] == ["published"]
    assert len(storage.read_bytes(f"{out}/runs.jsonl").splitlines()) == 2
    assert (tmp_path / "m.prom").exists()


def test_runs_that_end_at_the_same_time_lose_no_line(out):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: runs.add({"output": out, "number": number}), range(40)))
    assert sorted(run["number"] for run in read_runs(out)) == list(range(40))


def test_what_cannot_be_written_or_run_is_a_warning(out, capfd):
    storage.write_bytes(f"{out}/file", b"")
    line = record(out, metrics_file=f"{out}/file/x.prom", notify=["sh", "-c", "exit 7", "a secret"])
    assert line["exit_code"] == 0
    warned = capfd.readouterr().err
    assert "patchbeam: warning: " in warned
    assert "x.prom" in warned
    assert warned.endswith("patchbeam: warning: --notify-command sh: ended with 7\n")


def test_the_command_gets_the_line_and_no_shell(out, tmp_path):
    program = "import sys, json; json.dump([sys.argv[1:], json.load(sys.stdin)], open(sys.argv[1], 'w'))"
    told = str(tmp_path / "told.json")
    line = record(out, BusyError("later"), notify=[sys.executable, "-c", program, told, "; touch $HOME", "*"])
    arguments, entry = json.loads(storage.read_bytes(told))
    assert arguments == [told, "; touch $HOME", "*"]
    assert entry == line


def metrics(text):
    """name -> {labels but the output: value}, by the parser of Prometheus' own client."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "output")
            assert "output" in sample.labels
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_metrics_are_what_prometheus_reads(out, tmp_path):
    path = tmp_path / "patchbeam.prom"
    line = record(out, metrics_file=str(path))
    found = metrics(path.read_text())
    assert found["patchbeam_last_run_exit_code"] == {(): 0}
    assert found["patchbeam_patches"] == {("train",): 30, ("test",): 10}
    assert found["patchbeam_images_opened"] == {(): 2}
    assert found["patchbeam_gate_passed"] == {("drift.mean",): 0, ("verify",): 1}
    assert found["patchbeam_gate_measured"] == {("drift.mean", "train/channel_0"): 0.25, ("verify", "problems"): 0}
    assert found["patchbeam_last_run_duration_seconds"] == {(): line["seconds"]}
    success = found["patchbeam_last_success_timestamp_seconds"]
    assert success == found["patchbeam_last_run_timestamp_seconds"]


def test_the_last_success_stays_when_a_run_fails(out, tmp_path):
    success = record(out)
    for error in (BusyError("x"), ZeroDivisionError("y")):
        record(out, error, metrics_file=str(tmp_path / "m.prom"))
    found = metrics((tmp_path / "m.prom").read_text())
    assert found["patchbeam_last_run_exit_code"] == {(): 1}
    assert "patchbeam_patches" not in found
    expected = datetime.datetime.fromisoformat(success["ended"]).timestamp()
    assert found["patchbeam_last_success_timestamp_seconds"] == {(): expected}


def test_a_configuration_that_is_wrong_is_told_too(tmp_path):
    path = tmp_path / "m.prom"
    with pytest.raises(ConfigError), recorded("build", Notify(str(path))):
        raise ConfigError("x")
    found = metrics(path.read_text())
    assert found["patchbeam_last_run_exit_code"] == {(): 64}
    assert found["patchbeam_last_success_timestamp_seconds"] == {(): 0}  # old enough for an alert


def test_the_document_names_every_metric_and_every_key(out):
    document = (REPO / "docs/gates.md").read_text(encoding="utf-8")
    line = record(out)
    families = text_string_to_metric_families(format_metrics(line, line))
    names = [family.name.removeprefix("patchbeam_") for family in families]
    assert len(names) == 13
    assert [name for name in (*names, *line) if not re.search(rf"`{name}[`{{]", document)] == []


def test_labels_are_escaped():
    with recorded("build", Notify()) as run:
        run.output = 'a"b\\c\nd'
    (family, *_) = text_string_to_metric_families(format_metrics(runs.describe(run, None), None))
    assert family.samples[0].labels == {"output": 'a"b\\c\nd'}
