"""The exit codes that the documents list are those that there are, and commands end with them."""

import re
import subprocess
import sys

import pytest
from helpers import REPO

from pipeline import errors
from pipeline.errors import Exit


def test_the_documents_list_all_of_them():
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)] == [code.value for code in Exit]
    table = re.findall(r"^(\d+) +([A-Z]+) ", errors.__doc__, re.MULTILINE)
    assert table == [(str(code.value), code.name) for code in Exit]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--notify-command", "no-such-program x"], "'no-such-program' is no program that can be run; give its path"),
        (["--notify-command", "echo 'open"], '"echo \'open": No closing quotation'),
    ],
)
def test_a_command_that_cannot_be_told_is_refused_before_the_run(tmp_path, arguments, said):
    command = [sys.executable, "-m", "patchbeam", "build", "configs/quickstart.yaml", *arguments]
    done = subprocess.run([*command, "--output", str(tmp_path / "out")], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == Exit.USAGE
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
