"""The files that start a build every night: accepted by what reads them, and in agreement with the command line.

systemd and Airflow judge for themselves, a parser does for cron, for Kubernetes and Dataflow their schemas; the command
lines of systemd and cron build a dataset. Nothing is scheduled, and nothing needs a cloud.
"""

import ast
import configparser
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from datetime import timedelta

import crontab
import numpy as np
import pytest
import yaml
from google.cloud import dataflow_v1beta3
from google.protobuf import json_format
from helpers import REPO
from kubernetes_schemas import assert_valid, kubernetes_schema
from PIL import Image

import pipeline
from pipeline.cli.main import main
from pipeline.errors import Exit
from pipeline.runners.options import parse_options, runs_locally
from pipeline.versions import lease, lifecycle

DEPLOY = REPO / "deploy"
DOCS = (REPO / "docs" / "schedules.md").read_text()

# What the exit codes ask of a schedule: nothing more, once more, or a person.
AGAIN, FINAL, STOPPED = {Exit.FAILED, Exit.BUSY}, {Exit.REJECTED, Exit.HELD, Exit.USAGE}, {Exit.INTERRUPTED}


def load_unit(name):
    """The sections of a unit; a key that is there twice is an error, as none of ours is a list."""
    unit = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#", allow_no_value=False)
    unit.optionxform = str
    unit.read_string((DEPLOY / "systemd" / name).read_text())
    return unit


SERVICE, TIMER = load_unit("patchbeam@.service"), load_unit("patchbeam@.timer")
EXEC_START = SERVICE["Service"]["ExecStart"].replace("%i", "nightly")

CRONTAB = (DEPLOY / "cron" / "patchbeam").read_text()
(CRON_LINE,) = re.findall(r"^[\d*].*$", CRONTAB, re.M)

CLAIM, CRON_JOB = yaml.safe_load_all((DEPLOY / "kubernetes" / "cronjob.yaml").read_text())
JOB = CRON_JOB["spec"]["jobTemplate"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]

DAG = DEPLOY / "airflow" / "patchbeam_dag.py"
LAUNCH = json.loads((DEPLOY / "dataflow" / "scheduled-launch.json").read_text())
(PUBLISHER,) = re.findall(r"--command=patchbeam --args='(.+)'", DOCS)


def test_every_exit_code_is_accounted_for():
    assert {Exit.DONE} | AGAIN | FINAL | STOPPED == set(Exit)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", DOCS, re.M)] == sorted(Exit)


