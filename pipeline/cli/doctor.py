"""Checks whether this machine is ready to build; each check is a line: its subject, what was found, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.inputs.listing import list_images
from pipeline.parallel import cores

_LOW_DISK = 10 * 10**9


class Finding(NamedTuple):
    """A line of the report; the status ``note`` is for what only some builds need."""

    status: Literal["ok", "note", "FAIL"]
    subject: str
    text: str


def examine(config: Config | None) -> Iterator[Finding]:
    """Checks the environment and, with a configuration, at its input, output and device."""
    yield _python()
    yield from _packages()
    for check in (_codecs, _decoder, _java):
        yield check()
    yield _devices(config)
    if config and str(config.beam.get("runner", "")).lower() == "flinkrunner":
        yield _flink(config.beam)
    if config:
        yield _access("input", lambda: next(list_images(config.input, config.splits)).uri, "reads the first image,")
        output = _access("output", lambda: _write_and_delete(config.output.path), "writes and deletes a file in")
        yield output
        if output.status == "ok" and storage.is_local(config.output.path):
            yield _disk(config.output.path)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("ok", "python", version)
    return Finding("FAIL", "python", f"{version}; patchbeam runs on 3.11 to 3.13")


def _packages() -> Iterator[Finding]:
    try:
        required = [Requirement(line) for line in importlib.metadata.requires("patchbeam") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("FAIL", "packages", "patchbeam itself is not installed; pip install . in its folder")
        return
    wrong = []
    for requirement in required:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found == "missing" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needed {requirement.specifier}")
    if wrong:
        yield Finding("FAIL", "packages", f"{'; '.join(wrong)}; pip install -r requirements.lock brings the tested set")
    else:
        yield Finding("ok", "packages", f"{len(required)} requirements are met")


def _codecs() -> Finding:
    import numpy as np

    from transforms.encoding import decode_patch, encode_patch

    patch = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    try:
        for encoding in ("png", "jpeg", "raw"):
            decode_patch(encode_patch(patch, encoding), encoding, patch.shape, "uint8")
    except Exception as error:  # whatever a broken installation raises
        return Finding("FAIL", "codecs", f"{encoding}: {error}; pip install --force-reinstall imagecodecs")
    return Finding("ok", "codecs", "PNG, JPEG and raw are written and read")


def _decoder() -> Finding:
    """Starts a process that decodes images, and has it read one."""
    import numpy as np

    from pipeline.errors import Unreadable
    from pipeline.readers.converted import Choice
    from pipeline.readers.isolated import open_isolated
    from transforms.encoding import encode_patch
    from transforms.grid import Box

    patch = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "image.png")
        storage.write_bytes(path, encode_patch(patch, "png"))
        try:
            reader = open_isolated(path, Choice(), 60)
            same = np.array_equal(reader.read(Box(0, 0, 4, 4)), patch)
            reader.close()
        except Unreadable as error:
            return Finding("FAIL", "decoder", f"{error.message}; what it printed stands above")
    if not same:
        return Finding("FAIL", "decoder", "a PNG comes out as another; pip install --force-reinstall imagecodecs")
    return Finding("ok", "decoder", "a process of its own reads a PNG")


def _java() -> Finding:
    if not shutil.which("java"):
        return Finding(
            "note", "java", "not found; Flink on this machine needs it (on Debian: apt-get install openjdk-17-jdk)"
        )
    done = subprocess.run(["java", "-version"], capture_output=True, text=True)  # noqa: S607
    lines = (done.stderr or done.stdout).splitlines()
    return Finding("ok" if done.returncode == 0 else "note", "java", lines[0] if lines else "does not say its version")


def _devices(config: Config | None) -> Finding:
    from pipeline.tensorflow_import import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return Finding("ok", "device", f"TensorFlow {tf.__version__} sees {len(gpus)} GPU and {cores()} cores")
    text = f"TensorFlow {tf.__version__} sees no GPU, {cores()} cores"
    if config and config.workers.device == "gpu":
        built = tf.sysconfig.get_build_info().get("cuda_version", "none")
        return Finding("FAIL", "device", f"{text}, and workers.device is gpu; install a driver and CUDA {built}")
    return Finding("ok", "device", text)


def _flink(options: Mapping[str, Any]) -> Finding:
    """Checks the cluster that the configuration names, and the jar with Beam's runner."""
    from pipeline.runners.flink import cluster_overview

    jar, master = options.get("flink_job_server_jar"), options.get("flink_master")
    if jar and "://" not in jar and not os.path.exists(jar):
        how = "make it with 'mvn -f deploy/flink/pom.xml package'"
        return Finding("FAIL", "flink", f"beam.flink_job_server_jar: {jar} does not exist; {how}")
    jar = jar or "Beam's own jar, which the first build downloads"
    if not master:
        return Finding("ok", "flink", f"a Flink on this machine, by {jar}")
    try:
        cluster = cluster_overview(master)
    except UsageError as error:
        return Finding("FAIL", "flink", str(error))
    slots = f"{cluster['slots-available']} of {cluster['slots-total']} slots free"
    return Finding("ok", "flink", f"{cluster['flink-version']} at {master}, {slots}; submits by {jar}")


def _access(subject: str, attempt: Callable[[], str], what: str) -> Finding:
    try:
        return Finding("ok", subject, f"{what} {attempt()}")
    except (OSError, UsageError) as error:
        return Finding("FAIL", subject, str(error))
    except Exception as error:  # the clients of object stores raise exceptions of their own
        return Finding(
            "FAIL", subject, f"{type(error).__name__}: {error}; check the credentials and the name of the bucket"
        )


def _write_and_delete(folder: str) -> str:
    probe = storage.join(folder, ".doctor")
    storage.write_bytes(probe, b"")
    storage.delete(probe)
    return folder


def _disk(folder: str) -> Finding:
    free = min(shutil.disk_usage(place).free for place in (folder, tempfile.gettempdir()))
    text = f"{free / 1e9:.0f} GB free for {folder} and for the records on their way, in {tempfile.gettempdir()}"
    if free < _LOW_DISK:
        return Finding("note", "disk", f"{text}; patchbeam plan estimates what a build needs")
    return Finding("ok", "disk", text)
