"""The decks of slides/, with the notebooks' own figures and code: outputs/slides/*.html.

    python teaching/slides.py

A deck is Markdown; `---` begins the next slide. A line such as

    @ figure 2 of `04 › It learns`
    @ code 1 of `04 › E4T's sampling loop`
    @ printed 1 of `04 › It learns`

takes the second picture, the first code cell or the first printed text of that section. Behind it,
after a colon, may stand a picture's words, where the notebook gives it none. What follows "Note:"
is for the speaker (key S). A page is one file: it needs no network, and it prints.
"""

import re
from html import escape
from pathlib import Path
from string import Template

import book
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from pygments.formatters import HtmlFormatter

FOLDER = Path(__file__).parent / "slides"
OUT = Path(__file__).parent.parent / "outputs" / "slides"
TAKEN = re.compile(
    r"^@ (figure|code|printed) (\d+) of `(\d\d) › ([^`]+)`(?:: (.+))?$", re.MULTILINE
)
PICTURES = ("image/png", "image/jpeg")


def figures(cells: list, words: str | None = None) -> list[str]:
    """The pictures that the cells show, as HTML with their alternative texts."""
    found = []
    for output in _outputs(cells):
        for kind in PICTURES:
            if kind in output.get("data", {}):
                alt = escape(words or output.metadata.get(kind, {}).get("alt", ""))
                data = "".join(output.data[kind]).replace("\n", "")
                found.append(f'<img alt="{alt}" src="data:{kind};base64,{data}">')
    return found


def printed(cells: list, words: str | None = None) -> list[str]:
    texts = [output.text for output in _outputs(cells) if output.output_type == "stream"]
    return [f"```\n{text.rstrip()}\n```" for text in texts]


def code(cells: list, words: str | None = None) -> list[str]:
    return [f"```python\n{cell.source}\n```" for cell in cells if cell.cell_type == "code"]


def _outputs(cells: list) -> list:
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def take(match: re.Match) -> str:
    """What an @ line stands for. ValueError if the section has not so many."""
    kind, count, number, heading, words = match.groups()
    cells = book.section(number, heading)
    found = {"figure": figures, "code": code, "printed": printed}[kind](cells, words)
    if int(count) > len(found):
        raise ValueError(f"`{number} › {heading}` has {len(found)} of {kind!r}, not {count}.")
    return found[int(count) - 1]


def slides_of(deck: Path) -> list[str]:
    return re.split(r"^---$", deck.read_text("utf-8"), flags=re.MULTILINE)


def html_of(slide: str) -> str:
    text, _, note = slide.partition("\nNote:")
    body = markdown2html_mistune(TAKEN.sub(take, text.strip()))
    aside = f"<aside>{escape(note.strip())}</aside>" if note else ""
    return f"<section>\n{body}\n{aside}</section>"


def build(deck: Path, folder: Path = OUT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    slides = slides_of(deck)
    title = re.search(r"^# (.+)$", slides[0], re.MULTILINE)[1]
    page = Template((FOLDER / "page.html").read_text("utf-8"))
    target = folder / f"{deck.stem}.html"
    text = page.substitute(
        title=escape(title),
        highlighting=HtmlFormatter().get_style_defs(".highlight"),
        slides="\n".join(map(html_of, slides)),
    )
    target.write_text(text, "utf-8")
    return target


if __name__ == "__main__":
    for deck in sorted(FOLDER.glob("*.md")):
        made = build(deck)
        print(f"{made}: {made.stat().st_size // 1024} KB")
