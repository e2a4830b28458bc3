"""Pictures as matplotlib figures: results beside the picture they came from, grids, diagrams."""

from html import escape
from io import BytesIO
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from .. import DATA

DPI = 130  # a tile of `gallery` or `grid` is 200 pixels wide


def gallery(
    picture: Image.Image, results: dict[str, list[Image.Image]], prompts: list[str]
) -> Figure:
    """The input picture at the left, then {subject: its pictures}, line by line.

    The prompt stands over each column, with {} for the subject.
    """
    lines, columns = len(results), len(prompts) + 1
    figure = plt.figure(figsize=(1.65 * columns, 1.6 * lines + 0.45), dpi=DPI, layout="constrained")
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    axes = figure.subplots(lines, columns, squeeze=False, subplot_kw=bare)
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("input", fontsize=9, weight="bold")
    for axis, prompt in zip(axes[0, 1:], prompts, strict=True):
        axis.set_title(fill(prompt.replace("{}", "…"), 19), fontsize=9)
    for line, (subject, pictures) in zip(axes[:, 1:], results.items(), strict=True):
        line[0].set_ylabel(fill(subject, 14), fontsize=9, weight="bold")
        for axis, result in zip(line, pictures, strict=False):
            axis.imshow(result)
    return figure


def grid(pictures: list, titles: list[str] | None = None, columns: int = 8) -> Figure:
    """PIL pictures or arrays (h, w) side by side, `columns` in a line, each under its title."""
    columns = min(columns, len(pictures))
    lines = -(-len(pictures) // columns)
    height = 1.95 if titles else 1.6  # of a line, in inches
    figure = plt.figure(figsize=(1.6 * columns, height * lines), dpi=DPI, layout="constrained")
    axes = figure.subplots(
        lines, columns, squeeze=False, subplot_kw={"xticks": [], "yticks": [], "frame_on": False}
    )
    figure.get_layout_engine().set(h_pad=0.08)  # inches: titles of two lines keep their heads
    titles = titles or [""] * len(pictures)
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(picture, cmap="gray")
        axis.set_title(fill(title, 20), fontsize=8)
    return figure


def show(figure: Figure, alt: str, kind: str = "png"):
    """Display a figure in a notebook, with words (`alt`) for who cannot see it, and close it.

    kind: "png", or "jpeg" where many pictures would make the notebook large. The ground is white,
    also in a dark theme.
    """
    from IPython import display

    file = BytesIO()
    options = {"quality": 60} if kind == "jpeg" else None
    figure.savefig(file, format=kind, dpi=DPI, facecolor="white", pil_kwargs=options)
    plt.close(figure)
    display.display(display.Image(file.getvalue(), alt=alt))


def diagram(name: str):
    """Display a figure of notebooks/figures/ in a notebook; below it, folded, the same in words.

    The words are in the output's metadata too (`alt`), which JupyterLab 4 does not pass on to a
    screen reader. The file is looked for beside the package, so that it is also found where the
    notebook runs in another folder (Colab). ValueError if there is none of that name.
    """
    from IPython import display

    folder = DATA.parent / "notebooks" / "figures"
    path = folder / f"{name}.png"
    if not path.exists():
        known = sorted(other.stem for other in folder.glob("*.png"))
        raise ValueError(
            f"There is no figure {name!r} in {folder}; those of the notebooks are {known}."
        )
    words = Image.open(path).text["Description"]
    summary = "<summary>The figure in words</summary>"
    display.display(
        display.Image(filename=str(path), retina=True, alt=words),
        display.HTML(f"<details>{summary}{escape(words)}</details>"),
    )
