"""Imports run downward only, and what answers a user at once does not wait for TensorFlow or Beam."""

import ast
import subprocess
import sys

import pytest
from helpers import REPO

HEAVY = {"tensorflow", "tensorflow_transform", "apache_beam"}


def find_modules(root):
    """Every module of all packages by its dotted name."""
    files = [
        path for package in ("patchbeam", "transforms", "pipeline") for path in sorted((root / package).rglob("*.py"))
    ]
    dotted = lambda path: ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    return {dotted(path): path for path in files}


MODULES = find_modules(REPO)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def all_imports(tree):
    """Names of what is imported anywhere, functions and type checking included; ``from a import b`` gives a and a.b."""
    names = set()
    for node in ast.walk(tree):
        names |= imported_by(node)
    return names


def imports_on_import(tree):
    """The same for what runs when the module is imported: not in functions, not for type checkers."""
    names, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        names |= imported_by(node)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return names


def imported_by(node):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name their package, so that this test can follow them"
        return {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def packages(names):
    return {name.partition(".")[0] for name in names}


def imported_in_the_end(name, modules=MODULES):
    """Other people's packages that come with ``import name``, each with the chain of our modules that leads there."""
    found, chains = {}, {name: (name,)}
    queue = [name]
    while queue:
        module = queue.pop()
        for imported in sorted(imports_on_import(parse(modules[module]))):
            parts = imported.split(".")
            prefixes = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            ours = [prefix for prefix in prefixes if prefix in modules]
            if not ours:
                found.setdefault(parts[0], chains[module])
            for other in ours:  # importing a.b runs a/__init__.py too
                if other not in chains:
                    chains[other] = (*chains[module], other)
                    queue.append(other)
    return found


def test_all_packages_are_found():
    names = {"patchbeam", "transforms", "transforms.grid", "pipeline", "pipeline.config", "pipeline.readers"}
    assert names <= MODULES.keys()


def test_imports_are_told_apart_by_when_they_run():
    tree = ast.parse("""
import a.b
from c import d
if TYPE_CHECKING:
    import hidden
else:
    import e
try:
    import f
except ImportError:
    pass
class C:
    import g
    def method(self):
        import late
def function():
    from later import x
""")

    assert imports_on_import(tree) == {"a.b", "c", "c.d", "e", "f", "g"}
    assert all_imports(tree) - imports_on_import(tree) == {"hidden", "late", "later", "later.x"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.partition(".")[0] == "transforms"])
def test_transforms_know_neither_the_pipeline_nor_beam(name):
    assert packages(all_imports(parse(MODULES[name]))) & {"pipeline", "apache_beam"} == set()


def test_the_grid_imports_nothing_of_ours():
    assert packages(all_imports(parse(MODULES["transforms.grid"]))) & {"pipeline", "transforms"} == set()


@pytest.mark.parametrize(
    "name", ["patchbeam", "pipeline.config", "pipeline.cli.main", "pipeline.inputs.listing", "pipeline.storage"]
)
def test_what_answers_at_once_imports_neither_tensorflow_nor_beam(name):
    chains = imported_in_the_end(name)

    assert {package: chain for package, chain in chains.items() if package in HEAVY} == {}


def test_heavy_imports_are_seen_through_our_own_modules(tmp_path):
    for file, text in {
        "pipeline/__init__.py": "",
        "pipeline/cli/__init__.py": "",
        "pipeline/cli/main.py": "import click\nfrom pipeline.readers.formats import jpeg",
        "pipeline/readers/__init__.py": "import numpy",
        "pipeline/readers/formats/__init__.py": "",
        "pipeline/readers/formats/jpeg.py": "from transforms import cut",
        "transforms/__init__.py": "",
        "transforms/cut.py": "import tensorflow as tf\nfrom pipeline import cli",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)

    assert imported_in_the_end("pipeline.cli.main", find_modules(tmp_path)) == {
        "click": ("pipeline.cli.main",),
        "numpy": ("pipeline.cli.main", "pipeline.readers"),
        "tensorflow": ("pipeline.cli.main", "pipeline.readers.formats.jpeg", "transforms.cut"),
    }


def test_the_command_line_starts_without_tensorflow_and_beam():
    script = f"import sys, pipeline.cli.main; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_what_plans_does_not_import_tensorflow():
    """It takes seconds, and prints; a plan and an unchanged build do without it."""
    program = "import pipeline.build, pipeline.planning.known_headers, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPO).returncode == 0
