"""Copies of the notebooks for students: outputs/e4t-student.zip.

No solutions, no link to them or to the full notebooks, no outputs (so that "predict first" is a
prediction); checks, and the words for who cannot see a figure, that do their work but cannot be
read at a glance. Each copy is one file; it needs the package, as every notebook does. Who looks for
the solutions finds them in the public repository: this keeps them out of sight, and no more.
"""

import ast
import base64
import sys
import textwrap
import zlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import book
import nbformat

ARCHIVE = Path(__file__).parent.parent / "outputs" / "e4t-student.zip"

EXERCISES = """## Exercises

Complete the cell under a card, run it, then run the check below it."""

CHECK = """# The check. Run it; it says "right", or what is missing.
import base64
import zlib

check = (
{lines}
)
exec(zlib.decompress(base64.b85decode(check)).decode())"""

READ_ME = """The notebooks of e4t-minimal, without solutions.

Install the package as your teacher says, unpack this folder anywhere, and start
Jupyter in it. Begin with 00. Every check says "right" when you are done.

From e4t-minimal by the e4t-minimal authors: text CC BY 4.0, code MIT. The avatars:
Pablo Stanley (faces, robots), DiceBear (critters, CC0).
"""


def hidden(source: str) -> str:
    """A cell that does what `source` does, and does not show how."""
    packed = base64.b85encode(zlib.compress(source.encode(), 9)).decode()
    lines = [f"    {piece!r}" for piece in textwrap.wrap(packed, 76)]
    return CHECK.format(lines="\n".join(lines))


def with_hidden_words(source: str) -> str:
    """The same cell; the words of its figures, which say what will be seen, are packed."""
    lines = source.splitlines()
    words = [node for node in ast.walk(ast.parse(source)) if _is_words(node)]
    for node in sorted(words, key=lambda node: -node.lineno):
        packed = base64.b64encode(node.value.value.encode()).decode()
        pieces = "\n".join(f"    {piece!r}" for piece in textwrap.wrap(packed, 72))
        code = f"alt = base64.b64decode(\n{pieces}\n).decode()"
        code = textwrap.indent(code, " " * node.col_offset)
        lines[node.lineno - 1 : node.end_lineno] = code.splitlines()
    return "\n".join(["import base64", "", *lines] if words else lines)


def _is_words(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
        return False
    return [getattr(target, "id", "") for target in node.targets] == ["alt"]


def student_copy(number: str):
    """Notebook `number` as a student gets it."""
    notebook = book.read(number)
    notebook.cells = [cell for cell in notebook.cells if "colab-badge" not in cell.source]
    for cell in notebook.cells:
        of_exercise = book.is_tagged(cell, "exercise")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            is_answer = of_exercise and book.is_tagged(cell, "check")
            cell.source = hidden(cell.source) if is_answer else with_hidden_words(cell.source)
        elif of_exercise and cell.source.startswith("## Exercises"):
            cell.source = EXERCISES
    return notebook


def build(archive: Path = ARCHIVE) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(archive, "w", ZIP_DEFLATED) as file:
        file.writestr("e4t-student/READ-ME.txt", READ_ME)
        for number in book.NUMBERS:
            text = nbformat.writes(student_copy(number))
            file.writestr(f"e4t-student/{book.path_of(number).name}", text)
    return archive


if __name__ == "__main__":
    made = build(*map(Path, sys.argv[1:]))
    print(f"{made}: {made.stat().st_size // 1024} KB")
