"""What would be sent to Dataflow is what the configuration says, and image, template and documentation agree.

Nothing here needs a cloud: the job is described, and not submitted.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re

import click
import numpy as np
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
from apache_beam.runners.dataflow.internal import apiclient
from helpers import REPO
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from pipeline.build import build
from pipeline.cli.main import build as build_command
from pipeline.config import load_config
from pipeline.runners.options import parse_options, runs_locally
from pipeline.versions import lifecycle

DEPLOY = REPO / "deploy" / "dataflow"
CONFIG = REPO / "configs" / "dataflow-gpu.yaml"
DOCS = (REPO / "docs" / "dataflow.md").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
METADATA = json.loads((DEPLOY / "metadata.json").read_text())
PARAMETERS = {parameter["name"]: parameter for parameter in METADATA["parameters"]}
SHUFFLES = {"beam:transform:group_by_key:v1", "beam:transform:reshuffle:v1", "beam:transform:combine_per_key:v1"}


def load_launcher():
    spec = importlib.util.spec_from_file_location("dataflow_launcher", DEPLOY / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launcher = load_launcher()


@pytest.fixture(scope="module")
def config():
    return load_config(str(CONFIG))


@pytest.fixture(scope="module")
def job(config):
    """The job as Beam would submit it."""
    options = parse_options(["--dry_run=True", "--no_auth"], config.beam)
    return launcher.make_pipeline(config, options, lifecycle.Version(config.output.path, "v"), images=1000).run().job


@pytest.fixture(scope="module")
def components(job):
    return job.proto_pipeline.components


@pytest.fixture(scope="module")
def described(job, components, tmp_path_factory):
    """The description of the job for Dataflow's API; files that would be staged stay on this machine."""
    folder = str(tmp_path_factory.mktemp("staging"))
    cloud = job.options.view_as(GoogleCloudOptions)
    cloud.staging_location = cloud.temp_location = folder
    apiclient.DataflowApplicationClient(job.options, folder).create_job_description(job)
    return json.loads(job.json())["environment"]


def writing_step(components):
    (step,) = [t for t in components.transforms.values() if t.unique_name == "WriteShards/ParDo(_Write)"]
    return step


def test_beam_knows_every_option_of_the_configuration(config):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for cls in {cls.__name__: cls for cls in PipelineOptions.__subclasses__()}.values():
        cls._add_argparse_args(parser)
    known = {name.removeprefix("--") for action in parser._actions for name in action.option_strings}

    assert config.beam.keys() - known == set()
    commented = set(re.findall(r"^  # (\w+): \S+$", CONFIG.read_text().partition("\nbeam:")[2], re.M))
    assert commented == {"no_use_public_ips", "subnetwork", "service_account_email"}
    assert commented <= known


def test_the_hints_are_on_the_writing_step_and_on_no_other(components):
    hinted = {name for name, environment in components.environments.items() if environment.resource_hints}
    steps = {t.unique_name for t in components.transforms.values() if t.environment_id in hinted}
    assert steps == {"WriteShards/ParDo(_Write)"}

    hints = components.environments[writing_step(components).environment_id].resource_hints
    assert dict(hints) == {
        "beam:resources:accelerator:v1": b"type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver",
        "beam:resources:min_ram_bytes:v1": b"24000000000",
    }


def test_listing_inspecting_and_planning_run_in_an_environment_without_hints(components):
    names = {"InspectImages/ParDo(_Inspect)", "PlanShards/WritePlan", "PlanShards/Gather"}
    plain = {
        t.unique_name
        for t in components.transforms.values()
        if t.environment_id and not components.environments[t.environment_id].resource_hints
    }
    assert names <= plain


def test_every_step_runs_in_the_image_of_the_configuration(config, components):
    payloads = [
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        for environment in components.environments.values()
    ]
    assert {payload.container_image for payload in payloads} == {config.beam["sdk_container_image"]}
    assert len(payloads) == 2


def test_of_what_the_writing_step_puts_out_only_names_are_shuffled(components):
    step = writing_step(components)
    reached, waiting, consumers = set(), list(step.outputs.values()), []
    while waiting:
        collection = waiting.pop()
        reached.add(collection)
        for transform in components.transforms.values():
            if collection in transform.inputs.values():
                consumers.append(transform)
                waiting += [output for output in transform.outputs.values() if output not in reached]
    (shuffle,) = [t for t in consumers if t.spec.urn in SHUFFLES]
    assert shuffle.unique_name == "SumReceipts/ByGroup"
    (shuffled,) = shuffle.inputs.values()
    coders = [components.coders[components.pcollections[shuffled].coder_id]]
    coders += [components.coders[each] for each in coders[0].component_coder_ids]
    text = "beam:coder:string_utf8:v1"
    assert [coder.spec.urn for coder in coders] == ["beam:coder:kv:v1", text, text]


