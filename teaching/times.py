"""How long the notebooks take: to read, to run, to solve.

    python teaching/times.py               # write the table of README.md
    python teaching/times.py measure 04    # run notebook 04, keep its seconds in run-times.json

Reading: the words of the text at 200 a minute, code and pictures not counted; beside it what the
notebook's own head promises, which counts them. Exercises: the minutes that stand
on the cards. Running: seconds of one core, by one thread, as measured here; what else the machine
did meanwhile does not count.
"""

import json
import os
import platform
import re
import sys
import time
from math import ceil
from pathlib import Path

import book
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

HERE = Path(__file__).parent
MEASURED = HERE / "run-times.json"
README = HERE / "README.md"
BEGIN, END = "<!-- times: written by times.py -->", "<!-- end of times -->"
WORDS_A_MINUTE = 200

HEAD = """| notebook | words | reading, min | its own promise, min | running, s | exercises, min |
| --- | ---: | ---: | ---: | ---: | ---: |
"""


def measure(number: str) -> dict:
    """Run a notebook in a fresh kernel of one thread -> its seconds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    notebook = book.read(number)
    notebook.cells.append(new_code_cell("import time\nprint(time.process_time())"))
    start = time.perf_counter()
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(book.NOTEBOOKS)}}
    ).execute()
    return {
        "cpu_seconds": round(float(notebook.cells[-1].outputs[0].text)),
        "wall_seconds": round(time.perf_counter() - start),
        "processor": platform.machine(),
        "on": time.strftime("%Y-%m-%d"),
    }


def measured() -> dict:
    return json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}


def row(number: str, seconds: dict) -> dict:
    """The figures of one notebook; running is None as long as it was not measured."""
    cards = [cell.source for cell in book.read(number).cells if book.is_tagged(cell, "exercise")]
    words = book.words_of(number)
    promise = re.search(r"Reading: (\d+) minutes", book.text_of(number))
    minutes = [int(text) for card in cards for text in re.findall(r"· (\d+) minutes$", card, re.M)]
    return {
        "title": book.title_of(number),
        "words": round(words, -2),
        "reading": ceil(words / WORDS_A_MINUTE),
        "promised": int(promise[1]) if promise else None,
        "running": seconds.get(number, {}).get("cpu_seconds"),
        "exercises": sum(minutes),
    }


COLUMNS = ("words", "reading", "promised", "running", "exercises")


def table() -> str:
    seconds = measured()
    rows = {number: row(number, seconds) for number in book.NUMBERS}
    lines = []
    for number, one in rows.items():
        link = f"[{one['title']}](../notebooks/{book.path_of(number).name})"
        lines.append(_line(link, [one[key] for key in COLUMNS]))
    columns = [[one[key] for one in rows.values()] for key in COLUMNS]
    sums = [None if None in column else sum(column) for column in columns]
    return HEAD + "\n".join([*lines, _line("all", sums)]) + "\n"


def _line(title: str, figures: list) -> str:
    cells = ["not yet" if figure is None else f"{figure:,}" for figure in figures]
    return f"| {title} | {' | '.join(cells)} |"


def write_table():
    text = README.read_text("utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{after}", "utf-8")


def main(arguments: list[str]):
    if arguments[:1] == ["measure"]:
        for number in arguments[1:] or book.NUMBERS:
            kept = {**measured(), number: measure(number)}
            text = json.dumps(dict(sorted(kept.items())), indent=1)
            MEASURED.write_text(text + "\n", "utf-8")
            print(number, kept[number])
    write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
