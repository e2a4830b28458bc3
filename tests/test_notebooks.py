"""Does the notebook suite check what it says? nbval compares no output of a cell without a count, and none at all without marked cells."""

import base64
import html
import importlib.util
import inspect
import json
import re
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
from PIL import Image, ImageFilter

from e4t_minimal import encoder, sample, train
from e4t_minimal.inspection import plots

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))


def script(name):
    """The module in notebooks/`name`.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"notebooks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, figures = script("build"), script("figures")
of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)


def source(cell):
    return "".join(cell["source"])


def printed(cell):
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def exercises(cells):
    return [cell for cell in cells if "exercise" in cell["metadata"].get("tags", [])]


def test_there_are_notebooks_and_make_test_runs_all():
    assert [path.name[:2] for path in NOTEBOOKS] == [
        f"{i:02d}" for i in range(len(NOTEBOOKS))
    ] and len(NOTEBOOKS) >= 9
    assert [path.name for path in SOLUTIONS] == [
        f"{path.stem}_solutions.ipynb" for path in NOTEBOOKS
    ]
    assert (
        "--nbval-lax" in (ROOT / "Makefile").read_text()
        and " notebooks\n" in (ROOT / "Makefile").read_text()
    )


@pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda p: p.name)
def test_notebook_is_executed_and_checked(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "restart the kernel and run all"
    )
    checked = [cell for cell in code if "# NBVAL_CHECK_OUTPUT" in source(cell).splitlines()]
    assert len(checked) >= 4 and all(cell["outputs"] for cell in checked)
    assert len(checked) == sum("NBVAL_CHECK_OUTPUT" in source(cell) for cell in code), (
        "nbval passes over a mark that shares its line"
    )
    assert not any(
        output["output_type"] == "error" or output.get("name") == "stderr"
        for cell in code
        for output in cell["outputs"]
    )
    assert not any("as_dataset(" in source(cell) for cell in checked), (
        "drawing shows a progress bar, and only as long as nothing is in the cache of `datasets`"
    )
    assert "widgets" not in notebook["metadata"] and path.stat().st_size <= 300 * 1024


@of_each
def test_what_is_built_inline_equals_the_module(path):
    checked = [
        printed(cell)
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code" and "NBVAL_CHECK_OUTPUT" in source(cell)
    ]
    own = [line for text in checked for line in text.splitlines()]
    assert path.name[:2] in ("00", "09", "10", "11") or any(
        "module" in line and line.endswith("True") for line in own
    )


@of_each
def test_cards_and_solutions_come_from_one_source(path):
    number, cells = path.name[:2], json.loads(path.read_text())["cells"]
    assert [source(cell) for cell in exercises(cells)] == [
        cell.source for cell in build.cells_of(number)
    ]
    solved = nbformat.read(ROOT / "notebooks/solutions" / f"{path.stem}_solutions.ipynb", 4).cells
    assert [cell.source for cell in solved] == [
        cell.source for cell in build.solutions_of(number, path.stem)
    ]
    assert 2 <= len(build.cards(number)) <= 4


@of_each
def test_an_unsolved_card_says_not_yet_and_a_solved_one_right(path):
    checks = [
        printed(cell)
        for cell in exercises(json.loads(path.read_text())["cells"])
        if "check" in cell["metadata"]["tags"]
    ]
    solved = nbformat.read(ROOT / "notebooks/solutions" / f"{path.stem}_solutions.ipynb", 4).cells
    assert checks and all(text.startswith("not yet") for text in checks)
    both = [printed(cell) for cell in solved if "check" in cell.metadata.get("tags", [])]
    assert all(text.startswith("not yet") for text in both[::2]) and both[1::2] == [
        "right\n"
    ] * len(checks)


@of_each
def test_badge_opens_this_notebook_and_set_up_leaves_torch_alone(path):
    cells = json.loads(path.read_text())["cells"]
    assert source(cells[0]) == build.head_of(path)[
        0
    ].source and f"/blob/main/notebooks/{path.name})" in source(cells[0])
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert source(first) == build.head_of(path)[1].source and build.REPOSITORY in source(first)


def test_colab_installs_only_what_is_missing(monkeypatch):
    colab = script("colab")
    assert colab.missing() == []
    monkeypatch.setattr(colab, "version", lambda name: "0.0.1")
    wanted = colab.missing()
    assert any(line.startswith("diffusers") for line in wanted) and not any(
        line.split(">")[0] == "torch" for line in wanted
    )


@of_each
def test_links_resolve(path):
    text = "\n".join(
        source(cell)
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    )
    links = [
        link
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if not link.startswith(("http", "attachment:"))
    ]
    assert all((path.parent / link).exists() for link in links), links


@of_each
def test_no_text_is_still_to_be_written(path):
    text = "\n".join(source(cell) for cell in json.loads(path.read_text())["cells"])
    assert not re.findall(r"\b(?:TODO|FIXME|[A-Z]{4,}\d\d)\b", text), (
        "a mark stands where text was to come once the cell had run"
    )


def unlike(a, b):
    """How many pixels of either picture are more than 40 of 255 away from all that the other shows there, give or take a pixel."""
    a, b, count = a.convert("RGB"), b.convert("RGB"), 0
    for one, other in ((a, b), (b, a)):
        low, high = (
            np.asarray(other.filter(kind(3)), int)
            for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        count += (
            ((np.asarray(one, int) < low - 40) | (np.asarray(one, int) > high + 40)).any(-1).sum()
        )
    return count


def coarsely_unlike(a, b):
    """The largest difference between squares of 16 x 16 pixels, of 255: what remains comparable when another matplotlib sets the letters."""
    return np.abs(
        np.asarray(a.convert("RGB").reduce(16), int) - np.asarray(b.convert("RGB").reduce(16), int)
    ).max()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figure_is_what_the_script_draws(name):
    file, drawn = Image.open(figures.FOLDER / f"{name}.png"), figures.render(name)
    assert file.size == drawn.size and (figures.FOLDER / f"{name}.png").stat().st_size <= 40 * 1024
    if file.text["Software"] == f"matplotlib {matplotlib.__version__}":
        assert unlike(file, drawn) <= 10, "run notebooks/figures.py"
    assert coarsely_unlike(file, drawn) <= 80, "run notebooks/figures.py"
    assert (
        file.text["Description"] == figures.FIGURES[name][0] and len(file.text["Description"]) >= 20
    )


def test_a_changed_drawing_is_noticed(monkeypatch):
    before = figures.render("map-04")
    assert (
        unlike(before, before) == 0 and coarsely_unlike(before, figures.render("map-05")) > 80
    )  # other boxes lit
    x, y, w, h, text = figures.BOXES["result"]
    for changed in (
        (x, y, w, h, "loss\nnoise"),
        (x + 2, y, w, h, text),
    ):  # one letter; one pixel and a bit
        monkeypatch.setitem(figures.BOXES, "result", changed)
        assert unlike(before, figures.render("map-04")) > 10


def shown(path):
    """{name: cell} of the figures that a notebook shows."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return {
        name: cell for cell in cells for name in re.findall(r'diagram\("([^"]*)"\)', source(cell))
    }


