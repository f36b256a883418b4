"""The files for Flink on Kubernetes and with Docker: valid by the published schemas, and in agreement with each other.

No cluster and no Docker is needed. The schemas are in jars on Maven Central, which Maven brings into the cache.
"""

import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

import check_jsonschema
import pytest
import yaml
from helpers import REPO
from kubernetes_schemas import assert_valid, kubernetes_schema, member_of, strict

import pipeline
from pipeline.config import load_config

pytestmark = pytest.mark.flink  # fetches schemas from Maven Central

DEPLOY = REPO / "deploy" / "flink"
DOCUMENT = REPO / "docs" / "flink-kubernetes.md"

# The operator of docs/flink-kubernetes.md.
OPERATOR = "org.apache.flink:flink-kubernetes-operator-api:1.10.0"


def load_all(name):
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text())}


CLUSTER = load_all("kubernetes/session-cluster.yaml")
SUBMIT = load_all("kubernetes/submit-job.yaml")
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
DOCKERFILE = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())

FLINK = CLUSTER["FlinkDeployment"]["spec"]
TASK_MANAGER = FLINK["taskManager"]["podTemplate"]["spec"]
(POOL,) = (each for each in TASK_MANAGER["containers"] if each["name"] == "workers")
LAUNCHER = SUBMIT["Job"]["spec"]["template"]["spec"]
(BUILD,) = LAUNCHER["containers"]
(PREPARE,) = LAUNCHER["initContainers"]
CONFIG_MAP = SUBMIT["ConfigMap"]["data"]
COMMANDS = {"kubernetes": BUILD["args"], "compose": COMPOSE["services"]["build"]["command"]}


# --- valid by the schemas -------------------------------------------------------------------------------------------


def test_the_operator_accepts_the_cluster():
    text = member_of(OPERATOR, "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml")
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    deployment = CLUSTER["FlinkDeployment"]
    group, version = deployment["apiVersion"].split("/")
    assert (group, deployment["kind"]) == (definition["spec"]["group"], definition["spec"]["names"]["kind"])
    (schema,) = (each["schema"] for each in definition["spec"]["versions"] if each["name"] == version)
    served = {key: value for key, value in deployment.items() if key not in ("apiVersion", "kind", "metadata")}
    assert_valid(served, strict(schema["openAPIV3Schema"]))


@pytest.mark.parametrize(
    "document, jar",
    [(SUBMIT["Job"], "batch"), (SUBMIT["ConfigMap"], "core"), (CLUSTER["PersistentVolumeClaim"], "core")],
    ids=["Job", "ConfigMap", "PersistentVolumeClaim"],
)
def test_kubernetes_accepts_the_other_documents(document, jar):
    assert_valid(document, kubernetes_schema(jar, document["apiVersion"], document["kind"]))


def test_the_schemas_refuse_a_misspelled_key_anywhere_in_a_pod():
    job = json.loads(json.dumps(SUBMIT["Job"]))
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(AssertionError, match="volumeMount"):
        assert_valid(job, kubernetes_schema("batch", "batch/v1", "Job"))


def test_the_compose_file_follows_the_compose_specification():
    vendored = pathlib.Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    assert_valid(COMPOSE, json.loads(vendored.read_text()))


# --- in agreement with each other -----------------------------------------------------------------------------------


def test_flink_has_the_version_that_the_jar_is_made_for():
    pom = xml.etree.ElementTree.parse(DEPLOY / "pom.xml").find("{*}properties/{*}flink.minor").text
    assert FLINK["flinkVersion"] == "v" + pom.replace(".", "_")
    images = [FLINK["image"], *(each["image"] for each in COMPOSE["services"].values())]
    assert {image for image in images if image.startswith("flink:")} == {f"flink:{pom}-java17"}
    for command in COMMANDS.values():
        assert f"--flink_version={pom}" in command


def test_every_file_that_the_dockerfile_copies_exists():
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    copies = re.findall(r"^COPY (?:--from=(\S+) )?(.+)$", DOCKERFILE, re.MULTILINE)
    assert len(copies) >= 5
    for stage, arguments in copies:
        *sources, _ = arguments.split()
        missing = [source for source in sources if not (REPO / source).exists()]
        assert stage in stages if stage else not missing
    packages = {arguments.split()[0] for stage, arguments in copies if not stage} & {
        path.name for path in REPO.iterdir() if path.is_dir()
    }
    assert packages == {path.parent.name for path in REPO.glob("*/py.typed")}


