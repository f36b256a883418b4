"""Writes what follows from the schema of the configuration: the key reference, the table of effects, the JSON schema.

python docs/generate.py           writes them
python docs/generate.py --check   ends with 1 if one of them is not what it would write
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Config, Effect, Key, json_schema, keys_of  # noqa: E402

_COSTS = {
    Effect.PIXELS: "reads and cuts everything again",
    Effect.NAMES: "writes records again or moves them; nothing is opened",
    Effect.REPORT: "nothing",
}
_HEAD = """# Every key of the configuration

A configuration is a YAML file. `--set KEY=VALUE` changes a key, for example `--set patch.size=512`; `*` stands for a
name of your own. [configs/](../configs) has a commented file for each use, and `patchbeam schema` prints the JSON
schema, which editors use to complete and to check: the files in `configs/` name it in their first line.

The last column says what [a rebuild](rebuilds.md) does when the key changes: *pixels* are cut again, *names* are
written again around the same pixels, *report* changes nothing in the dataset. A key without a default has to be given.

This page is made from the schema by `python docs/generate.py`.
"""


def key_reference() -> str:
    """A table for each section of the configuration."""
    sections: dict[str, list[Key]] = {}
    for key in keys_of(Config):
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    top = sections.pop("")
    parts = [_HEAD]
    for section, keys in [*sections.items(), ("the top level", top)]:
        about = _description_of(section)
        title = f"`{section}`" if section != "the top level" else "At the top level"
        rows = [
            f"| `{key.name}` | {_values(key)} | {_default(key)} | {key.field.description} | {key.effect} |"
            for key in keys
        ]
        head = "| key | values | default | meaning | a change |\n|---|---|---|---|---|\n"
        parts.append(f"## {title}\n\n" + (f"{about}\n\n" if about else "") + head + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _description_of(section: str) -> str:
    model: Any = Config
    field = None
    for part in section.split("."):
        if part != "*" and part in getattr(model, "model_fields", {}):
            field = model.model_fields[part]
            model = next(iter(_models_in(field.annotation)), model)
    return field.description or "" if field else ""


def _models_in(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def _property(key: Key) -> dict[str, Any]:
    """The JSON schema of a key."""
    schema = json_schema()
    node: dict[str, Any] = schema
    for part in key.name.split("."):
        node = _resolved(node, schema)
        node = node["additionalProperties"] if part == "*" else node["properties"][part]
    return node


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", ()):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _values(key: Key) -> str:
    """What a key may be, in words."""
    return _said(_property(key)) or "anything"


def _said(node: dict[str, Any]) -> str:
    if "$ref" in node:
        return "{" + ", ".join(_resolved(node, json_schema())["properties"]) + "}"
    for several in ("anyOf", "oneOf"):
        if several in node:
            said = [_said(option) for option in node[several] if option.get("type") != "null"]
            return ", ".join(dict.fromkeys(said))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        items = node.get("prefixItems") or [node["items"]]
        return f"[{', '.join(_said(item) for item in items)}{'' if 'prefixItems' in node else ', ...'}]"
    if node.get("type") == "object":
        value = node.get("additionalProperties")
        return f"{{name: {_said(value)}}}" if isinstance(value, dict) else "{...}"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return words.get(node.get("type", ""), "") + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    low = next(
        (f"{sign} {node[name]:g}" for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">")) if name in node), ""
    )
    high = next(
        (f"{sign} {node[name]:g}" for name, sign in (("maximum", "≤"), ("exclusiveMaximum", "<")) if name in node), ""
    )
    return "".join(f" {bound}" for bound in (low, high) if bound)


def _default(key: Key) -> str:
    if key.field.is_required():
        return ""
    value = key.field.default
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    if value is None or value in ((), {}):
        return "–"
    return f"`{json.dumps(value)}`"


def effects_table() -> str:
    """The table of docs/rebuilds.md."""
    rows = ["| effect | a build | keys |", "|---|---|---|"]
    for effect, cost in _COSTS.items():
        names = ", ".join(f"`{key.name}`" for key in keys_of(Config) if key.effect == effect)
        rows.append(f"| **{effect}** | {cost} | {names} |")
    return "\n".join(rows)


def outputs() -> dict[pathlib.Path, str]:
    """Every file that is made, and what it holds then."""
    rebuilds = ROOT / "docs/rebuilds.md"
    between = re.compile(r"(<!-- effects: made by docs/generate.py -->\n).*?(\n<!-- end -->)", re.DOTALL)
    text, found = between.subn(
        lambda match: f"{match[1]}{effects_table()}{match[2]}", rebuilds.read_text(encoding="utf-8")
    )
    if not found:
        raise SystemExit(f"{rebuilds}: has no place for the table of effects")
    return {
        ROOT / "docs/configuration.md": key_reference(),
        ROOT / "configs/schema.json": json.dumps(json_schema(), indent=1) + "\n",
        rebuilds: text,
    }


def main() -> None:
    """Writes or checks all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        raise SystemExit(f"not up to date: {', '.join(map(str, stale))}; run python docs/generate.py")
    for path in stale:
        path.write_text(outputs()[path], encoding="utf-8")


if __name__ == "__main__":
    main()
