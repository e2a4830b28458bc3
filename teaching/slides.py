"""The decks of slides/, with the notebooks' own figures and code: outputs/slides/*.slides.html.

    python teaching/slides.py

A deck is Markdown; `---` begins the next slide. A line such as

    @ figure 2 of `04 › It learns`
    @ code 1 of `04 › E4T's sampling loop`
    @ printed 1 of `04 › It learns`

takes the second picture, the first code cell or the first printed text of that section. What
follows "Note:" is for the speaker (key S).
"""

import re
from pathlib import Path

import book
from nbconvert import SlidesExporter
from nbformat.v4 import new_markdown_cell, new_notebook

FOLDER = Path(__file__).parent / "slides"
OUT = Path(__file__).parent.parent / "outputs" / "slides"
TAKEN = re.compile(r"^@ (figure|code|printed) (\d+) of `(\d\d) › ([^`]+)`$", re.MULTILINE)
PICTURES = ("image/png", "image/jpeg")


def figures(cells: list) -> list[str]:
    """The pictures that the cells show, as HTML with their alternative texts."""
    found = []
    for output in _outputs(cells):
        for kind in PICTURES:
            if kind in output.get("data", {}):
                alt = output.metadata.get(kind, {}).get("alt", "").replace('"', "&quot;")
                data = "".join(output.data[kind]).replace("\n", "")
                found.append(f'<img alt="{alt}" src="data:{kind};base64,{data}">')
    return found


def printed(cells: list) -> list[str]:
    texts = [output.text for output in _outputs(cells) if output.output_type == "stream"]
    return [f"```\n{text.rstrip()}\n```" for text in texts]


def code(cells: list) -> list[str]:
    return [f"```python\n{cell.source}\n```" for cell in cells if cell.cell_type == "code"]


def _outputs(cells: list) -> list:
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def take(match: re.Match) -> str:
    """What an @ line stands for. ValueError if the section has not so many."""
    kind, count, number, heading = match.groups()
    cells = book.section(number, heading)
    found = {"figure": figures, "code": code, "printed": printed}[kind](cells)
    if int(count) > len(found):
        raise ValueError(f"`{number} › {heading}` has {len(found)} of {kind!r}, not {count}.")
    return found[int(count) - 1]


def notebook_of(deck: Path):
    cells = []
    for slide in re.split(r"^---$", deck.read_text("utf-8"), flags=re.MULTILINE):
        text, _, note = slide.partition("\nNote:")
        kinds = {"slide": TAKEN.sub(take, text.strip()), "notes": note.strip()}
        for kind, source in kinds.items():
            if source:
                metadata = {"slideshow": {"slide_type": kind}}
                cells.append(new_markdown_cell(source, metadata=metadata))
    return new_notebook(cells=cells, metadata={"title": deck.stem})


def build(deck: Path, folder: Path = OUT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    body, _ = SlidesExporter(reveal_number="c/t").from_notebook_node(notebook_of(deck))
    target = folder / f"{deck.stem}.slides.html"
    target.write_text(body, "utf-8")
    return target


if __name__ == "__main__":
    for deck in sorted(FOLDER.glob("*.md")):
        made = build(deck)
        print(f"{made}: {made.stat().st_size // 1024} KB")
