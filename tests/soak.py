"""All that is tried against bad inputs, with many more examples, and counted: `make soak`.

python tests/soak.py [test_file.py ...]    # default: every file of FILES that there is

What calls `trying.attempt` is counted input by input. Of any other case, each `pytest.raises` of a
ValueError counts as clear, and one without as ok; a case that fails counts as raw.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from trying import LIST, OUTCOMES, record

HERE = Path(__file__).resolve().parent
FILES = (
    "test_inputs.py",
    "test_files.py",
    "test_progress.py",
    "test_distributed.py",
    "test_hooks.py",
    "test_state_machine.py",
    "test_kills.py",
)
BAD = ("raw", "silent", "left over")


class Counting:
    """A pytest plugin: what a case does not record by itself is recorded for it."""

    def __init__(self, path: Path):
        self.path = path
        self.refused = 0

    @contextmanager
    def raises(self, *expected, **options) -> Iterator:
        """`pytest.raises`, counted."""
        with pytest_raises(*expected, **options) as found:
            yield found
        self.refused += issubclass(found.type, ValueError | SystemExit)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.refused, self.size = 0, len(read(self.path))
        return (yield)

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        kind = report.nodeid.split("::")[-1].split("[")[0].removeprefix("test_").replace("_", " ")
        new = read(self.path)[self.size :]
        if report.failed and not any(line["outcome"] in BAD for line in new):
            record(kind, "raw")
        elif report.passed and not new:
            for _ in range(self.refused):
                record(kind, "clear")
            if not self.refused:
                record(kind, "ok")


pytest_raises = pytest.raises


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table_of(lines: list[dict]):
    """Kinds line by line, and their sum."""
    from rich.table import Table

    table = Table("kind", "tried", *OUTCOMES)
    kinds = dict.fromkeys(line["kind"] for line in lines)
    for kind in kinds:
        _add(table, kind, [line["outcome"] for line in lines if line["kind"] == kind])
    table.add_section()
    _add(table, "all", [line["outcome"] for line in lines])
    return table


def _add(table, kind: str, outcomes: list[str]):
    counts = Counter(outcomes)
    table.add_row(kind, str(len(outcomes)), *(str(counts[outcome]) for outcome in OUTCOMES))


def main(names: list[str]) -> int:
    from rich.console import Console

    files = [HERE / name for name in names or FILES if (HERE / name).exists()]
    os.environ["HYPOTHESIS_PROFILE"] = "soak"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tried.jsonl"
        path.touch()
        os.environ[LIST] = str(path)
        counting = Counting(path)
        pytest.raises = counting.raises
        status = pytest.main(["-q", "-m", "", *map(str, files)], plugins=[counting])
        lines = read(path)
    Console(width=120).print(table_of(lines))
    return int(status != 0 or any(line["outcome"] in BAD for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
