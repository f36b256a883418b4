"""Beam's options are checked, and the local runner uses all cores unless told otherwise."""

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.worker import data_plane
from apache_beam.testing.util import assert_that, equal_to

from pipeline.errors import ConfigError
from pipeline.runners.flink import FlinkRunner
from pipeline.runners.options import parse_options, runs_locally, threads_per_process
from pipeline.runners.run import make_runner


@pytest.fixture(autouse=True)
def six_cores(monkeypatch):
    monkeypatch.setattr("pipeline.runners.options.cores", lambda: 6)


def facts(*flags):
    """(runner, workers, mode) of the options."""
    options = parse_options(list(flags))
    direct = options.view_as(DirectOptions)
    return options.view_as(StandardOptions).runner, direct.direct_num_workers, direct.direct_running_mode


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("FnApiRunner", 6, "multi_threading")),
        (["--runner=DirectRunner"], ("FnApiRunner", 6, "multi_threading")),
        (["--runner", "FnApiRunner"], ("FnApiRunner", 6, "multi_threading")),
        (["--direct_num_workers=3"], ("FnApiRunner", 3, "multi_threading")),
        (["--direct_num_workers", "3"], ("FnApiRunner", 3, "multi_threading")),
        (["--direct_num_workers=1"], ("FnApiRunner", 1, "in_memory")),
        (["--direct_running_mode=multi_processing"], ("FnApiRunner", 6, "multi_processing")),
        (["--direct_running_mode", "in_memory"], ("FnApiRunner", 6, "in_memory")),
        (["--direct_num_workers=1", "--direct_running_mode=multi_threading"], ("FnApiRunner", 1, "multi_threading")),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], ("FnApiRunner", 2, "multi_processing")),
        (["--runner=FlinkRunner"], ("FlinkRunner", 1, "in_memory")),
        (["--runner=DataflowRunner"], ("DataflowRunner", 1, "in_memory")),
    ],
)
def test_the_runner_and_its_workers(flags, expected):
    assert facts(*flags) == expected


def test_other_options_are_kept():
    options = parse_options(
        ["--runner=PortableRunner", "--job_endpoint=here:8099", "--environment_type=LOOPBACK", "--experiments=a",
         "--experiments=b", "--streaming"]
    )  # fmt: skip
    all_options = options.get_all_options(drop_default=True)
    assert all_options["experiments"] == ["a", "b"]
    assert options.view_as(PortableOptions).job_endpoint == "here:8099"
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK"
    assert options.view_as(StandardOptions).streaming is True


@pytest.mark.parametrize(
    ("flags", "configured", "expected"),
    [
        ([], {"direct_num_workers": 2}, {"direct_num_workers": 2, "direct_running_mode": "multi_threading"}),
        ([], {"direct_num_workers": 1}, {"direct_num_workers": 1, "direct_running_mode": "in_memory"}),
        (["--direct_num_workers=5"], {"direct_num_workers": 2}, {"direct_num_workers": 5}),
        (["--direct_num_workers", "5"], {"direct_num_workers": 2}, {"direct_num_workers": 5}),
        ([], {"direct_running_mode": "multi_processing"}, {"direct_running_mode": "multi_processing"}),
        ([], {"experiments": ["a", "b"]}, {"experiments": ["a", "b"]}),
        (["--experiments=c"], {"experiments": ["a", "b"]}, {"experiments": ["c"]}),
        ([], {"streaming": True, "job_name": "a b"}, {"streaming": True, "job_name": "a b"}),
        ([], {"streaming": False}, {"streaming": False}),
        (["--streaming"], {"job_name": "x"}, {"streaming": True, "job_name": "x"}),
        ([], {"runner": "FlinkRunner", "parallelism": 3}, {"runner": "FlinkRunner", "parallelism": 3}),
        (["--runner=FlinkRunner"], {"runner": "DataflowRunner"}, {"runner": "FlinkRunner"}),
    ],
)
def test_options_of_the_configuration_hold_unless_the_command_line_gives_them_too(flags, configured, expected):
    options = parse_options(flags, configured).get_all_options()
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"no_such": 3}, "--no_such=3: not known to Beam; see patchbeam build --help"),
        ({"no_such": True}, "--no_such: not known to Beam; see patchbeam build --help"),
        ({"direct_num": 3}, "--direct_num=3: not known to Beam; see patchbeam build --help"),
        ({"direct_num_workers": "two"}, "argument --direct_num_workers: invalid int value: 'two'"),
    ],
)
def test_a_wrong_option_of_the_configuration_is_named(configured, message):
    with pytest.raises(ConfigError) as caught:
        parse_options([], configured)
    assert str(caught.value) == f"Beam options: {message}"


