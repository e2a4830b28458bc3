"""Exercise cards, from one source: `exercises/NN.toml` -> the cards at the end of notebook NN, and `solutions/NN_solutions.ipynb`.

    python notebooks/build.py            # write the cards of all notebooks
    python notebooks/build.py 01 02      # the same; then restart 01 and 02, run all, and save both with their solutions ("all": every one)

A card has: title, difficulty (1-3), minutes, text, start (what the reader completes), check (prints "right", or "not yet" and why),
hint, solution, why (one line after the solution) and, for the solutions notebook alone, setup (what the main notebook has defined by then).
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
REPOSITORY = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
    "Repository"
]  # the one place where it stands
MARK = "# NBVAL_CHECK_OUTPUT\n"


def cards(number: str) -> list[dict]:
    return tomllib.loads((HERE / "exercises" / f"{number}.toml").read_text("utf-8"))["card"]


def face(i: int, card: dict) -> str:
    """The text of a card, hint and solution folded away."""
    return (
        f"### Exercise {i} · {card['title']}\n{'★' * card['difficulty']}{'☆' * (3 - card['difficulty'])} · {card['minutes']} minutes\n\n{card['text'].strip()}\n\n"
        f"<details><summary>Hint</summary>\n\n{card['hint'].strip()}\n\n</details>\n"
        f"<details><summary>Solution</summary>\n\n```python\n{card['solution'].strip()}\n```\n{card['why'].strip()}\n\n</details>"
    )


def cells_of(number: str) -> list:
    """The cells of the main notebook: card, place to work, check."""
    out = [
        new_markdown_cell(
            "## Exercises\n\nComplete the cell under a card, run it, then run the check below it.",
            metadata={"tags": ["exercise"]},
        )
    ]
    for i, card in enumerate(cards(number), 1):
        out += [
            new_markdown_cell(face(i, card), metadata={"tags": ["exercise"]}),
            new_code_cell(card["start"].strip(), metadata={"tags": ["exercise"]}),
            new_code_cell(MARK + card["check"].strip(), metadata={"tags": ["exercise", "check"]}),
        ]
    return out


def solutions_of(number: str, title: str) -> list:
    origin = f"The exercises of [`{title}`](../{title}.ipynb), solved. Made by `build.py` from `exercises/{number}.toml`."
    out = [new_markdown_cell(f"# Solutions · {title}\n\n{origin}")]
    for i, card in enumerate(cards(number), 1):
        check = new_code_cell(MARK + card["check"].strip(), metadata={"tags": ["check"]})
        out += [
            new_markdown_cell(f"## Exercise {i} · {card['title']}\n\n{card['text'].strip()}"),
            *([new_code_cell(card["setup"].strip())] if card.get("setup") else []),
            new_code_cell(card["start"].strip()),
            check,  # a check that has nothing to find fault with checks nothing
            new_markdown_cell("Solved:"),
            new_code_cell(card["solution"].strip()),
            deepcopy(check),
            new_markdown_cell(card["why"].strip()),
        ]
    return out


def head_of(path: Path) -> tuple:
    """The badge that opens this very notebook in Colab, and the cell that makes it run there."""
    colab = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/blob/main/notebooks/{path.name})"
    code = f"""# On Colab, fetch the project and install what is missing (never torch). Anywhere else this does nothing.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("e4t_minimal") is None:
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{REPOSITORY}", "e4t-minimal"], check=True)
    subprocess.run([sys.executable, "e4t-minimal/notebooks/colab.py"], check=True)
    sys.path.insert(0, "e4t-minimal")"""
    return new_markdown_cell(badge, metadata={"tags": ["setup"]}), new_code_cell(
        code, metadata={"tags": ["setup"]}
    )


def build(path: Path) -> Path:
    """Put badge, set-up and cards into one notebook, in the place of the old ones, and write its solutions, whose path is returned."""
    number, book = path.name[:2], nbformat.read(path, 4)
    old = {cell.source: cell for cell in book.cells}
    text = [cell for cell in book.cells if "setup" not in cell.metadata.get("tags", [])]
    mine = [i for i, cell in enumerate(text) if "exercise" in cell.metadata.get("tags", [])]
    before, after = (text[: mine[0]], text[mine[-1] + 1 :]) if mine else (text, [])
    badge, setup = head_of(path)
    first = next(i for i, cell in enumerate(before) if cell.cell_type == "code")
    cells = [badge, *before[:first], setup, *before[first:], *cells_of(number), *after]
    book.cells = [
        old.get(cell.source, cell) for cell in cells
    ]  # an unchanged cell keeps its outputs
    nbformat.write(book, path)
    target = HERE / "solutions" / f"{path.stem}_solutions.ipynb"
    target.parent.mkdir(exist_ok=True)
    solved = solutions_of(number, path.stem)
    if not target.exists() or [c.source for c in nbformat.read(target, 4).cells] != [
        c.source for c in solved
    ]:
        for i, cell in enumerate(solved):
            cell.id = f"solution-{i}"
        nbformat.write(new_notebook(cells=solved, metadata=book.metadata), target)
    return target


def execute(path: Path):
    """Restart the kernel, run all, save."""
    book = nbformat.read(path, 4)
    # no cell takes a minute; and now and then nbclient sees that a widget's cell is done only when the timeout is over
    NotebookClient(
        book,
        timeout=180,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = {
        "kernelspec": kernel,
        "language_info": {"name": "python"},
    }  # without "widgets", over which GitHub stumbles
    nbformat.write(book, path)
    print(f"{path.name}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    for path in sorted(HERE.glob("[0-9][0-9]_*.ipynb")):
        solutions = build(path)
        if {path.name[:2], "all"} & set(sys.argv[1:]):
            execute(path), execute(solutions)
