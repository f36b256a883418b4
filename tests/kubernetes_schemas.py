"""Schemas of what is deployed on Kubernetes: they are in jars on Maven Central, which Maven brings into the cache."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import zipfile

import jsonschema
import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patchbeam" / "crd"
# A client library that carries the schemas of Kubernetes itself.
FABRIC8 = "io.fabric8:kubernetes-model-{}:6.13.5"


@functools.cache
def member_of(artifact, member):
    """The bytes of a file in a jar of Maven Central; skips the test where it cannot be had."""
    _, name, version = artifact.split(":")
    jar = CACHE / f"{name}-{version}.jar"
    if not jar.exists():
        if not shutil.which("mvn"):
            pytest.skip(f"the schema is in {artifact} on Maven Central, and there is no mvn on the PATH to fetch it")
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        command = ["mvn", "--batch-mode", "--quiet", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={CACHE}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        if done.returncode and "CI" not in os.environ:
            pytest.skip(f"Maven could not fetch {artifact}: {done.stdout[-500:]}")
        assert not done.returncode, done.stdout[-2000:]
    return zipfile.ZipFile(jar).read(member)


def strict(schema):
    """The schema, with unknown keys forbidden: Kubernetes drops them, and a misspelled key would be without effect.

    Also in the form of JSON Schema what Kubernetes and fabric8 write in a way of their own.
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    java_type = str(schema.get("javaType") or schema.get("existingJavaType"))
    if schema.get("x-kubernetes-int-or-string") or java_type.endswith(("Quantity", "IntOrString")):
        return {"type": ["integer", "string"]}
    new = {key: strict(value) for key, value in schema.items() if not (key == "required" and value is True)}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            new["additionalProperties"] = False
    return new


def assert_valid(value, schema, **keywords):
    found = jsonschema.validators.validator_for(schema)(schema, **keywords).iter_errors(value)
    problems = [f"{error.json_path}: {error.message[:300]}" for error in found]
    assert not problems, "\n".join(problems)


def kubernetes_schema(jar, version, kind):
    definitions = json.loads(member_of(FABRIC8.format(jar), "schema/kube-schema.json"))["definitions"]
    of_version = lambda name: definitions[name]["properties"]["apiVersion"].get("default") == version
    (name,) = (each for each in definitions if each.endswith(f"_{kind}") and of_version(each))
    return {"$ref": f"#/definitions/{name}", "definitions": strict(definitions)}
