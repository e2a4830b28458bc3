"""Pictures of the above."""
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image


def gallery(picture: Image.Image, rows: dict[str, list[Image.Image]], prompts: list[str]) -> Figure:
    """The input picture at the left, then one row of results per entry of `rows` ({subject: pictures}), the prompt ({} for the subject) over each column."""
    figure = plt.figure(figsize=(1.55 * (len(prompts) + 1), 1.6 * len(rows) + 0.7), dpi=80, layout="constrained")
    axes = figure.subplots(len(rows), len(prompts) + 1, squeeze=False, subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("input", fontsize=9, weight="bold")
    for axis, prompt in zip(axes[0, 1:], prompts):
        axis.set_title(fill(prompt.format("…"), 19), fontsize=9)
    for line, (subject, pictures) in zip(axes[:, 1:], rows.items()):
        line[0].set_ylabel(fill(subject, 14), fontsize=9, weight="bold")
        for axis, result in zip(line, pictures):
            axis.imshow(result)
    return figure


def grid(pictures: list[Image.Image], titles: list[str] | None = None, columns: int = 8) -> Figure:
    """Pictures side by side, `columns` a row, each with its title over it."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(1.6 * columns, (1.95 if titles else 1.6) * rows), dpi=80, layout="constrained")
    for axis, picture, title in zip(figure.subplots(rows, columns, squeeze=False, subplot_kw={"frame_on": False}).flat, pictures, titles or [""] * len(pictures)):
        axis.imshow(picture, cmap="gray")
        axis.set_title(fill(title, 20), fontsize=8)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    return figure


MAP = {  # box: (x, y, what is written in it)
    "picture": (0.0, 1.6, "one picture\nof the concept"), "noisy": (0.0, 0.4, "the drawing so far\n(noise at first)"),
    "vision": (1.1, 1.6, "CLIP\nvision tower"), "features": (1.1, 0.4, "U-Net features"), "encoder": (2.1, 1.0, "encoder"), "word": (2.9, 1.0, "S*\na word"),
    "text": (3.9, 1.0, "text encoder\n\"a photo of S*\""), "unet": (5.1, 1.0, "U-Net with\nweight offsets"), "result": (6.1, 1.0, "less\nnoise"),
}
ARROWS = [("picture", "vision"), ("noisy", "features"), ("vision", "encoder"), ("features", "encoder"), ("encoder", "word"), ("word", "text"),
          ("text", "unet"), ("unet", "result"), ("noisy", "unet"), ("result", "noisy")]
BENT = {("noisy", "unet"): 0.12, ("result", "noisy"): -0.22}
TRAINED = ("encoder", "unet")


def system_map(*lit: str) -> Figure:
    """The whole system, with the named boxes of MAP lit (all of them if none is named); a thick frame where E4T trains something."""
    figure = plt.figure(figsize=(9.5, 2.6), dpi=90, layout="constrained")
    axis = figure.subplots(subplot_kw={"xlim": (-0.5, 6.5), "ylim": (-0.65, 2.1), "xticks": [], "yticks": [], "frame_on": False})
    boxes = {}
    for name, (x, y, text) in MAP.items():
        frame = {"boxstyle": "round,pad=0.5", "facecolor": "#ffd866" if not lit or name in lit else "#eeeeee",
                 "edgecolor": "#c2410c" if name in TRAINED else "#777777", "linewidth": 2.2 if name in TRAINED else 1}
        boxes[name] = axis.text(x, y, text, ha="center", va="center", fontsize=8, bbox=frame)
    for start, end in ARROWS:
        arrow = {"arrowstyle": "->", "color": "#555555", "patchA": boxes[start].get_bbox_patch(), "patchB": boxes[end].get_bbox_patch(),
                 "shrinkA": 3, "shrinkB": 3, "connectionstyle": f"arc3,rad={BENT.get((start, end), 0)}"}
        axis.annotate("", MAP[end][:2], MAP[start][:2], arrowprops=arrow)
    return figure
