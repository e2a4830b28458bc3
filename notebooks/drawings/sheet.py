"""A page to draw on: text, boxes, arrows and matrices."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

LIT, PLAIN, WHITE = "#ffd866", "#f1f1f1", "#ffffff"
INK, GREY, TRAINED, GRADIENT = "#222222", "#444444", "#b03a00", "#1d4ed8"
WIDTH = 880  # points of the screen, two pixels each
WRITING = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.25}


class Sheet:
    """A page with its origin at the upper left.

    Boxes are (x of the middle, y of the middle, width, height).
    """

    def __init__(self, height: int):
        # a trace more, so that no matplotlib rounds the height down by a pixel
        self.figure = Figure(figsize=(WIDTH / 100, (height + 1e-3) / 100), dpi=200)
        self.axis = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        self.axis.axis("off")

    def write(self, x, y, text, size=12.0, **options):
        """options: matplotlib's, in the place of those of WRITING."""
        self.axis.text(x, y, text, **WRITING | {"fontsize": size * 0.72} | options)

    def box(self, where, text="", color=PLAIN, thick=False, size=12.0, corner=7):
        """where: (x, y, width, height); corner: the radius of its corners."""
        x, y, width, height = where
        patch = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={corner}",
            facecolor=color,
            edgecolor=TRAINED if thick else "#777777",
            linewidth=2.2 if thick else 0.8,
        )
        self.axis.add_patch(patch)
        self.write(x, y, text, size)

    def arrow(self, *points, text="", at=None, dashed=False, color="#555555"):
        """Through all the points (x, y), with its head at the last; `text` at `at`."""
        xs, ys = zip(*points, strict=True)
        stroke = {"color": color, "linewidth": 1.1, "linestyle": "--" if dashed else "-"}
        self.axis.plot(xs[:-1], ys[:-1], solid_joinstyle="miter", **stroke)
        head = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0, **stroke}
        self.axis.annotate("", points[-1], points[-2], arrowprops=head)
        if text:
            self.write(*at, text, 11)

    def cells(self, x, y, values, size=9, colors="PuOr", limit=2.0):
        """A matrix (rows, columns) of squares, its upper left corner at (x, y)."""
        values = np.atleast_2d(values)
        rows, columns = values.shape
        self.axis.pcolormesh(
            x + size * np.arange(columns + 1),
            y + size * np.arange(rows + 1),
            values,
            cmap=colors,
            vmin=-limit,
            vmax=limit,
            edgecolors="#888888",
            linewidth=0.4,
        )
