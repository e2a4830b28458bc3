"""JSON Lines: records that are added one after another, and survive a program that is stopped."""

import json
from pathlib import Path


def read_records(path: Path) -> list[dict]:
    """The records of a file, [] if there is no file.

    A line that a stopped program left half-written does not count.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def append_records(path: Path, records: list[dict]):
    """Add records, on lines of their own even if the last one was left half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with open(path, "a", encoding="utf-8") as file:
        if half_written:
            file.write("\n")
        for record in records:
            file.write(json.dumps(record) + "\n")
