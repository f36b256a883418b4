"""A build on Flink: options that complete themselves, jobs that are watched and cancelled, errors that say why.

The other side is as much of Flink's REST interface as is asked for; ``./run_local.sh flink`` runs the real one.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
import types

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2

from pipeline import errors
from pipeline.errors import JobFailedError, UsageError
from pipeline.runners import flink
from pipeline.runners.flink import cluster_overview, complete_options, root_cause
from pipeline.runners.options import option_names, parse_options
from pipeline.runners.run import make_runner, run_to_end

STATE = beam_job_api_pb2.JobState
OVERVIEW = {"flink-version": "1.19.3", "taskmanagers": 3, "slots-total": 6, "slots-available": 5}


class _Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self):
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        status, value = self.server.answers(self.command, self.path)  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

    do_GET = do_PATCH = do_DELETE = _answer

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on 127.0.0.1 whose ``answers(method, path) -> (status, value)`` the test sets."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.asked, running.answers = [], lambda method, path: (200, OVERVIEW)  # type: ignore[attr-defined]
        running.master = f"127.0.0.1:{running.server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def completed(server, *flags):
    flags = ["--runner=FlinkRunner", f"--flink_master={server.master}", *flags]
    options = parse_options(flags)
    complete_options(options, option_names(flags))
    return options.view_as(FlinkRunnerOptions), options.view_as(PortableOptions)


def test_a_cluster_tells_its_version_and_its_free_slots_and_starts_our_workers(server):
    options, portable = completed(server)
    assert options.flink_submit_uber_jar
    assert (options.flink_version, options.parallelism) == ("1.19", 5)
    assert portable.environment_type == "PROCESS"
    (command,) = portable.environment_options
    assert command.endswith("/bin/patchbeam-flink-worker")


def test_what_was_given_stays(server):
    pool = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]
    options, portable = completed(server, "--parallelism=1", "--flink_version=1.20", *pool)
    assert (options.flink_version, options.parallelism) == ("1.20", 1)
    assert (portable.environment_type, portable.environment_config) == ("EXTERNAL", "localhost:50000")
    _, portable = completed(server, "--environment_options=process_command=/opt/worker")
    assert portable.environment_options == ["process_command=/opt/worker"]


def test_a_busy_cluster_is_waited_for_with_all_its_slots(server):
    server.answers = lambda *_: (200, OVERVIEW | {"slots-available": 0})
    assert completed(server)[0].parallelism == 6


def test_without_a_master_flink_runs_on_this_machine_if_there_is_java(monkeypatch):
    flags = ["--runner=FlinkRunner"]
    options = parse_options(flags)
    monkeypatch.setattr(flink.shutil, "which", lambda name: "/usr/bin/java")
    complete_options(options, option_names(flags))
    assert not options.view_as(FlinkRunnerOptions).flink_submit_uber_jar
    monkeypatch.setattr(flink.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"no java on the PATH .* --flink-master HOST:PORT, or install Java"):
        complete_options(options, option_names(flags))


@pytest.mark.parametrize("answer", [(200, b"<html>"), (200, {"jobs": []}), (404, {})], ids=["page", "other", "404"])
def test_what_answers_and_is_no_flink_is_named(server, answer):
    server.answers = lambda *_: answer
    with pytest.raises(UsageError, match=rf"no Flink answers at http://{server.master} \(.+\); --flink-master takes"):
        cluster_overview(server.master)


def test_a_cluster_that_does_not_answer_is_said_in_one_sentence_by_the_command(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "c.yaml").write_text(f"input: {{images: '{tmp_path}/*.png'}}\noutput: {{path: {tmp_path}/out}}\n")
    command = [sys.executable, "-m", "patchbeam", "build", str(tmp_path / "c.yaml"), "--flink-master=127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 64
    assert re.fullmatch(
        r"patchbeam: Beam options: no Flink answers at http://127\.0\.0\.1:9 \(Connection refused\); .*\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_a_master_is_for_flink_only(tmp_path):
    command = [sys.executable, "-m", "patchbeam", "build", "c.yaml", "--runner=direct", "--flink-master=here:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 64 and "--flink-master is for --runner flink, not direct" in done.stderr


def test_a_jar_that_does_not_exist_is_named_with_the_way_out(server):
    options = parse_options(
        ["--runner=FlinkRunner", f"--flink_master={server.master}", "--flink_submit_uber_jar",
         "--flink_job_server_jar=/no/such.jar", "--flink_version=1.19"]
    )  # fmt: skip
    job_server = make_runner(options).default_job_server(options)
    with pytest.raises(
        UsageError, match=r"/no/such\.jar.*mvn -f deploy/flink/pom\.xml package.*--flink_job_server_jar="
    ):
        job_server.executable_jar()


@pytest.fixture
def job(server, monkeypatch):
    monkeypatch.setattr(flink, "_POLL_S", 0.01)
    made = flink._Job(f"http://{server.master}", "x.jar", "id", "name", None, PipelineOptions([]))
    made._flink_job_id, made._flink_jar_id, made._jar_uploaded = "f00", "jar", True
    return made


def states(*names):
    """Answers of a cluster whose job goes through these states and stays in the last."""
    left = list(names)

    def answer(method, path):
        if path == "/v1/jobs/f00/execution-result":
            state = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(state, int):
                return state, {}
            return 200, {"status": {"id": "COMPLETED" if state in ("FINISHED", "FAILED", "CANCELED") else state}}
        if path == "/v1/jobs/f00":
            return 200, {"state": left[0]}
        return 200, {
            "root-exception": "java.lang.X: outer\n\tat a\nCaused by: java.io.IOException: No space left\n\tat b"
        }

    return answer


def test_a_job_is_watched_to_its_end_and_its_jar_is_removed(server, job):
    server.answers = states("IN_PROGRESS", "IN_PROGRESS", "FINISHED")
    assert [state for state, _ in job.get_state_stream()] == [STATE.RUNNING, STATE.DONE]
    assert ("DELETE", "/v1/jars/jar") in server.asked


def test_a_failed_job_says_why(server, job):
    server.answers = states("FAILED")
    said = [each.message_text for each in job.get_message_stream() if not isinstance(each, tuple)]
    assert said == ["java.io.IOException: No space left"]


def test_cancelling_asks_flink_to_cancel_the_job(server, job):
    server.answers = lambda method, path: (202 if method == "PATCH" else 200, {})
    job.cancel()
    assert ("PATCH", "/v1/jobs/f00?mode=cancel") in server.asked


def test_a_job_manager_may_be_silent_for_a_while_but_not_for_ever(server, job, monkeypatch):
    monkeypatch.setattr(flink, "_SILENCE_S", 0.3)
    stream = job.get_state_stream()
    server.answers = states("IN_PROGRESS", "FINISHED")
    assert next(stream)[0] == STATE.RUNNING
    address, job._master_url = job._master_url, "http://127.0.0.1:9"
    threading.Timer(0.1, lambda: setattr(job, "_master_url", address)).start()
    assert next(stream)[0] == STATE.DONE
    server.answers = states("IN_PROGRESS")
    job._master_url = "http://127.0.0.1:9"
    with pytest.raises(
        RuntimeError, match=r"has not answered for 0 s \(Connection refused\), and its job f00 may go on"
    ):
        list(job.get_state_stream())


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        (None, "Flink does not say why"),
        ("java.lang.X: a\n\tat b", "\tat b"),
        ("a.B: x\nCaused by: c.D: y\n\tat e\nCaused by: f.G: z\n\tat h", "f.G: z"),
        (
            "a.B: x\nCaused by: java.lang.RuntimeException: Error received from SDK harness: Traceback\n"
            "RuntimeError: workers.device: gpu, but there is none [while running 'WriteShards/ParDo']\n"
            "\n\tat c",
            "RuntimeError: workers.device: gpu, but there is none [while running 'WriteShards/ParDo']",
        ),
    ],
)
def test_the_cause_of_a_failure_is_its_innermost_line(trace, cause):
    assert root_cause(trace) == cause


def pipeline_that(wait):
    result = types.SimpleNamespace(wait_until_finish=wait, cancel=lambda: cancelled.append(1))
    cancelled = []
    return types.SimpleNamespace(run=lambda: result), cancelled


def test_an_interrupted_build_cancels_its_job_on_a_cluster(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    remote = parse_options(["--runner=FlinkRunner"])
    p, cancelled = pipeline_that(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(p, remote)
    assert cancelled == [1]


def test_a_job_that_fails_is_an_error_of_one_sentence_and_what_fails_here_is_not_hidden():
    def fail():
        raise RuntimeError("no space left")

    p, cancelled = pipeline_that(fail)
    with pytest.raises(JobFailedError, match=r"no space left\nFinished shards are kept; the same command goes on"):
        run_to_end(p, parse_options(["--runner=FlinkRunner"]))
    with pytest.raises(RuntimeError) as caught:
        run_to_end(p, parse_options([]))
    assert not isinstance(caught.value, errors.JobFailedError)
    assert cancelled == []
