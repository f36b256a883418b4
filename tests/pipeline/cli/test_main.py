"""What the command line knows of configurations, and what it costs those who do not need it."""

import json
import subprocess
import sys

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from helpers import REPO

from pipeline.cli.main import main

CONFIGS = sorted((REPO / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema():
    return json.loads(CliRunner().invoke(main, ["schema"], catch_exceptions=False).output)


def problems(schema, values):
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [error.json_path for error in validator(schema).iter_errors(values)]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_configuration_passes_the_schema(schema, path):
    assert problems(schema, yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"patch": {"size": "large"}}, "$.patch.size"),
        ({"patch": {"sizes": 256}}, "$.patch"),
        ({"gate": {}}, "$"),
        ({"output": {"path": "out", "encoding": "gif"}}, "$.output.encoding"),
    ],
)
def test_the_schema_finds_what_is_wrong(schema, section, where):
    values = {"input": {"images": "a"}, "output": {"path": "out"}}
    assert problems(schema, values) == []
    assert problems(schema, values | section) == [where]


def test_a_process_that_decodes_has_loaded_neither_the_command_line_nor_the_configuration():
    program = (
        "import importlib, sys, pipeline.readers.decoder as decoder\n"
        "for name in decoder._COMMON: importlib.import_module(name)\n"
        "print(sorted({'click', 'yaml', 'pydantic', 'tensorflow', 'apache_beam'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
