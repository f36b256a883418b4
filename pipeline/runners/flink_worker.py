"""Starts one Python worker for a runner that launches workers as processes: Flink with ``--environment_type=PROCESS``.

In Beam's container images a program called ``boot`` does this, which is not on PyPI. Flink's TaskManager starts this
module in its place as ``COMMAND --id=... --provision_endpoint=...``, where COMMAND is one executable without arguments:
the console script ``patchbeam-flink-worker``, or a script of two lines that runs
``python -m pipeline.runners.flink_worker "$@"``.
"""

from __future__ import annotations

import argparse
import os
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    """Asks the TaskManager what to run and becomes Beam's worker, in the Python that runs this."""
    parser = argparse.ArgumentParser(prog="patchbeam-flink-worker", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--id", required=True, help="of the worker; the TaskManager makes it up")
    parser.add_argument("--provision_endpoint", required=True, help="host:port where the TaskManager answers")
    known, _ = parser.parse_known_args(arguments)  # runners add flags that are useful in a container only
    os.environ.update(worker_environment(known.id, provision_info(known.id, known.provision_endpoint)))
    # The worker runs in this process, because the TaskManager stops its workers by the process id that it knows. A
    # second Python in place of this one would spend seconds on importing Beam again.
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def provision_info(worker_id: str, endpoint: str) -> Any:
    """Returns the ``ProvisionInfo`` that the runner has for a worker."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        return stub.GetProvisionInfo(request, metadata=[("worker_id", worker_id)], timeout=60).info


def worker_environment(worker_id: str, info: Any) -> dict[str, str]:
    """Returns the variables that ``apache_beam.runners.worker.sdk_worker_main`` reads, from a ``ProvisionInfo``."""
    from google.protobuf import json_format, text_format

    variables = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),  # the logs are for errors
    }
    if info.HasField("status_endpoint"):
        variables["STATUS_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(info.status_endpoint)
    return variables


if __name__ == "__main__":
    main()