def test_the_writing_step_puts_out_names_only(components):
    (output,) = writing_step(components).outputs.values()
    coder = components.coders[components.pcollections[output].coder_id]
    assert coder.spec.urn == "beam:coder:string_utf8:v1"


def test_the_job_has_the_machines_disks_and_threads_of_the_configuration(config, described):
    (pool,) = described["workerPools"]
    assert pool["machineType"] == config.beam["worker_machine_type"] == "e2-standard-4"
    assert pool["diskSizeGb"] == 100
    assert pool["numThreadsPerWorker"] == 8
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 8
    images = {image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert images == {config.beam["sdk_container_image"]}


def test_the_job_has_the_experiments_and_service_options_of_the_configuration(described):
    assert "no_use_multiple_sdk_containers" in described["experiments"]
    assert described["serviceOptions"] == ["max_workflow_runtime_walltime_seconds=86400"]
    assert "worker_accelerator" not in json.dumps(described["serviceOptions"])


def test_nothing_is_installed_or_unpickled_when_a_worker_starts(described):
    (pool,) = described["workerPools"]
    assert {package["name"] for package in pool["packages"]} == {"submission_environment_dependencies.txt"}  # a record


def test_processes_and_harness_agree_that_a_gpu_has_one_owner(config):
    assert config.workers.device == "gpu"
    assert config.workers.processes_per_gpu == 1
    assert "no_use_multiple_sdk_containers" in config.beam["experiments"]


def test_every_parameter_of_the_template_is_an_option_of_the_command_line_or_of_beam(config):
    takes = {option for parameter in build_command.params for option in [parameter.name, *parameter.opts]}
    assert isinstance(build_command, click.Command)
    for name in PARAMETERS:
        assert {name, f"--{name}"} & takes or name in config.beam, name
    assert set(PARAMETERS) == {"config", "input", "output", "sdk_container_image"}
    assert [name for name, parameter in PARAMETERS.items() if not parameter.get("isOptional")] == ["config"]


def test_parameters_have_what_dataflow_requires_of_them():
    assert METADATA.keys() == {"name", "description", "parameters"}
    for parameter in PARAMETERS.values():
        assert parameter.keys() - {"isOptional"} == {"name", "label", "helpText", "paramType", "regexes"}


def accepts(name, value):
    return all(re.fullmatch(regex, value) for regex in PARAMETERS[name]["regexes"])


def test_the_template_accepts_the_examples_of_the_documentation_and_the_values_of_the_configuration(config):
    examples = dict(re.findall(r"--parameters='(\w+)=([^\s']+)'", DOCS))
    assert examples.keys() == PARAMETERS.keys()
    examples_of_config = {
        "input": config.input.images[0],
        "output": config.output.path,
        "sdk_container_image": config.beam["sdk_container_image"],
    }
    assert examples == {"config": examples["config"]} | examples_of_config
    for name, value in examples.items():
        assert accepts(name, value), (name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", "configs/dataflow-gpu.yaml"),
        ("config", "gs://my-bucket/config.json"),
        ("config", "gs://my-bucket"),
        ("config", "gs://MY/config.yaml"),
        ("config", ""),
        ("input", "s3://my-bucket/a.svs"),
        ("input", "gs://my-bucket/"),
        ("input", "my-bucket/a.svs"),
        ("output", "gs://my-bucket/out/*"),
        ("output", "gs://my-bucket"),
        ("output", "/tmp/out"),
        ("sdk_container_image", "europe-west4-docker.pkg.dev/p/r/image:1 --privileged"),
        ("sdk_container_image", "https://europe-west4-docker.pkg.dev/p/r/image:1"),
        ("sdk_container_image", "image"),
        ("sdk_container_image", "pkg.dev/p/image@sha256:12"),
    ],
)
def test_the_template_refuses_what_cannot_be_right(name, value):
    assert not accepts(name, value)


def test_a_digest_and_a_port_are_part_of_the_name_of_an_image():
    assert accepts("sdk_container_image", "localhost:5000/patchbeam@sha256:" + "0af9" * 16)


def copied():
    """(source, target) of what the Dockerfile takes from the repository."""
    lines = [line.split()[1:] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    return [(source, target) for *sources, target in lines for source in sources]


def test_what_the_image_copies_exists():
    assert [source for source, _ in copied() if not (REPO / source).exists()] == []
    packages = {source for source, _ in copied() if (REPO / source).is_dir()}
    assert packages == {path.parent.name for path in REPO.glob("*/py.typed")}


def test_the_image_calls_the_launcher_that_it_copies():
    (workdir,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.M)
    (called,) = re.findall(r"^ENV FLEX_TEMPLATE_PYTHON_PY_FILE=(\S+)$", DOCKERFILE, re.M)
    assert f"{workdir}/{dict(copied())['deploy/dataflow/main.py']}" == called


def test_the_image_keeps_the_entrypoint_of_beam_and_resolves_nothing():
    assert not re.search(r"^(ENTRYPOINT|CMD) ", DOCKERFILE, re.M)
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert len(installs) == 2
    assert all("--no-deps" in install for install in installs)
    assert "-r requirements.lock -r requirements-gpu.lock" in installs[0]


def locked(path):
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.M))


