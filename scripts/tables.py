"""The documents' tables of fields and of settings, from the code: `python scripts/tables.py` prints both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parent.parent))  # it is run as a script, too

from core.config import Settings
from schemas.params import KINDS, limits_of
from schemas.request import FIELDS, IMAGE_FIELD


def fields_table() -> str:
    """The documents' table of fields, in Markdown."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, schema in FIELDS.items():
        default = f"`{orjson.dumps(schema['default']).decode()}`" if "default" in schema else ""
        kind = _type_in_words(schema) + (", required" if name == IMAGE_FIELD else "")
        rows.append(f"| `{name}` | {kind} | {default} | {schema['description']} |")
    return "\n".join(rows)


def _type_in_words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f'`"{choice}"`' for choice in schema["enum"])
    limits = f" {limits_of(schema)}" if "maximum" in schema else ""
    return KINDS[schema["type"]].removeprefix("a ") + limits


def settings_table() -> str:
    """The documents' table of variables, in Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        shown = field.default.name if isinstance(field.default, Path) else str(field.default)
        default = f"`{shown}`" if shown else ""
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{fields_table()}\n\n{settings_table()}\n")