@of_each
def test_figures_resolve_and_their_outputs_carry_the_alternative_text(path):
    assert f"map-{path.name[:2]}" in shown(path), (
        "a notebook begins with the map, its own boxes lit"
    )
    for name, cell in shown(path).items():
        file = figures.FOLDER / f"{name}.png"
        picture, words = cell["outputs"]
        assert base64.b64decode("".join(picture["data"]["image/png"])) == file.read_bytes(), (
            "run the notebook again"
        )
        alt = Image.open(file).text["Description"]
        assert picture["metadata"]["image/png"]["alt"] == alt and html.escape(alt) in "".join(
            words["data"]["text/html"]
        )


def test_every_figure_is_used():
    to_come = {f"map-{number}" for number in figures.MAPS} - {
        f"map-{path.name[:2]}" for path in NOTEBOOKS
    }
    files = {file.stem for file in figures.FOLDER.iterdir()}
    assert (
        files == set(figures.FIGURES)
        and files - {name for path in NOTEBOOKS for name in shown(path)} <= to_come
    )


def test_figures_of_the_readme_resolve_and_say_the_same():
    found = re.findall(
        r"!\[(.*?)\]\(notebooks/figures/(.*?)\.png\)", (ROOT / "README.md").read_text()
    )
    assert found and all(alt == figures.FIGURES[name][0] for alt, name in found)


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no figure 'mop'.*map-00"):
        plots.diagram("mop")


def test_numbers_in_figures_are_the_modules():
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    phases, one, many = figures.FIGURES["phases-07"][0], train.personalize, train.pretrain
    for words in (
        f"from {train.T_MIN} up",
        f"on {train.OTHER_BACKGROUNDS} backgrounds",
        f"plus {train.OUTSIDE:.0f} times the change",
        f"under {default(one, 'batch')} noises",
        f"plus {default(one, 'l2')} times the squared",
        f"plus {default(many, 'l2')} times the squared",
        f"5 to {default(one, 'steps')} steps",
    ):
        assert words in phases
    assert (
        f"{default(sample.sample, 'steps')} times" in figures.FIGURES["sampling-02"][0]
        and default(encoder.Encoder, "s") == 0.1
    )


def test_the_drawn_offset_is_computed_and_folds():
    *_, delta, left, right = figures.example()
    assert np.allclose(delta, left @ right.T) and np.linalg.matrix_rank(delta) == 3