def test_an_option_that_beam_does_not_know_is_named_also_when_it_is_false():
    with pytest.raises(ConfigError, match="no_such"):
        parse_options([], {"no_such": False})


def test_false_switches_off_what_beam_has_a_flag_for_to_switch_off():
    options = parse_options([], {"runner": "DataflowRunner", "use_public_ips": False})
    assert options.view_as(WorkerOptions).use_public_ips is False  # Beam's flag is --no_use_public_ips


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--no_such_flag"], "--no_such_flag"),
        (["--no_such_flag=3"], "--no_such_flag=3"),
        (["--no_such_flag", "3"], "--no_such_flag 3"),
        (["--direct_num=2"], "--direct_num=2"),
        (["--direct_num_worker=2"], "--direct_num_worker=2"),
        (["--run=DirectRunner"], "--run=DirectRunner"),
        (["direct_num_workers=2"], "direct_num_workers=2"),
        (["--foo", "--direct_num_workers=2", "--bar=1"], "--foo --bar=1"),
        (["-x"], "-x"),
    ],
)
def test_flags_that_beam_does_not_know_are_named_also_abbreviations(flags, named):
    with pytest.raises(ConfigError) as caught:
        parse_options(flags)
    assert str(caught.value) == f"Beam options: {named}: not known to Beam; see patchbeam build --help"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--direct_num_workers=two", "argument --direct_num_workers: invalid int value: 'two'"),
        ("--direct_num_workers", "argument --direct_num_workers: expected one argument"),
        ("--direct_running_mode=fast", "argument --direct_running_mode: invalid choice: 'fast'"),
    ],
)
def test_a_wrong_value_of_a_flag_is_named(flag, message):
    with pytest.raises(ConfigError) as caught:
        parse_options([flag])
    assert str(caught.value).startswith(f"Beam options: {message}")


@pytest.mark.parametrize("name", ["directrunner", "direct", "fnapirunner"])
def test_every_spelling_that_beam_takes_for_the_local_runner_is_local(name):
    assert facts(f"--runner={name}") == ("FnApiRunner", 6, "multi_threading")


def test_a_runner_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="NonsenseRunner"):
        parse_options(["--runner=NonsenseRunner"])


@pytest.mark.parametrize(
    ("flags", "local"),
    [
        ([], True),
        (["--runner=DirectRunner"], True),
        (["--runner=FlinkRunner"], False),
        (["--runner=SparkRunner"], False),
    ],
)
def test_only_the_local_runner_is_local(flags, local):
    assert runs_locally(parse_options(flags)) == local


def test_options_without_a_runner_are_local():
    assert runs_locally(PipelineOptions([]))


def test_the_runner_is_an_object_where_it_is_local_and_a_name_where_not():
    assert type(make_runner(parse_options([]))) is FnApiRunner
    assert type(make_runner(parse_options(["--runner=FlinkRunner"]))) is FlinkRunner
    assert make_runner(parse_options(["--runner=DataflowRunner"])) == "DataflowRunner"


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ([], 6),
        (["--direct_num_workers=2"], 6),  # threads of one process
        (["--direct_num_workers=1"], 6),
        (["--direct_running_mode=multi_processing"], 1),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], 3),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=4"], 1),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=40"], 1),
        (["--runner=FlinkRunner"], None),
    ],
)
def test_threads_are_shared_among_the_processes_of_this_machine(flags, threads):
    assert threads_per_process(parse_options(flags)) == threads


def test_zero_workers_are_one_for_every_core():
    options = parse_options(["--direct_num_workers=0", "--direct_running_mode=multi_processing"])
    assert threads_per_process(options) == 1


def test_no_thread_sends_what_another_is_writing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a stream that a timer sends, also in the middle of an element")

    monkeypatch.setattr(data_plane.TimeBasedBufferingClosableOutputStream, "__init__", fail)
    options = parse_options(["--direct_num_workers=2"])
    with beam.Pipeline(runner=make_runner(options), options=options) as p:
        assert_that(p | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(lambda n: -n), equal_to([-1, -2, -3]))
