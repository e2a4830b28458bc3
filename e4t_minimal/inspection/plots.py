"""Pictures as matplotlib figures: results beside the picture they came from, grids, and the diagrams of the notebooks."""

from html import escape
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from .. import DATA


def gallery(picture: Image.Image, rows: dict[str, list[Image.Image]], prompts: list[str]) -> Figure:
    """The input picture at the left, then one row of results per entry of `rows` ({subject: pictures}), the prompt ({} for the subject) over each column."""
    figure = plt.figure(
        figsize=(1.55 * (len(prompts) + 1), 1.6 * len(rows) + 0.7), dpi=80, layout="constrained"
    )
    axes = figure.subplots(
        len(rows),
        len(prompts) + 1,
        squeeze=False,
        subplot_kw={"xticks": [], "yticks": [], "frame_on": False},
    )
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("input", fontsize=9, weight="bold")
    for axis, prompt in zip(axes[0, 1:], prompts):
        axis.set_title(fill(prompt.replace("{}", "…"), 19), fontsize=9)
    for line, (subject, pictures) in zip(axes[:, 1:], rows.items()):
        line[0].set_ylabel(fill(subject, 14), fontsize=9, weight="bold")
        for axis, result in zip(line, pictures):
            axis.imshow(result)
    return figure


def grid(pictures: list[Image.Image], titles: list[str] | None = None, columns: int = 8) -> Figure:
    """Pictures side by side, `columns` a row, each with its title over it."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = plt.figure(
        figsize=(1.6 * columns, (1.95 if titles else 1.6) * rows), dpi=80, layout="constrained"
    )
    for axis, picture, title in zip(
        figure.subplots(rows, columns, squeeze=False, subplot_kw={"frame_on": False}).flat,
        pictures,
        titles or [""] * len(pictures),
    ):
        axis.imshow(picture, cmap="gray")
        axis.set_title(fill(title, 20), fontsize=8)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    return figure


def diagram(name: str):
    """Show a conceptual figure of notebooks/figures/, which `notebooks/figures.py` draws, in a notebook; below it, folded, the same in words.

    The words are in the output's metadata too (`alt`), which JupyterLab 4 does not pass on to a screen reader. The file is looked for beside the package, so that
    it is also found where the notebook runs in another folder (Colab). ValueError if there is none of that name."""
    from IPython.display import HTML, display
    from IPython.display import Image as Shown

    path = DATA.parent / "notebooks" / "figures" / f"{name}.png"
    if not path.exists():
        raise ValueError(
            f"There is no figure {name!r} in {path.parent}; those of the notebooks are {sorted(other.stem for other in path.parent.glob('*.png'))}."
        )
    words = Image.open(path).text["Description"]
    display(
        Shown(filename=str(path), retina=True, alt=words),
        HTML(f"<details><summary>The figure in words</summary>{escape(words)}</details>"),
    )
