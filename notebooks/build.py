"""Exercise cards, from one source: `exercises/NN.toml`.

From it come the cards at the end of notebook NN, and `solutions/NN_solutions.ipynb`.

    python notebooks/build.py          # write the cards of all notebooks
    python notebooks/build.py 01 02    # of these two; then restart both, run all, save them with
                                       # their solutions ("all": every notebook)

A card has: title, difficulty (1-3), minutes, text, start (what the reader completes), check (prints
"right", or "not yet" and why) and hint; and, for the solutions notebook alone, solution, why (one
line after it) and setup (what the main notebook has defined by then).
"""

import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]  # the one place where it stands
GITHUB = "https://github.com"
COLAB = "https://colab.research.google.com"
CHECKED = "# NBVAL_CHECK_OUTPUT\n"

CARD = """### Exercise {number} · {title}
{stars} · {minutes} minutes

{text}

<details><summary>Hint</summary>

{hint}

</details>"""

EXERCISES = """## Exercises

Complete the cell under a card, run it, then run the check below it. When you are done, or stuck
for good: [the solutions]({repository}/blob/main/notebooks/solutions/{title}_solutions.ipynb)."""

SOLUTIONS = """# Solutions · {title}

The exercises of [`{title}`](../{title}.ipynb), solved. \
Made by `build.py` from `exercises/{number}.toml`."""

SETUP = f"""# On Colab, fetch the project and install what is missing (never torch).
# Anywhere else this does nothing.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("e4t_minimal") is None:
    url = "{REPOSITORY}"
    clone = ["git", "clone", "--quiet", "--depth", "1", url, "e4t-minimal"]
    if not Path("e4t-minimal").exists():  # it is there after a restart of the runtime
        subprocess.run(clone, check=True)
    subprocess.run([sys.executable, "e4t-minimal/notebooks/colab.py"], check=True)
    sys.path.insert(0, "e4t-minimal")"""


def cards(number: str) -> list[dict]:
    return tomllib.loads((HERE / "exercises" / f"{number}.toml").read_text("utf-8"))["card"]


def cells_of(number: str, title: str) -> list:
    """The cells of the main notebook: of each card its face, a place to work, and the check."""
    cells = [_text(EXERCISES.format(repository=REPOSITORY, title=title), "exercise")]
    for i, card in enumerate(cards(number), 1):
        cells.append(_text(_face(i, card), "exercise"))
        cells.append(_code(card["start"], "exercise"))
        cells.append(_code(CHECKED + card["check"].strip(), "exercise", "check"))
    return cells


def solutions_of(number: str, title: str) -> list:
    """The cells of the solutions: of each card the text, the check unsolved, and then solved."""
    cells = [_text(SOLUTIONS.format(title=title, number=number))]
    for i, card in enumerate(cards(number), 1):
        check = _code(CHECKED + card["check"].strip(), "check")
        cells.append(_text(f"## Exercise {i} · {card['title']}\n\n{card['text'].strip()}"))
        if card.get("setup"):
            cells.append(_code(card["setup"]))
        cells.append(_code(card["start"]))
        cells.append(check)  # a check that has nothing to find fault with checks nothing
        cells.append(_text("Solved:"))
        cells.append(_code(card["solution"]))
        cells.append(deepcopy(check))
        cells.append(_text(card["why"].strip()))
    return cells


def head_of(path: Path) -> tuple:
    """The badge that opens this very notebook in Colab, and the cell that makes it run there."""
    notebook = f"{REPOSITORY.replace(GITHUB, f'{COLAB}/github')}/blob/main/notebooks/{path.name}"
    badge = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({notebook})"
    return _text(badge, "setup"), _code(SETUP, "setup")


def build(path: Path) -> Path:
    """Put badge, set-up and cards into one notebook, in the place of the old ones.

    Writes its solutions too, and returns their path.
    """
    book = nbformat.read(path, 4)
    old = {cell.source: cell for cell in book.cells}
    cells = _with_head_and_cards(path, book.cells)
    book.cells = [_with_outputs(cell, old.get(cell.source, cell)) for cell in cells]
    nbformat.write(book, path)
    return _build_solutions(path, book.metadata)


def _with_outputs(cell, old):
    """An unchanged cell keeps its outputs, its count and its id."""
    old.metadata = cell.metadata
    return old


def _with_head_and_cards(path: Path, cells: list) -> list:
    text = [cell for cell in cells if not _has(cell, "setup")]
    exercises = [i for i, cell in enumerate(text) if _has(cell, "exercise")]
    if exercises:
        body, end = text[: exercises[0]], text[exercises[-1] + 1 :]
    else:
        body, end = text, []
    first_code = next(i for i, cell in enumerate(body) if cell.cell_type == "code")
    intro, rest = body[:first_code], body[first_code:]
    badge, setup = head_of(path)
    return [badge, *intro, setup, *rest, *cells_of(path.name[:2], path.stem), *end]


def _build_solutions(path: Path, metadata: dict) -> Path:
    target = HERE / "solutions" / f"{path.stem}_solutions.ipynb"
    target.parent.mkdir(exist_ok=True)
    cells = solutions_of(path.name[:2], path.stem)
    for i, cell in enumerate(cells):
        cell.id = f"solution-{i}"
    if not target.exists() or _sources(nbformat.read(target, 4).cells) != _sources(cells):
        nbformat.write(new_notebook(cells=cells, metadata=metadata), target)
    return target


def _face(number: int, card: dict) -> str:
    """The text of a card, the hint folded away."""
    difficulty = card["difficulty"]
    return CARD.format(
        number=number,
        title=card["title"],
        stars="★" * difficulty + "☆" * (3 - difficulty),
        minutes=card["minutes"],
        text=card["text"].strip(),
        hint=card["hint"].strip(),
    )


def _text(source: str, *tags: str):
    return new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})


def _code(source: str, *tags: str):
    """A code cell; what only checks is folded away, in JupyterLab and in the site."""
    metadata = {"tags": list(tags)} if tags else {}
    if "check" in tags:
        metadata["tags"].append("hide-input")
        metadata["jupyter"] = {"source_hidden": True}
    return new_code_cell(source.strip(), metadata=metadata)


def _has(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _sources(cells: list) -> list[str]:
    return [cell.source for cell in cells]


def execute(path: Path):
    """Restart the kernel, run all, save."""
    book = nbformat.read(path, 4)
    client = NotebookClient(
        book,
        # no cell takes a minute; and now and then nbclient sees that a widget's cell is done only
        # when the timeout is over
        timeout=180,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    book.metadata = {  # without "widgets", over which GitHub stumbles
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(book, path)
    print(f"{path.name}: {path.stat().st_size // 1024} KB")


def main(numbers: list[str]):
    for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        if numbers and not {path.name[:2], "all"} & set(numbers):
            continue
        solutions = build(path)
        if numbers:
            execute(path)
            execute(solutions)


if __name__ == "__main__":
    main(sys.argv[1:])
