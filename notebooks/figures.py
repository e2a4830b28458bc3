"""Renders the conceptual figures of the notebooks into `figures/`: `python notebooks/figures.py`.

What they show is drawn in `drawings/`. The alternative text goes into the PNG itself (the standard
field "Description"), where `e4t_minimal.inspection.plots.diagram` finds it. The same code gives the
same bytes.
"""

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from drawings import FIGURES
from drawings.sheet import Sheet
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FOLDER = Path(__file__).parent / "figures"


def render(name: str) -> Image.Image:
    """The figure, in few colours: a small file."""
    drawing = FIGURES[name]
    with style.context("default"):
        sheet = Sheet(drawing.height)
        drawing.draw(sheet)
        canvas = FigureCanvasAgg(sheet.figure)
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(
        drawing.colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )


def png(name: str) -> bytes:
    """The file: the figure, its alternative text, and what drew it.

    Another version of matplotlib may set letters a little differently.
    """
    info, file = PngInfo(), BytesIO()
    info.add_itxt("Description", FIGURES[name].alt)
    info.add_text("Software", f"matplotlib {matplotlib.__version__}")
    render(name).save(file, format="png", optimize=True, pnginfo=info)
    return file.getvalue()


def write_all():
    """Every figure into FOLDER, from which any other picture is taken away."""
    FOLDER.mkdir(exist_ok=True)
    for name in FIGURES:
        path = FOLDER / f"{name}.png"
        path.write_bytes(png(name))
        print(f"{name}: {path.stat().st_size // 1024} KB")
    for path in FOLDER.glob("*.png"):
        if path.stem not in FIGURES:
            path.unlink()


if __name__ == "__main__":
    write_all()