def test_the_jar_is_where_the_launcher_looks_for_it():
    name = xml.etree.ElementTree.parse(DEPLOY / "pom.xml").find("{*}build/{*}finalName").text
    source, folder = re.search(r"^COPY --from=jar (\S+) (\S+)$", DOCKERFILE, re.MULTILINE).groups()
    assert source == f"/jar/target/{name}.jar"
    for command in COMMANDS.values():
        assert f"--flink_job_server_jar={folder}{name}.jar" in command


def test_images_are_named_alike_everywhere_and_carry_the_version():
    ours = lambda target: f"patchbeam-{target}:{pipeline.__version__}"
    texts = [path.read_text() for path in [*DEPLOY.rglob("*.yaml"), DOCUMENT]]
    named = {match for text in texts for match in re.findall(r"patchbeam-(?:worker|launcher):[\w.]+", text)}
    assert named == {ours("worker"), ours("launcher")}
    assert [POOL["image"], PREPARE["image"], BUILD["image"]] == [ours("worker"), ours("launcher"), ours("launcher")]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    for service in COMPOSE["services"].values():
        if "build" in service:
            target = service["build"]["target"]
            assert service["image"].startswith(f"patchbeam-{target}:") and target in stages
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_beam_knows_every_flag(command):
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions, StandardOptions

    from pipeline.runners.options import parse_options

    options = parse_options(command[command.index("--") + 1 :])
    assert options.view_as(StandardOptions).runner == "FlinkRunner"
    assert options.view_as(FlinkRunnerOptions).flink_submit_uber_jar
    assert options.view_as(PortableOptions).environment_type == "EXTERNAL"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_knows_what_precedes_the_flags(command):
    from pipeline.cli.main import main

    name, *arguments = command[: command.index("--")]
    main.commands[name].make_context(name, arguments)  # raises for what it does not know


def test_the_configuration_in_the_config_map_is_one(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG_MAP["config.yaml"])
    config = load_config(str(tmp_path / "config.yaml"))
    mounts = [mount["mountPath"] + "/" for mount in BUILD["volumeMounts"] if mount["name"] == "data"]
    for path in [*config.input.images, config.input.root, config.output.path]:
        assert path.startswith(tuple(mounts))


def test_workers_and_launcher_see_the_data_under_the_same_path():
    of = lambda container: [mount for mount in container["volumeMounts"] if mount["name"] == "data"]
    volume = lambda pod: [each for each in pod["volumes"] if each["name"] == "data"]
    assert of(POOL) == of(BUILD) and volume(TASK_MANAGER) == volume(LAUNCHER)
    claim = volume(LAUNCHER)[0]["persistentVolumeClaim"]["claimName"]
    assert claim == CLUSTER["PersistentVolumeClaim"]["metadata"]["name"]
    services = COMPOSE["services"]
    assert services["build"]["volumes"] == services["workers-1"]["volumes"] == services["workers-2"]["volumes"]


