"""Does the notebook suite check what it says?

nbval compares no output of a cell without a count, and none at all without marked cells.
"""

import base64
import html
import importlib
import inspect
import json
import platform
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageChops

from e4t_minimal.encoder import EncoderConfig
from e4t_minimal.inspection import plots
from e4t_minimal.sample import sample
from e4t_minimal.train import PERSONALIZATION, PRETRAINING
from e4t_minimal.training.e4t import TOY_PRETRAINING

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
WITHOUT_COMPARISON = ("00", "09", "10", "11")  # with the module's code nothing is built inline

sys.path.insert(0, str(FOLDER))  # the scripts beside the notebooks import each other
build, colab, figures, offsets, system_map = (
    importlib.import_module(name)
    for name in ("build", "colab", "figures", "drawings.offsets", "drawings.system_map")
)
of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def code_of(path):
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def sources(cells):
    return [source(cell) for cell in cells]


def printed(cell):
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def has(cell, tag):
    return tag in cell["metadata"].get("tags", [])


def is_checked(cell):
    return "# NBVAL_CHECK_OUTPUT" in source(cell).splitlines()


def solutions_of(path):
    return FOLDER / "solutions" / f"{path.stem}_solutions.ipynb"


def test_there_are_notebooks_and_make_test_runs_all():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(12)]
    assert [solutions_of(path) for path in NOTEBOOKS] == SOLUTIONS
    makefile = (ROOT / "Makefile").read_text()
    assert "--nbval-lax" in makefile
    assert " notebooks\n" in makefile


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda path: path.name)
def test_notebook_is_executed_and_checked(path):
    code = code_of(path)
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1)), "restart the kernel and run all"
    checked = [cell for cell in code if is_checked(cell)]
    assert len(checked) >= 4
    assert all(cell["outputs"] for cell in checked)
    marked = [cell for cell in code if "NBVAL_CHECK_OUTPUT" in source(cell)]
    assert len(checked) == len(marked), "nbval passes over a mark that shares its line"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any("as_dataset(" in source(cell) for cell in checked), (
        "drawing shows a progress bar, and only as long as nothing is in the cache of `datasets`"
    )
    assert "widgets" not in json.loads(path.read_text())["metadata"]
    assert path.stat().st_size <= 1024 * 1024


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda path: path.name)
def test_no_line_of_code_is_cut_off_in_colab(path):
    lines = [line for cell in code_of(path) for line in source(cell).splitlines()]
    assert [line for line in lines if len(line) > 88] == []


@of_each
def test_what_is_built_inline_equals_the_module(path):
    lines = [line for cell in code_of(path) if is_checked(cell) for line in lines_of(cell)]
    compared = any("module" in line and line.endswith("True") for line in lines)
    assert compared or path.name[:2] in WITHOUT_COMPARISON


def lines_of(cell):
    return printed(cell).splitlines()


@of_each
def test_cards_and_solutions_come_from_one_source(path):
    number = path.name[:2]
    ours = [cell for cell in cells_of(path) if has(cell, "exercise")]
    assert sources(ours) == sources(build.cells_of(number, path.stem))
    solved = cells_of(solutions_of(path))
    assert sources(solved) == sources(build.solutions_of(number, path.stem))
    assert 2 <= len(build.cards(number)) <= 4


@of_each
def test_an_unsolved_card_says_not_yet_and_a_solved_one_right(path):
    exercises = [cell for cell in cells_of(path) if has(cell, "exercise")]
    unsolved = [printed(cell) for cell in exercises if has(cell, "check")]
    assert unsolved
    assert all(text.startswith("not yet") for text in unsolved)
    both = [printed(cell) for cell in cells_of(solutions_of(path)) if has(cell, "check")]
    assert all(text.startswith("not yet") for text in both[::2])
    assert both[1::2] == ["right\n"] * len(unsolved)


@of_each
def test_badge_opens_this_notebook_and_set_up_leaves_torch_alone(path):
    badge, setup = build.head_of(path)
    assert source(cells_of(path)[0]) == badge.source
    assert f"/blob/main/notebooks/{path.name})" in badge.source
    assert source(code_of(path)[0]) == setup.source
    assert build.REPOSITORY in setup.source