def seconds(time):
    """Of a time as systemd writes it, of one unit."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", time).groups()
    return int(number) * {"min": 60, "h": 3600}[unit]


# --- the command line -----------------------------------------------------------------------------------------------


def of_dag(name):
    """The value of a keyword or a constant in the DAG, which only Airflow can import."""
    tree = ast.parse(DAG.read_text())
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == name]
    values += [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == name]  # type: ignore[attr-defined]
    (value,) = values
    return ast.literal_eval(value)


COMMANDS = {
    "systemd": shlex.split(EXEC_START),
    "cron": shlex.split(CRON_LINE.partition("&&")[2].partition(">>")[0]),
    "kubernetes": CONTAINER["command"],
    "airflow": of_dag("command"),
    "publisher": ["patchbeam", *PUBLISHER.split(",")],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_is_one_of_patchbeam(command):
    program, name, *arguments = command
    assert program.endswith(("patchbeam", "patchbeam_program }}"))
    context = main.commands[name].make_context(name, arguments)  # raises for what it does not know
    assert name == "build" and context.params["config"].endswith(("nightly.yaml", "configuration }}", "gpu.yaml"))


# --- systemd --------------------------------------------------------------------------------------------------------


def test_systemd_accepts_the_units(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze on the PATH; on Debian: apt-get install systemd")
    for unit in (DEPLOY / "systemd").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(shlex.split(EXEC_START)[0], sys.executable))

    def verify():
        command = ["systemd-analyze", "verify", "patchbeam@.service", "patchbeam@.timer"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    assert verify() == (0, "")  # unknown keys are told, and are no error to systemd
    with (tmp_path / "patchbeam@.timer").open("a") as file:
        file.write("Wanted=timers.target\n")
    assert "'Wanted'" in verify()[1]


def test_the_timer_starts_the_service_and_makes_up_for_a_night():
    assert TIMER.sections() == ["Unit", "Timer", "Install"] and "Unit" not in TIMER["Timer"]  # so that of its own name
    assert TIMER["Timer"]["Persistent"] == "true"
    assert 0 < seconds(TIMER["Timer"]["RandomizedDelaySec"]) < seconds(SERVICE["Unit"]["StartLimitIntervalSec"])
    assert TIMER["Install"]["WantedBy"] == "timers.target"


def test_the_service_starts_again_after_what_may_pass_and_stops_at_what_may_not():
    service = SERVICE["Service"]
    assert (service["Type"], service["Restart"]) == ("oneshot", "on-failure")
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == FINAL
    assert service["SuccessExitStatus"].split() == ["SIGTERM", *(str(int(code)) for code in STOPPED)]
    assert seconds(service["RestartSec"]) > lease.LASTS_S  # of one that died with its machine
    # All starts that are allowed fit into the interval; otherwise one that fails at once would be started for ever.
    starts, interval = int(SERVICE["Unit"]["StartLimitBurst"]), seconds(SERVICE["Unit"]["StartLimitIntervalSec"])
    assert starts * seconds(service["RestartSec"]) < interval < 24 * 3600


# --- cron -----------------------------------------------------------------------------------------------------------


def test_cron_accepts_the_crontab():
    table = crontab.CronTab(tab=CRONTAB, user=False)
    (job,) = table
    assert job.is_valid() and job.is_enabled() and job.user == "patchbeam"
    assert f"{job.slices} {job.user} {job.command}" == CRON_LINE  # the rest was understood as it is written
    assert dict(table.env) == {"SHELL": "/bin/sh", "MAILTO": ""}
    assert "%" not in job.command  # a line break, to cron
    assert CRONTAB.endswith("\n")  # or cron ignores the last line


def test_a_later_start_of_the_same_night_is_after_the_lease_of_a_dead_one():
    hours = [int(hour) for hour in CRON_LINE.split()[1].split(",")]
    assert len(hours) > 1 and min(b - a for a, b in itertools.pairwise(hours)) * 3600 > lease.LASTS_S


def test_schedules_are_at_an_hour_that_no_change_of_the_clocks_skips_or_repeats():
    hours = [CRON_LINE.split()[1], CRON_JOB["spec"]["schedule"].split()[1], of_dag("schedule").split()[1]]
    hours += re.findall(r"\* (\d\d):", TIMER["Timer"]["OnCalendar"])
    assert {int(hour) for times in hours for hour in times.split(",")} == {3, 5, 7}


# --- Kubernetes -----------------------------------------------------------------------------------------------------


@pytest.mark.flink  # fetches the schemas from Maven Central
@pytest.mark.parametrize(("document", "jar"), [(CRON_JOB, "batch"), (CLAIM, "core")], ids=["CronJob", "claim"])
def test_kubernetes_accepts_the_documents(document, jar):
    assert_valid(document, kubernetes_schema(jar, document["apiVersion"], document["kind"]))


@pytest.mark.flink
def test_the_schema_refuses_a_misspelled_key():
    wrong = json.loads(json.dumps(CRON_JOB))
    wrong["spec"]["jobTemplate"]["spec"]["podFailurePolicies"] = {}
    with pytest.raises(AssertionError, match="podFailurePolicies"):
        assert_valid(wrong, kubernetes_schema("batch", "batch/v1", "CronJob"))


def action(code):
    """What Kubernetes does with a pod of this exit code: the first rule that matches; Count if none does."""
    for rule in JOB["podFailurePolicy"]["rules"]:
        on = rule.get("onExitCodes")
        if on and on["containerName"] == CONTAINER["name"] and on["operator"] == "In" and code in on["values"]:
            return rule["action"]
    return "Count"


def test_an_attempt_is_made_again_for_what_may_pass_and_not_for_what_may_not():
    assert {code: action(code) for code in FINAL} == dict.fromkeys(FINAL, "FailJob")
    assert {code: action(code) for code in AGAIN} == {1: "Count", 75: "Ignore"}
    assert POD["restartPolicy"] == "Never" and JOB["backoffLimit"] > 0
    assert {"type": "DisruptionTarget", "status": "True"} in JOB["podFailurePolicy"]["rules"][-1]["onPodConditions"]


def test_a_build_that_hangs_does_not_forbid_the_next_night():
    spec = CRON_JOB["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert JOB["activeDeadlineSeconds"] + spec["startingDeadlineSeconds"] < 24 * 3600


def test_the_pod_has_what_it_mounts_and_writes_only_there():
    mounts = {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["volumes"]}
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] and POD["securityContext"]["runAsNonRoot"]
    assert mounts["config"]["readOnly"] and CONTAINER["command"][2].startswith(mounts["config"]["mountPath"] + "/")
    assert CONTAINER["workingDir"] == mounts["data"]["mountPath"] and mounts["tmp"]["mountPath"] == "/tmp"
    (claim,) = (volume["persistentVolumeClaim"] for volume in POD["volumes"] if volume["name"] == "data")
    assert claim["claimName"] == CLAIM["metadata"]["name"]


def test_the_image_is_the_one_that_the_dockerfile_makes():
    name, _, version = CONTAINER["image"].partition(":")
    dockerfile = (DEPLOY / "flink" / "Dockerfile").read_text()
    assert f"-t {name}:VERSION" in dockerfile and version == pipeline.__version__
    assert f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" in dockerfile


# --- Dataflow -------------------------------------------------------------------------------------------------------


def test_dataflow_accepts_the_launch():
    request = dataflow_v1beta3.LaunchFlexTemplateRequest.pb()()
    json_format.ParseDict(LAUNCH, request)  # raises for a field that is not there
    launch = request.launch_parameter
    assert launch.job_name == "patchbeam-nightly" and re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", launch.job_name)
    assert launch.container_spec_gcs_path.startswith("gs://")
    wrong = {"launchParameter": LAUNCH["launchParameter"] | {"jobname": "a"}}
    with pytest.raises(json_format.ParseError, match="jobname"):
        json_format.ParseDict(wrong, dataflow_v1beta3.LaunchFlexTemplateRequest.pb()())


def test_the_template_accepts_the_parameters_of_the_launch():
    known = json.loads((DEPLOY / "dataflow" / "metadata.json").read_text())["parameters"]
    given = LAUNCH["launchParameter"]["parameters"]
    assert {parameter["name"] for parameter in known if not parameter.get("isOptional")} <= given.keys()
    for name, value in given.items():
        (parameter,) = (parameter for parameter in known if parameter["name"] == name)
        assert all(re.fullmatch(regex, value) for regex in parameter["regexes"])


def test_the_launch_is_the_one_of_the_documentation_of_dataflow():
    text = (REPO / "docs" / "dataflow.md").read_text()
    launch = LAUNCH["launchParameter"]
    environment = launch["environment"]
    for part in (
        f"--template-file-gcs-location={launch['containerSpecGcsPath']}",
        f"--parameters='config={launch['parameters']['config']}'",
        f"--temp-location={environment['tempLocation']}",
        f"--staging-location={environment['stagingLocation']}",
        f"--launcher-machine-type={environment['launcherMachineType']}",
    ):
        assert part in text


def test_publishing_begins_when_the_job_has_certainly_ended_and_runs_where_it_is_started():
    hours = [int(hour) for hour in re.findall(r'--schedule="17 (\d+) \* \* \*"', DOCS)]
    (longest,) = re.findall(r"max_workflow_runtime_walltime_seconds=(\d+)", DOCS)
    assert len(hours) == 2 and hours[0] * 3600 + int(longest) + 3600 <= hours[1] * 3600
    command = COMMANDS["publisher"]
    assert runs_locally(parse_options(command[command.index("--") + 1 :], {"runner": "DataflowRunner"}))
    bucket, path = re.fullmatch(r"gs://([^/]+)/(.+)", LAUNCH["launchParameter"]["parameters"]["config"]).groups()
    (mounted,) = re.findall(r"--add-volume-mount=volume=config,mount-path=(\S+)", DOCS)
    assert f"bucket={bucket}" in DOCS and command[2] == f"{mounted}/{path}"


# --- Airflow --------------------------------------------------------------------------------------------------------


def test_the_dag_can_be_read_and_names_no_place_of_a_machine():
    tree = ast.parse(DAG.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if text.startswith(("/", "~"))]
    assert of_dag("FINAL").keys() == FINAL
    used = re.findall(r"var\.value\.(\w+)", " ".join(of_dag("command")))
    assert used == re.findall(r"airflow variables set (\w+)", DOCS) != []


AIRFLOW = ["apache-airflow==3.3.2"]
AIRFLOW += ["apache-airflow-providers-apache-beam==6.3.1", "apache-airflow-providers-google==22.8.0"]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchbeam" / "airflow"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """``airflow(program, *arguments, **environment)`` runs a program of an environment with Airflow; its output."""
    # The day makes the rest of the environment the same every time; Airflow's lists of versions are not on PyPI.
    install = ["--exclude-newer", "2026-11-20", *AIRFLOW]
    stamp = CACHE / "stamp"
    if not stamp.exists() or stamp.read_text() != str(install):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE)], check=True)
        uv = [str(pathlib.Path(sys.executable).with_name("uv")), "pip", "install", "--quiet"]
        subprocess.run([*uv, "--python", str(CACHE / "bin" / "python"), *install], check=True)
        stamp.write_text(str(install))
    home = tmp_path_factory.mktemp("airflow")
    settings = {"HOME": str(home), "CORE__DAGS_FOLDER": str(DAG.parent), "CORE__LOAD_EXAMPLES": "False"}
    settings = {f"AIRFLOW_{name}" if name == "HOME" else f"AIRFLOW__{name}": each for name, each in settings.items()}

    def run(program, *arguments, **environment):
        command = [str(CACHE / "bin" / program), *arguments]
        keywords = {"env": os.environ | settings | environment, "capture_output": True, "text": True, "timeout": 250}
        done = subprocess.run(command, **keywords)
        assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run("airflow", "db", "migrate")
    return run


# What Airflow makes of the DAG, and how its task and one of the operators for Beam end, as JSON in the last line.
ASK_AIRFLOW = """
import json, os, sys, threading
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.sdk.exceptions import AirflowException