@pytest.mark.parametrize("pod", [TASK_MANAGER, LAUNCHER, FLINK["podTemplate"]["spec"]], ids=["workers", "job", "all"])
def test_every_mount_has_its_volume(pod):
    mounted = {m["name"] for c in pod["containers"] + pod.get("initContainers", []) for m in c["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in pod["volumes"]}


def test_what_is_mounted_into_the_containers_exists():
    for volume in COMPOSE["x-workers"]["volumes"]:
        source = DEPLOY / volume.split(":")[0]
        assert source.exists() or source.resolve() == REPO / "out"
    config = COMMANDS["compose"][1].replace("/data/", "")
    assert load_config(str(REPO / config)).input.channels == 3


def test_every_task_manager_has_a_pool_of_its_own_on_its_localhost():
    assert "--environment_config=localhost:50000" in BUILD["args"] and "--service_port=50000" in POOL["args"]
    assert POOL["ports"] == [{"name": "pool", "containerPort": 50000}]
    services = COMPOSE["services"]
    managers = sorted(name for name, service in services.items() if service.get("command") == "taskmanager")
    pools = [service["network_mode"] for service in services.values() if "network_mode" in service]
    assert len(managers) == 2 and sorted(pools) == [f"service:{name}" for name in managers]
    assert "--environment_config=localhost:50000" in COMMANDS["compose"]


def test_the_cluster_has_a_slot_for_every_parallel_task():
    slots = int(FLINK["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert f"--parallelism={FLINK['taskManager']['replicas'] * slots}" in BUILD["args"]
    assert "--parallelism=2" in COMMANDS["compose"]


def test_the_job_finds_the_cluster_and_its_own_earlier_attempts():
    service = f"{CLUSTER['FlinkDeployment']['metadata']['name']}-rest:8081"
    assert f"--flink_master={service}" in BUILD["args"]
    script, rest, name = PREPARE["command"][1:]
    assert rest == f"http://{service}" and f"--job_name={name}" in BUILD["args"]
    assert script == f"{PREPARE['volumeMounts'][0]['mountPath']}/prepare.py"
    assert LAUNCHER["volumes"][0]["configMap"]["name"] == SUBMIT["ConfigMap"]["metadata"]["name"]


def test_only_what_would_end_the_same_again_is_not_tried_again():
    assert LAUNCHER["restartPolicy"] == "Never"  # Kubernetes refuses a podFailurePolicy otherwise
    fail = SUBMIT["Job"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (fail["containerName"], fail["values"]) == (BUILD["name"], [2, 64])


def test_the_pool_starts_the_same_way_everywhere():
    command = json.loads(re.search(r"^CMD (.+worker_pool_main.+)$", DOCKERFILE, re.MULTILINE)[1])
    assert POOL["command"] + POOL["args"] == command
    assert f"--container_executable={re.search(r'> (/usr/local/bin/[a-z-]+)', DOCKERFILE)[1]}" in command


def test_files_that_the_document_names_exist():
    names = re.findall(r"(?:deploy|configs|docs|tests)/[\w./-]+\w", DOCUMENT.read_text())
    assert len(names) >= 4 and not [name for name in names if not (REPO / name).exists()]


# --- what runs ------------------------------------------------------------------------------------------------------


def test_the_pool_starts_a_worker_with_what_our_boot_needs(tmp_path):
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

    # The script that the Dockerfile writes, with a Python that notes how it was called.
    printed = re.search(r"^RUN printf '(.+?)'", DOCKERFILE, re.MULTILINE)[1].replace("\\n", "\n")
    worker, noted = tmp_path / "beam-worker", tmp_path / "noted"
    worker.write_text(printed)
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$@" > {noted}.new && mv {noted}.new {noted}\n')
    for path in (worker, tmp_path / "python"):
        path.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, *module = POOL["command"]
    replaced = {"50000": str(port), "/usr/local/bin/beam-worker": str(worker)}
    arguments = [re.sub("|".join(replaced), lambda match: replaced[match[0]], argument) for argument in POOL["args"]]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, *module, *arguments], env=environment, stderr=subprocess.DEVNULL) as pool:
        try:
            with grpc.insecure_channel(f"localhost:{port}") as channel:
                stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
                provision = endpoints_pb2.ApiServiceDescriptor(url="localhost:1234")
                request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1", provision_endpoint=provision)
                answer = stub.StartWorker(request, wait_for_ready=True, timeout=120)
            assert not answer.error
            until = time.monotonic() + 60
            while not noted.exists() and time.monotonic() < until:
                time.sleep(0.05)
            said = noted.read_text().split()
        finally:
            pool.kill()
    assert (
        said[:3] == ["-m", "pipeline.runners.flink_worker", "--id=1-1"]
        and "--provision_endpoint=localhost:1234" in said
    )


class Flink(http.server.BaseHTTPRequestHandler):
    """As much of the REST interface of Flink as is asked: at first not ready, and cancelling takes a moment."""

    def do_GET(self):
        self.server.asked += 1  # type: ignore[attr-defined]
        if self.server.asked == 1:  # type: ignore[attr-defined]
            return self.send_error(503)
        for job in self.server.jobs:  # type: ignore[attr-defined]
            job["state"] = {"CANCELLING": "CANCELED"}.get(job["state"], job["state"])
        self._answer({"jobs": self.server.jobs})  # type: ignore[attr-defined]

    def do_PATCH(self):
        (job,) = (each for each in self.server.jobs if self.path == f"/jobs/{each['jid']}?mode=cancel")  # type: ignore[attr-defined]
        job["state"] = "CANCELLING"
        self._answer({})

    def _answer(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_):
        pass


def test_before_an_attempt_what_an_earlier_one_left_is_cancelled_and_nothing_else():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flink) as server:
        own, other = "patchbeam-build", "patchbeam-other"
        server.asked = 0  # type: ignore[attr-defined]
        server.jobs = [  # type: ignore[attr-defined]
            {"jid": "a", "name": own, "state": "RUNNING"},
            {"jid": "b", "name": other, "state": "RUNNING"},
            {"jid": "c", "name": own, "state": "FINISHED"},
            {"jid": "d", "name": own, "state": "RESTARTING"},
        ]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = CONFIG_MAP["prepare.py"].replace("time.sleep(5)", "time.sleep(0.01)")
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        command = [sys.executable, "-c", script, f"http://127.0.0.1:{server.server_port}", own]
        subprocess.run(command, check=True, timeout=60, env=environment)
        server.shutdown()
    assert [job["state"] for job in server.jobs] == ["CANCELED", "RUNNING", "FINISHED", "CANCELED"]  # type: ignore[attr-defined]