def test_colab_installs_only_what_is_missing(monkeypatch):
    assert colab.missing() == []
    monkeypatch.setattr(colab, "version", lambda name: "0.0.1")
    wanted = colab.missing()
    assert any(line.startswith("diffusers") for line in wanted)
    assert not any(line.split(">")[0] == "torch" for line in wanted)


@of_each
def test_links_resolve(path):
    texts = [source(cell) for cell in cells_of(path) if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)]+)\)", "\n".join(texts))
    ours = [link for link in links if not link.startswith(("http", "attachment:"))]
    assert all((path.parent / link).exists() for link in ours), ours


@of_each
def test_no_text_is_still_to_be_written(path):
    text = "\n".join(sources(cells_of(path)))
    assert not re.findall(r"\b(?:TODO|FIXME|[A-Z]{4,}\d\d)\b", text), (
        "a mark stands where text was to come once the cell had run"
    )


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_is_what_the_script_draws(name):
    path = figures.FOLDER / f"{name}.png"
    file, drawn = Image.open(path), figures.render(name)
    assert file.size == drawn.size
    assert path.stat().st_size <= 40 * 1024
    assert file.text["Description"] == figures.FIGURES[name].alt
    assert len(file.text["Description"]) >= 20
    # another matplotlib or another processor may set letters a little differently
    if drawn_here(file):
        difference = ImageChops.difference(file.convert("RGB"), drawn.convert("RGB"))
        assert difference.getbbox() is None, "run notebooks/figures.py"


def drawn_here(file):
    same_version = file.text["Software"] == f"matplotlib {matplotlib.__version__}"
    return same_version and platform.machine() == "x86_64"


def shown(path):
    """{name: cell} of the figures that a notebook shows."""
    cells = {}
    for cell in code_of(path):
        for name in re.findall(r'diagram\("([^"]*)"\)', source(cell)):
            cells[name] = cell
    return cells


@of_each
def test_figures_resolve_and_their_outputs_carry_the_alternative_text(path):
    cells = shown(path)
    assert f"map-{path.name[:2]}" in cells, "a notebook begins with the map, its own boxes lit"
    for name, cell in cells.items():
        file = figures.FOLDER / f"{name}.png"
        picture, words = cell["outputs"]
        embedded = base64.b64decode("".join(picture["data"]["image/png"]))
        assert embedded == file.read_bytes(), "run the notebook again"
        alt = Image.open(file).text["Description"]
        assert picture["metadata"]["image/png"]["alt"] == alt
        assert html.escape(alt) in "".join(words["data"]["text/html"])


def test_every_figure_is_used():
    files = {file.stem for file in figures.FOLDER.iterdir()}
    assert files == set(figures.FIGURES)
    used = {name for path in NOTEBOOKS for name in shown(path)}
    assert files == used
    assert list(system_map.MAPS) == [path.name[:2] for path in NOTEBOOKS]


def test_figures_of_the_docs_resolve_and_say_the_same():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    found = re.findall(r"!\[(.*?)\]\((?:\.\./)?notebooks/figures/(.*?)\.png\)", text)
    assert found
    assert all(alt == figures.FIGURES[name].alt for alt, name in found)


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no figure 'mop'.*map-00"):
        plots.diagram("mop")


def test_numbers_in_figures_are_the_modules():
    one, many, toy = PERSONALIZATION, PRETRAINING, TOY_PRETRAINING
    for words in (
        f"from {one.t_min} up",
        f"on {one.backgrounds} backgrounds",
        f"plus {one.weights['outside']:.0f} times the change",
        f"under {one.batch} noises",
        f"plus {one.weights['l2']} times the squared",
        f"plus {many.weights['l2']} (on the toy {toy.weights['l2']}) times the squared",
        f"5 to {one.steps} steps",
    ):
        assert words in figures.FIGURES["phases-07"].alt
    steps = inspect.signature(sample).parameters["steps"].default
    assert f"{steps} times" in figures.FIGURES["sampling-02"].alt
    assert f"s = {EncoderConfig.s}" in figures.FIGURES["encoder-04"].alt


def test_the_drawn_offset_is_computed_and_folds():
    offset = offsets.random_offset()
    assert np.allclose(offset.delta, offset.left @ offset.right.T)
    assert np.linalg.matrix_rank(offset.delta) == 3
