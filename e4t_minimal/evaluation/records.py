"""JSON Lines: records that are added one after another, and survive a program that is stopped."""

import json
from pathlib import Path
from typing import Any

from ..helpers.reading import read_json_lines


def read_records(path: Path, schema: Any = None) -> list:
    """The records of a file, [] if there is no file.

    A line that a stopped program left half-written does not count. schema: of pydantic; ValueError
    for a line that is no such record.
    """
    return read_json_lines(path, schema or dict[str, Any]) if path.exists() else []


def append_records(path: Path, records: list[dict]):
    """Add records, on lines of their own even if the last one was left half-written."""
    lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        lines.insert(0, "\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(lines))
