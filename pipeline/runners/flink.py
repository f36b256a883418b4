"""A build on a Flink cluster: the options that Beam's FlinkRunner needs, and a runner that watches its jobs.

Beam submits the pipeline inside a jar over Flink's REST interface. This runner asks every second, rather than up to
once a minute, whether the job has ended, tolerates a JobManager that does not answer for a while, can cancel the job,
and says why a failed job failed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import requests
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import flink_runner
from apache_beam.runners.portability.flink_uber_jar_job_server import FlinkBeamJob, FlinkUberJarJobServer

from pipeline.errors import ClusterError

WORKER = "patchbeam-flink-worker"
_POLL_S = 1.0
_SILENCE_S = 120.0  # a JobManager that restarts needs some seconds


def complete_options(options: PipelineOptions, given: set[str]) -> None:
    """Fills in the options that a build on Flink needs and that were not given.

    On a cluster: submission over REST, the version of Flink and the number of free slots that the cluster reports, and
    worker processes that the TaskManagers start. Without a master Beam starts a small Flink of its own on this machine.

    Args:
        options: Beam's options; changed in place.
        given: names of the options that were given, which are not changed.

    Raises:
        ClusterError: if no cluster answers, or there is no Java for a Flink on this machine.
    """
    flink, portable = options.view_as(FlinkRunnerOptions), options.view_as(PortableOptions)
    if flink.flink_master in flink_runner.MAGIC_HOST_NAMES:
        if not shutil.which("java"):
            raise ClusterError(
                "Beam options: --flink_master is not given, and there is no java on the PATH for a Flink on this "
                "machine; name a cluster with --flink-master HOST:PORT, or install Java 11 or 17"
            )
        return
    cluster = cluster_overview(flink.flink_master)
    flink.flink_submit_uber_jar = True
    if "flink_version" not in given:
        flink.flink_version = ".".join(cluster["flink-version"].split(".")[:2])
    if "parallelism" not in given:
        flink.parallelism = max(1, cluster["slots-available"] or cluster["slots-total"])
    if "environment_type" not in given:
        portable.environment_type = "PROCESS"
        if "environment_options" not in given:
            portable.environment_options = [f"process_command={worker_command()}"]


def cluster_overview(master: str) -> dict[str, Any]:
    """Returns what the cluster at ``host:port`` reports: ``flink-version``, ``taskmanagers``, ``slots-available`` ...

    Raises:
        ClusterError: if nothing answers there, or something other than Flink.
    """
    url = flink_runner.FlinkRunner.add_http_scheme(master)
    try:
        answer = requests.get(f"{url}/overview", timeout=10)
        answer.raise_for_status()
        cluster = answer.json()
        if "flink-version" not in cluster:
            raise ValueError("it does not tell a version of Flink")
    except (requests.RequestException, ValueError) as error:
        raise ClusterError(
            f"Beam options: no Flink answers at {url} ({_short(error)}); --flink-master takes HOST:PORT of the REST "
            "interface, the page of Flink"
        ) from error
    found: dict[str, Any] = cluster
    return found


def worker_command() -> str:
    """Returns the executable that starts a Python worker: the one next to this Python; TaskManagers need it, too."""
    installed = os.path.join(os.path.dirname(sys.executable), WORKER)
    return installed if os.path.exists(installed) else WORKER


def _short(error: Exception) -> str:
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return found[1] if found else str(error).splitlines()[0][:200]


class FlinkRunner(flink_runner.FlinkRunner):
    """Beam's runner with jobs that can be watched and cancelled."""

    def default_job_server(self, options: PipelineOptions) -> Any:
        flink = options.view_as(FlinkRunnerOptions)
        if not flink.flink_submit_uber_jar or flink.flink_master in flink_runner.MAGIC_HOST_NAMES:
            return super().default_job_server(options)
        master = self.add_http_scheme(flink.flink_master)
        flink.flink_master = "[auto]"  # inside the cluster it is found automatically, as in Beam's runner
        return _JobServer(master, options)


class _JobServer(FlinkUberJarJobServer):
    def create_beam_job(self, job_id: str, job_name: str, pipeline: Any, options: Any) -> FlinkBeamJob:
        jar, port = self.executable_jar(), self._artifact_port
        return _Job(self._master_url, jar, job_id, job_name, pipeline, options, artifact_port=port)

    def executable_jar(self) -> Any:
        try:
            return super().executable_jar()
        except Exception as error:  # the download failed, or a path does not exist
            raise ClusterError(
                f"Beam options: Beam's Flink runner, a jar, cannot be had ({_short(error)}); make one with 'mvn -f "
                "deploy/flink/pom.xml package', and name it behind two dashes: -- --flink_job_server_jar=PATH"
            ) from error


class _Job(FlinkBeamJob):
    def cancel(self) -> None:
        self.request(requests.patch, f"v1/jobs/{self._flink_job_id}?mode=cancel", expected_status=202, timeout=30)
        self.delete_jar()

    def get_state_stream(self) -> Iterator[Any]:
        silent_since = None
        last = None
        while True:
            try:
                state, timestamp = self.get_state()
                silent_since = None
            except requests.RequestException as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _SILENCE_S:
                    raise RuntimeError(
                        f"Flink at {self._master_url} has not answered for {_SILENCE_S:.0f} s ({_short(error)}), and "
                        f"its job {self._flink_job_id} may go on"
                    ) from error
            else:
                if state != last:
                    yield state, timestamp
                last = state
                if self.is_terminal_state(state):
                    return
            time.sleep(_POLL_S)

    def get_message_stream(self) -> Iterator[Any]:
        for state, timestamp in self.get_state_stream():
            if state == beam_job_api_pb2.JobState.FAILED:
                yield beam_job_api_pb2.JobMessage(
                    message_id="root",
                    time=str(timestamp),
                    importance=beam_job_api_pb2.JobMessage.MessageImportance.JOB_MESSAGE_ERROR,
                    message_text=root_cause(self.get(f"v1/jobs/{self._flink_job_id}/exceptions").get("root-exception")),
                )
            yield state, timestamp


def root_cause(trace: str | None) -> str:
    """Returns the line of a Java stack trace that says why: the error of the Python worker where there is one.

    >>> root_cause("org.apache.flink.X: failed\\n\\tat a.b\\nCaused by: java.io.IOException: Cannot run program")
    'java.io.IOException: Cannot run program'
    """
    lines = (trace or "Flink does not say why").splitlines()
    python = [line for line in lines if re.match(r"[\w.]+: .*\[while running ", line)]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (python or causes or lines)[-1]
