"""The reference of every config key, from the schema to docs/training.md: `python -m training.config_reference`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.config import RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- config: python -m training.config_reference -->", "<!-- /config -->"

Schema = Mapping[str, Any]


def updated(page: str) -> str:
    """Returns the page with the reference between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no place for the config reference; {BEGIN} and {END} expected")
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


def reference() -> str:
    """Returns one Markdown table per section of the config."""
    schema = RunConfig.model_json_schema()
    return "\n\n".join(_tables(schema, schema["$defs"], ""))


def _tables(section: Schema, definitions: Schema, prefix: str) -> Iterator[str]:
    """The table of a section's own keys, then those of the sections inside it."""
    keys = {name: key for name, key in section["properties"].items() if "$ref" not in key}
    rows = [
        f"| `{prefix}{name}` | {_default(key)} | {_values(key)} | {_described(key)} |" for name, key in keys.items()
    ]
    title = f"### `{prefix.rstrip('.')}`" if prefix else "### The run"
    yield "\n".join(
        [title, "", _described(section), "", "| key | default | values | meaning |", "|---|---|---|---|", *rows]
    )
    for name, key in section["properties"].items():
        if "$ref" in key:
            yield from _tables(definitions[key["$ref"].rpartition("/")[2]], definitions, f"{prefix}{name}.")


def _default(key: Schema) -> str:
    return f"`{json.dumps(key['default'], ensure_ascii=False)}`" if "default" in key else "required"


def _described(key: Schema) -> str:
    return " ".join(key.get("description", "").split()).replace("|", "\\|")


def _values(key: Schema) -> str:
    """What a key may be, in words."""
    if "enum" in key:
        return ", ".join(f"`{value}`" for value in key["enum"])
    if "const" in key:
        return f"`{key['const']}`"
    if "anyOf" in key:
        return " or ".join(_values(option) for option in key["anyOf"])
    if "prefixItems" in key:
        return f"{len(key['prefixItems'])} times {_values(key['prefixItems'][0])}"
    if "items" in key:
        return f"list of {_values(key['items'])}"
    signs = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "multipleOf": "multiple of",
    }
    bounds = [f"{sign} {key[name]:,}" for name, sign in signs.items() if name in key]
    kind = {"boolean": "`true`, `false`", "string": "text", "null": "`null`", "object": "mappings"}.get(
        str(key["type"]), str(key["type"])
    )
    return " ".join([kind, ", ".join(bounds)]).strip()


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
