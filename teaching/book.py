"""The notebooks as the teaching kit cites them: `04 › It learns` is a section of notebook 04."""

import re
from pathlib import Path

import nbformat

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"
NUMBERS = [f"{i:02d}" for i in range(12)]
CITATION = re.compile(r"`(\d\d) › ([^`]+)`")
HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)


def path_of(number: str) -> Path:
    [path] = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return path


def read(number: str):
    return nbformat.read(path_of(number), 4)


def title_of(number: str) -> str:
    """What stands at the top of a notebook: '04 · The encoder: ...'."""
    return next(heading for level, heading, _ in headings(read(number).cells) if level == 1)


def headings(cells: list) -> list[tuple[int, str, int]]:
    """(level, text, index of the cell) of every heading, in their order."""
    found = []
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for marks, text in HEADING.findall(cell.source):
                found.append((len(marks), text.replace("\\*", "*"), index))
    return found


def section(number: str, wanted: str) -> list:
    """The cells under a heading, those under its own lower headings among them.

    ValueError if the notebook has no such heading.
    """
    cells = read(number).cells
    found = headings(cells)
    for place, (level, text, first) in enumerate(found):
        if text == wanted:
            later = [index for other, _, index in found[place + 1 :] if other <= level]
            last = later[0] if later else len(cells)
            return cells[first : max(last, first + 1)]
    known = [text for _, text, _ in found]
    raise ValueError(f"Notebook {number} has no heading {wanted!r}; it has {known}.")


def opening(number: str) -> list:
    """The cells before the first heading below the title: set-up and imports."""
    cells = read(number).cells
    first = next(index for level, _, index in headings(cells) if level == 2)
    return cells[:first]


def is_tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def text_of(number: str) -> str:
    """The text, without the exercises' cards."""
    texts = [
        cell.source
        for cell in read(number).cells
        if cell.cell_type == "markdown" and not is_tagged(cell, "setup")
        if not is_tagged(cell, "exercise")
    ]
    return "\n".join(texts)


def words_of(number: str) -> int:
    text = re.sub(r"\]\([^)]*\)", "]", text_of(number))  # where a link leads
    text = re.sub(r"</?[a-zA-Z][^>]*>", "", text)
    text = re.sub(r"\$\$?[^$]+\$\$?", "formula", text)
    return len(re.findall(r"\w[\w'*-]*", text))
