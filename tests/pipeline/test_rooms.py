"""The rooms of the house: which may import which. Read from the imports themselves, those in functions included."""

import ast

import pytest
from helpers import REPO

# From the top down; a room imports only rooms that stand below it, and of those only the ones that it names here.
ROOMS = {
    "patchbeam": "pipeline cli build dataset config inputs readers runners errors transforms",
    "pipeline.__main__": "cli",
    "pipeline.cli": "pipeline build dataset versions planning readers inputs config elements storage runners parallel"
    " tensorflow_import errors transforms",
    "pipeline.build": "dataset versions shards planning inputs config elements storage runners tensorflow_import"
    " errors",
    "pipeline": "dataset",
    "pipeline.dataset": "versions planning config elements storage parallel tensorflow_import errors transforms",
    "pipeline.versions": "shards planning config elements storage runners child_processes errors transforms",
    "pipeline.shards": "planning readers inputs config elements storage parallel errors transforms",
    "pipeline.planning": "readers inputs config elements storage parallel errors transforms",
    "pipeline.readers": "inputs config elements storage parallel child_processes errors transforms",
    "pipeline.inputs": "config elements storage errors transforms",
    "pipeline.config": "errors transforms",
    "pipeline.elements": "errors transforms",
    "pipeline.storage": "errors",
    "pipeline.runners": "child_processes parallel errors",
    "pipeline.tensorflow_import": "",
    "pipeline.child_processes": "",
    "pipeline.parallel": "errors",
    "pipeline.errors": "",
    "transforms": "",
}
# Libraries that a room never imports, not even in a function.
NEVER = {
    "pipeline.config": {"apache_beam", "tensorflow", "pyarrow", "numpy"},
    "pipeline.inputs": {"apache_beam", "tensorflow"},
    "pipeline.planning": {"tensorflow"},
    "pipeline.readers": {"apache_beam", "click"},
    "pipeline.errors": {"click", "pydantic", "yaml"},
    "pipeline.storage": {"tensorflow", "pydantic", "yaml"},
    "transforms": {"apache_beam", "click", "pydantic", "yaml"},
}


def room_of(name):
    """The room that a module is in: the longest one that its name begins with."""
    return max((room for room in ROOMS if name == room or name.startswith(f"{room}.")), key=len, default=None)


def full(room):
    return room if room in ("pipeline", "transforms") else f"pipeline.{room}"


def modules(root):
    paths = [path for top in ("patchbeam", "pipeline", "transforms") for path in sorted((root / top).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(path, known):
    """Modules that a file imports anywhere; of ``from a import b`` it is ``a.b`` where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names)


def problem(name, imported):
    """The sentence about an import that is not allowed; None for one that is."""
    room, other = room_of(name), room_of(imported)
    if other is None:
        library = imported.partition(".")[0]
        if library in NEVER.get(room, ()) and name != "pipeline.storage.beam":
            return f"{name} imports {imported}: {room} never imports {library}"
    elif room == "pipeline.versions" and other == "pipeline.shards" and imported != "pipeline.shards.receipts":
        return f"{name} imports {imported}: {room} may import pipeline.shards.receipts alone of that room"
    elif other != room and other not in map(full, ROOMS[room].split()):
        return f"{name} imports {imported}: {room} may import {ROOMS[room].replace(' ', ', ') or 'no other room'}"
    return None


def test_a_room_names_only_rooms_that_stand_below_it():
    order = list(ROOMS)
    for room, below in ROOMS.items():
        for other in map(full, below.split()):
            assert order.index(other) > order.index(room), f"{room} names {other}, which is above"


def test_every_module_is_in_a_room():
    assert [name for name in modules(REPO) if room_of(name) is None] == []


def test_imports_run_down():
    known = modules(REPO)
    found = [problem(name, imported) for name, path in known.items() for imported in imports_of(path, known)]
    assert sorted({sentence for sentence in found if sentence}) == []


@pytest.mark.parametrize(
    ("name", "imported", "said"),
    [
        ("pipeline.readers.whole", "pipeline.versions", "pipeline.readers may import inputs, config"),
        ("pipeline.inputs.listing", "pipeline.readers.rasters", "pipeline.inputs may import config, elements"),
        ("pipeline.storage.files", "pipeline.config", "pipeline.storage may import errors"),
        ("transforms.grid", "pipeline.errors", "transforms may import no other room"),
        ("pipeline.inputs.points", "tensorflow", "pipeline.inputs never imports tensorflow"),
    ],
)
def test_an_import_that_runs_up_is_named_in_a_sentence(name, imported, said):
    assert problem(name, imported).startswith(f"{name} imports {imported}: {said}")


def test_a_wrong_import_is_seen_wherever_it_stands(tmp_path):
    (tmp_path / "pipeline/readers").mkdir(parents=True)
    path = tmp_path / "pipeline/readers/whole.py"
    path.write_text("def f():\n    from pipeline import versions\n")
    (imported,) = imports_of(path, modules(REPO))
    assert problem("pipeline.readers.whole", imported)
