"""Pictures of the above."""
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image


def gallery(picture: Image.Image, rows: dict[str, list[Image.Image]], titles: list[str], headline: str = "") -> Figure:
    """The input picture at the left, then one row of results per entry of `rows` ({label: pictures}), a title over each column."""
    figure = plt.figure(figsize=(1.55 * (len(titles) + 1), 1.75 * len(rows) + 0.6), dpi=80, layout="constrained")
    axes = figure.subplots(len(rows), len(titles) + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("input", fontsize=9, weight="bold")
    for r, (label, pictures) in enumerate(rows.items()):
        for c, result in enumerate(pictures):
            axes[r, c + 1].imshow(result)
            axes[r, c + 1].set_title(fill(titles[c].format(label), 18), fontsize=8)
    figure.suptitle(headline, fontsize=10)
    return figure


MAP = {  # box: (x, y, what is written in it)
    "world": (0.0, 1.0, "a picture"), "vision": (1.0, 1.6, "CLIP\nvision tower"), "features": (1.0, 0.4, "U-Net features\nof the noisy latent"),
    "encoder": (2.0, 1.0, "encoder"), "word": (3.0, 1.0, "S*\na word"), "text": (4.0, 1.0, "text encoder\n\"a photo of S*\""),
    "unet": (5.0, 1.0, "U-Net with\nweight offsets"), "result": (6.0, 1.0, "a picture\nof S*"),
}
ARROWS = [("world", "vision"), ("world", "features"), ("vision", "encoder"), ("features", "encoder"),
          ("encoder", "word"), ("word", "text"), ("text", "unet"), ("unet", "result")]


def system_map(*lit: str) -> Figure:
    """The whole system, with the named boxes of MAP lit (all of them if none is named)."""
    figure = plt.figure(figsize=(9, 2.1), dpi=90, layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set(xlim=(-0.5, 6.5), ylim=(-0.1, 2.1))
    boxes = {}
    for name, (x, y, text) in MAP.items():
        color = "#ffd866" if not lit or name in lit else "#eeeeee"
        boxes[name] = axis.text(x, y, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "#555555"})
    for start, end in ARROWS:
        arrow = {"arrowstyle": "->", "color": "#555555", "patchA": boxes[start].get_bbox_patch(), "patchB": boxes[end].get_bbox_patch(), "shrinkA": 4, "shrinkB": 4}
        axis.annotate("", MAP[end][:2], MAP[start][:2], arrowprops=arrow)
    return figure