def test_the_image_has_the_beam_of_the_lock_and_a_python_that_is_allowed():
    ((python, beam),) = re.findall(r"^FROM apache/beam_python([\d.]+)_sdk:([\d.]+)$", DOCKERFILE, re.M)
    assert beam == locked(REPO / "requirements.lock")["apache-beam"] == importlib.metadata.version("apache-beam")
    (allowed,) = re.findall(r'^requires-python = "(.+)"$', (REPO / "pyproject.toml").read_text(), re.M)
    assert python in SpecifierSet(allowed)
    (of_launcher,) = re.findall(r"^FROM gcr\.io/\S+/python(\d+)-template-launcher-base:\S+ AS", DOCKERFILE, re.M)
    assert of_launcher == python.replace(".", "")


def test_the_cuda_libraries_are_those_that_the_locked_tensorflow_asks_for():
    required = [Requirement(line) for line in importlib.metadata.requires("tensorflow")]
    cuda = {r.name: r.specifier for r in required if r.marker and "and-cuda" in str(r.marker)}
    pinned = locked(DEPLOY / "requirements-gpu.lock")
    assert pinned.keys() == cuda.keys()
    assert {name: version for name, version in pinned.items() if version not in cuda[name]} == {}
    tensorflow = locked(REPO / "requirements.lock")["tensorflow"]
    assert importlib.metadata.version("tensorflow") == tensorflow
    assert f"tensorflow[and-cuda]=={tensorflow}" in (DEPLOY / "requirements-gpu.lock").read_text()


def test_the_command_of_the_documentation_publishes_without_gpu_and_without_dataflow(config):
    (arguments, flags) = re.search(r"patchbeam build (\S+ --set \S+) -- (.+)", DOCS).groups()
    path, _, override = arguments.split()
    local = load_config(str(REPO / path), [override])
    assert local.workers.device == "cpu"
    assert runs_locally(parse_options(flags.split(), local.beam))
    assert local.content_digest() == config.content_digest()


def test_a_description_of_a_job_cannot_be_waited_for():
    result = DataflowPipelineResult(None, None)  # what a run with --template_location returns
    result.wait_until_finish()
    assert result.state == "DONE"


@pytest.fixture
def small(make_config, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return make_config(
        input={"images": str(tmp_path / "*.png")}, output={"path": str(tmp_path / "out")}, patch={"size": 32}
    )


def test_a_build_publishes_what_the_launcher_had_written_and_then_there_is_no_job(small, monkeypatch):
    monkeypatch.setattr("pipeline.build.summarize", lambda *_: None)  # takes seconds, and is not what is tested
    options = parse_options(["--direct_num_workers=1"])

    folder = launcher.submit(small, options)
    assert lifecycle.latest(small.output.path) is None

    outcome = build(small, options)
    assert outcome.folder == folder
    assert outcome.manifest.counters == {"images_opened": 1, "shards_reused": 1}
    assert outcome.manifest.splits["train"].patches == 2
    assert launcher.submit(small, options) is None


def test_the_launcher_takes_parameters_and_the_flags_that_dataflow_adds(monkeypatch):
    given = []
    monkeypatch.setattr(launcher, "submit", lambda *arguments: given.append(arguments) or "gs://b/out/versions/v")
    launcher.main(
        [f"--config={CONFIG}", "--input=gs://b/*.svs", "--output=gs://b/out", "--region=us-central1",
         "--max_num_workers=3", "--template_location=gs://b/staging/job_object", "--job_name=j", '--labels={"a": "b"}']
    )  # fmt: skip
    ((config, options),) = given
    assert config.input.images == ("gs://b/*.svs",)
    assert config.output.path == "gs://b/out"
    said = options.get_all_options()
    assert said["template_location"] == "gs://b/staging/job_object"
    assert (said["region"], said["max_num_workers"], said["project"]) == ("us-central1", 3, "my-project")
    assert options.view_as(StandardOptions).runner == "DataflowRunner"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inptu=gs://b/*.svs"], "patchbeam: Beam options: --inptu=gs://b/*.svs: not known to Beam"),
        (["--regio=here"], "patchbeam: Beam options: --regio=here: not known to Beam"),
    ],
)
def test_the_launcher_refuses_flags_that_nobody_knows(arguments, message):
    with pytest.raises(SystemExit) as caught:
        launcher.main([f"--config={CONFIG}", *arguments])
    assert str(caught.value).startswith(message)