folder, program = sys.argv[1:]
bag = DagBag(folder)
(dag,) = bag.dags.values()
(task,) = dag.tasks

def end(task, code):
    os.environ["CODE"] = str(code)
    try:
        task.execute({})
    except AirflowException as error:
        return type(error).__name__

beam = lambda: BeamRunPythonPipelineOperator(
    task_id="beam", py_interpreter=program, py_options=["-m", "patchbeam", "build", "nightly.yaml"], py_file="--")
answer = {
    "errors": bag.import_errors, "dag": dag.dag_id, "catchup": dag.catchup, "runs": dag.max_active_runs,
    "command": task.command, "task": task.task_id, "retries": task.retries,
    "delay": task.retry_delay.total_seconds(), "longest": task.execution_timeout.total_seconds(),
}
task.command = [program, "build"]
answer["ends"] = {code: end(task, code) for code in (0, 1, 2, 3, 64, 75, 130)}
task.command = ["sleep", "60"]
threading.Timer(1, task.on_kill).start()
answer["stopped"] = end(task, 0)
answer["beam"] = {code: end(beam(), code) for code in (0, 1, 64, 75)}
print(json.dumps(answer))
"""


@pytest.mark.heavy  # installs Airflow
def test_airflow_loads_the_dag_and_tries_again_only_what_may_pass(airflow, tmp_path):
    program, called = tmp_path / "program", tmp_path / "called"
    # Also in the place of a Python that is asked for the version of Beam.
    program.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 2.77.0 && exit\necho "$@" >> {called}\nexit $CODE\n')
    program.chmod(0o755)
    answer = json.loads(airflow("python", "-c", ASK_AIRFLOW, str(DAG.parent), str(program)).splitlines()[-1])

    assert answer["errors"] == {}
    assert (answer["dag"], answer["task"], answer["command"]) == ("patchbeam_nightly", "build", of_dag("command"))
    assert (answer["catchup"], answer["runs"], answer["retries"]) == (False, 1, 3)
    assert answer["delay"] > lease.LASTS_S
    assert answer["longest"] < timedelta(days=1).total_seconds()
    again = dict.fromkeys([str(int(code)) for code in AGAIN | STOPPED], "AirflowException")
    final = dict.fromkeys([str(int(code)) for code in FINAL], "AirflowFailException")
    assert answer["ends"] == {"0": None} | again | final
    assert answer["stopped"] == "AirflowException"  # left alone, it would have ended with 0

    # The operator of Beam's provider can start a build, as the documentation says, and makes no difference of its ends.
    assert answer["beam"] == {"0": None} | dict.fromkeys(["1", "64", "75"], "AirflowException")
    (arguments,) = set(called.read_text().splitlines()) - {"build"}
    python, module, name, *arguments = arguments.split()
    assert (python, module) == ("-m", "patchbeam")
    context = main.commands[name].make_context(name, arguments)
    assert runs_locally(parse_options(list(context.params["beam_options"]), {}))


@pytest.mark.heavy
def test_airflow_builds(airflow, nightly):
    program = str(pathlib.Path(sys.executable).with_name("patchbeam"))
    variables = {"AIRFLOW_VAR_PATCHBEAM_PROGRAM": program, "AIRFLOW_VAR_PATCHBEAM_CONFIGURATION": str(nightly)}
    airflow("airflow", "dags", "test", "patchbeam_nightly", **variables)
    assert lifecycle.latest(str(nightly.parent / "out"))


# --- what runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nightly(tmp_path):
    """A configuration with eight images, which writes to ``out`` beside it."""
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    path = tmp_path / "nightly.yaml"
    path.write_text(
        f"input: {{images: {tmp_path}/images/*.png}}\npatch: {{size: 32}}\noutput: {{path: {tmp_path}/out}}\n"
    )
    return path


def test_the_command_lines_of_systemd_and_cron_build_and_publish(nightly):
    places = {
        "/opt/patchbeam/bin/": f"{pathlib.Path(sys.executable).parent}/",
        "/etc/patchbeam/": f"{nightly.parent}/",
        "/var/lib/node_exporter/textfile_collector/": f"{nightly.parent}/",
        "/var/lib/patchbeam": str(nightly.parent),
        "/var/log/patchbeam/": f"{nightly.parent}/",
    }
    here = lambda text: re.sub("|".join(places), lambda match: places[match[0]], text)
    assert not re.search(r"(^|\s)/(opt|etc|var)/", here(EXEC_START + CRON_LINE))

    subprocess.run(shlex.split(here(EXEC_START)), cwd=nightly.parent, check=True, timeout=250)
    published = lifecycle.latest(str(nightly.parent / "out"))
    assert published

    (nightly.parent / "images" / "0.png").unlink()
    (job,) = crontab.CronTab(tab=CRONTAB, user=False)
    subprocess.run(["/bin/sh", "-c", here(job.command)], check=True, timeout=250)
    assert lifecycle.latest(str(nightly.parent / "out")) not in (None, published)
    assert "dataset " in (nightly.parent / "nightly.log").read_text()
    assert (nightly.parent / "patchbeam_nightly.prom").exists()


def test_files_that_the_documentation_names_exist():
    names = set(re.findall(r"(?:deploy|configs|docs|tests)/[\w@./-]+\w", DOCS))
    assert len(names) >= 6 and not [name for name in names if not (REPO / name).exists()]
