"""Builds a dataset every night with ``patchbeam build``, for Airflow 3. docs/schedules.md has the commands.

patchbeam has its own environment, with Beam and TensorFlow, and Airflow starts it as a program. Two variables of
Airflow configure it: ``patchbeam_program`` is the path of ``patchbeam``, and ``patchbeam_configuration`` the path of
the YAML file.

The operators of Airflow's provider for Beam start a pipeline and, on Dataflow, stop listening once its job has an id. A
build does more: it waits for the pipeline and publishes. These operators also raise the same error for every exit code
and leave the program running when a task is stopped, so this file defines its own operator.
"""

import datetime
import functools

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

FINAL = {2: "too many rejections", 3: "held back by a gate, or taken back before", 64: "the configuration is wrong"}


class PatchbeamOperator(BaseOperator):
    """Runs a command of patchbeam without a shell; failures that would recur are not retried."""

    template_fields = ("command",)

    def __init__(self, *, command: list[str], **keywords):
        super().__init__(**keywords)
        self.command = command

    @functools.cached_property
    def _process(self):
        return SubprocessHook()

    def execute(self, context):
        """Runs the command and waits for its end.

        Raises:
            AirflowFailException: for the exit codes of FINAL; the task fails at once.
            AirflowException: for all other exit codes except 0, such as 75, with which another build holds the output;
                a retry continues from the finished shards.
        """
        code = self._process.run_command(self.command).exit_code
        if code in FINAL:
            raise AirflowFailException(f"patchbeam ended with exit code {code}: {FINAL[code]}; its last lines say more")
        if code:
            raise AirflowException(f"patchbeam ended with exit code {code}")

    def on_kill(self):
        """Stops the command as Ctrl-C does when the task is stopped or takes too long."""
        self._process.send_sigterm()


with DAG(
    dag_id="patchbeam_nightly",
    description="Builds the dataset of the variable patchbeam_configuration",
    schedule="17 3 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,  # only the last missed night is made up for, because a build takes the images as they are now
    max_active_runs=1,
) as dag:
    PatchbeamOperator(
        task_id="build",
        command=["{{ var.value.patchbeam_program }}", "build", "{{ var.value.patchbeam_configuration }}"],
        retries=3,
        retry_delay=datetime.timedelta(minutes=10),  # an abandoned lease has expired by then
        execution_timeout=datetime.timedelta(hours=20),
    )
