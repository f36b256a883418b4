"""The last run in the text format of Prometheus, for the textfile collector of its node_exporter.

Format: prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import Exit

Samples = Iterable[tuple[Mapping[str, str], float | None]]


def write_metrics(path: str, entry: Mapping[str, Any], success: Mapping[str, Any] | None) -> None:
    """Writes the metrics of a run, whole or not at all.

    Args:
        path: a local file.
        entry: the line of the run, see ``pipeline.cli.runs.describe``.
        success: the line of the last run that ended well, this one or an earlier one; None if there was none.
    """
    storage.write_bytes(path, format_metrics(entry, success).encode())


def format_metrics(entry: Mapping[str, Any], success: Mapping[str, Any] | None) -> str:
    """Returns the metrics as text, without those that a run does not know because it failed before."""
    counters, gates = entry["counters"], entry["gates"]
    measured = ((gate["gate"], *item) for gate in gates for item in gate["measured"].items())
    families: list[tuple[str, str, Samples]] = [
        ("last_run_timestamp_seconds", "When the last run ended.", _one(_seconds(entry["ended"]))),
        ("last_run_duration_seconds", "How long the last run took.", _one(entry["seconds"])),
        ("last_run_exit_code", _EXIT_HELP, _one(entry["exit_code"])),
        (
            "last_success_timestamp_seconds",
            "When the last run ended that published, or found nothing changed; 0 where none is known.",
            _one(_seconds(success["ended"]) if success else 0),
        ),
        ("images", "Images of the version that the last run made or found.", _one(entry["images"])),
        ("images_rejected", "Images of it with rejections.", _one(entry["images_rejected"])),
        ("patches", "Patches of it.", [({"split": split}, count) for split, count in entry["patches"].items()]),
        ("patches_rejected", "Patches that were planned for it and could not be read.", _one(entry["rejected"])),
        ("images_opened", "Images whose header the last run read.", _one(counters.get("images_opened"))),
        ("pixels_decoded", "Pixels that the last run decoded.", _one(counters.get("pixels_decoded"))),
        ("records_copied", "Records that the last run took over.", _one(counters.get("records_copied"))),
        (
            "gate_passed",
            "Whether the version passed this gate.",
            [({"gate": gate["gate"]}, float(gate["passed"])) for gate in gates],
        ),
        (
            "gate_measured",
            "What a gate measured, for drift the distance to the version that was published before.",
            [({"gate": gate, "of": of}, value) for gate, of, value in measured],
        ),
    ]
    return "".join(_family(name, text, samples, entry["output"]) for name, text, samples in families)


def _one(value: float | None) -> Samples:
    return [({}, value)]


_EXIT_HELP = "How the last run ended: " + ", ".join(f"{code.value} {code.name.lower()}" for code in Exit) + "."


def _family(name: str, text: str, samples: Samples, output: str) -> str:
    lines = [
        f"patchbeam_{name}{{{_labels({'output': output, **labels})}}} {value}\n"
        for labels, value in samples
        if value is not None
    ]
    head = f"# HELP patchbeam_{name} {text}\n# TYPE patchbeam_{name} gauge\n"
    return head + "".join(lines) if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    escape = lambda text: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())


def _seconds(utc: str) -> float:
    return datetime.datetime.strptime(utc, "%Y-%m-%dT%H:%M:%S%z").timestamp()
