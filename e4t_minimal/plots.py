"""Pictures of the above."""
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image


def gallery(picture: Image.Image, rows: dict[str, list[Image.Image]], titles: list[str], headline: str = "") -> Figure:
    """The input picture at the left, then one row of results per entry of `rows` ({label: pictures}), a title over each column."""
    figure = Figure(figsize=(1.55 * (len(titles) + 1), 1.75 * len(rows) + 0.6), dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), len(titles) + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("input", fontsize=9, weight="bold")
    for r, (label, pictures) in enumerate(rows.items()):
        for c, result in enumerate(pictures):
            axes[r, c + 1].imshow(result)
            axes[r, c + 1].set_title("\n".join(_lines(titles[c].format(label))), fontsize=8)
    figure.suptitle(headline, fontsize=10)
    return figure


def _lines(text: str, width: int = 18) -> list[str]:
    out = [""]
    for word in text.split():
        out = out[:-1] + [f"{out[-1]} {word}".strip()] if len(out[-1]) + len(word) < width else out + [word]
    return out


def save(figure: Figure, path: str | Path):
    """Write a PNG beside and rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}")
    figure.savefig(new, format="png")
    new.rename(path)


matplotlib.rcParams["savefig.facecolor"] = "white"
