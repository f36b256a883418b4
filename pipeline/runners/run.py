"""Runs a pipeline on the runner that its options name."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.child_processes import children_without_current_folder
from pipeline.errors import JobFailedError
from pipeline.runners.options import is_flink, runs_locally


def make_runner(options: Any) -> Any:
    """Returns the runner that the options name."""
    from apache_beam.options.pipeline_options import StandardOptions

    if runs_locally(options):
        return local_runner(options)
    if is_flink(options):
        from pipeline.runners.flink import FlinkRunner

        return FlinkRunner()
    return options.view_as(StandardOptions).runner


def run_to_end(p: Any, options: Any) -> Any:
    """Runs a pipeline and returns its result; a job on a cluster is cancelled if the build is interrupted.

    Raises:
        JobFailedError: if a job on a cluster fails; errors on this machine are raised as they are.
    """
    if runs_locally(options):
        with children_without_current_folder():
            result = p.run()
            result.wait_until_finish()
        return result
    try:
        result = p.run()
        try:
            result.wait_until_finish()
        except KeyboardInterrupt:
            print("\npatchbeam: cancels the job ...", file=sys.stderr, flush=True)
            result.cancel()
            raise
    except RuntimeError as error:
        raise JobFailedError(f"{error}\nFinished shards are kept; the same command goes on from there") from error
    return result


def counters_of(result: Any) -> dict[str, int]:
    """Returns the counters of a pipeline that has ended, by name."""
    from apache_beam.metrics import MetricsFilter

    found = result.metrics().query(MetricsFilter().with_namespace("patchbeam"))["counters"]
    return {counter.key.metric.name: counter.result for counter in sorted(found, key=lambda c: c.key.metric.name)}


def local_runner(options: Any) -> Any:
    """Returns Beam's in-process runner, which passes the options on to its workers.

    DirectRunner would first try to download another runner from the network, and FnApiRunner, chosen by name, gives
    worker processes no options.
    """
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    # Otherwise a thread sends, once a second, what another thread is writing: half an element, or one twice or not at
    # all. A step that outputs some megabytes in more than a second then fails, or loses some of them.
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
