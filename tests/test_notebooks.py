"""Does the notebook suite check what it says? nbval compares no output of a cell without a count, and none at all without marked cells."""
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks/build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)


def source(cell):
    return "".join(cell["source"])


def printed(cell):
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def exercises(cells):
    return [cell for cell in cells if "exercise" in cell["metadata"].get("tags", [])]


def test_there_are_notebooks_and_make_test_runs_all():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(len(NOTEBOOKS))] and len(NOTEBOOKS) >= 9
    assert [path.name for path in SOLUTIONS] == [f"{path.stem}_solutions.ipynb" for path in NOTEBOOKS]
    assert "--nbval-lax" in (ROOT / "Makefile").read_text() and " notebooks\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.name)
def test_notebook_is_executed_and_checked(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "restart the kernel and run all"
    checked = [cell for cell in code if "# NBVAL_CHECK_OUTPUT" in source(cell).splitlines()]
    assert len(checked) >= (4 if path in NOTEBOOKS else 2) and all(cell["outputs"] for cell in checked)
    assert len(checked) == sum("NBVAL_CHECK_OUTPUT" in source(cell) for cell in code), "nbval passes over a mark that shares its line"
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for cell in code for output in cell["outputs"])
    assert "widgets" not in notebook["metadata"] and path.stat().st_size <= 300 * 1024


@of_each
def test_what_is_built_inline_equals_the_module(path):
    checked = [printed(cell) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code" and "NBVAL_CHECK_OUTPUT" in source(cell)]
    own = [line for text in checked for line in text.splitlines()]
    assert path.name[:2] in ("00", "09", "10", "11") or any("module" in line and line.endswith("True") for line in own)


@of_each
def test_cards_and_solutions_come_from_one_source(path):
    number, cells = path.name[:2], json.loads(path.read_text())["cells"]
    assert [source(cell) for cell in exercises(cells)] == [cell.source for cell in build.cells_of(number)]
    solved = nbformat.read(ROOT / "notebooks/solutions" / f"{path.stem}_solutions.ipynb", 4).cells
    assert [cell.source for cell in solved] == [cell.source for cell in build.solutions_of(number, path.stem)]
    assert 2 <= len(build.cards(number)) <= 4


@of_each
def test_an_unsolved_card_says_not_yet_and_a_solved_one_right(path):
    checks = [printed(cell) for cell in exercises(json.loads(path.read_text())["cells"]) if "check" in cell["metadata"]["tags"]]
    solved = nbformat.read(ROOT / "notebooks/solutions" / f"{path.stem}_solutions.ipynb", 4).cells
    assert checks and all(text.startswith("not yet") for text in checks)
    assert [printed(cell) for cell in solved if "check" in cell.metadata.get("tags", [])] == ["right\n"] * len(checks)


@of_each
def test_badge_opens_this_notebook_and_set_up_leaves_torch_alone(path):
    cells = json.loads(path.read_text())["cells"]
    assert source(cells[0]) == build.head_of(path)[0].source and f"/blob/main/notebooks/{path.name})" in source(cells[0])
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert source(first) == build.head_of(path)[1].source and build.REPOSITORY in source(first)


def test_colab_installs_only_what_is_missing(monkeypatch):
    spec = importlib.util.spec_from_file_location("colab", ROOT / "notebooks/colab.py")
    colab = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(colab)
    assert colab.missing() == []
    monkeypatch.setattr(colab, "version", lambda name: "0.0.1")
    wanted = colab.missing()
    assert any(line.startswith("diffusers") for line in wanted) and not any(line.split(">")[0] == "torch" for line in wanted)


@of_each
def test_links_resolve(path):
    text = "\n".join(source(cell) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http", "attachment:"))]
    assert all((path.parent / link).exists() for link in links), links
