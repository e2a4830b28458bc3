"""The map of the system, with which every notebook begins, its own boxes lit."""

from functools import partial

from .catalogue import FIGURES, Drawing, one_line
from .sheet import LIT, PLAIN, Sheet

BOXES = {  # name: (x, y, width, height, what is written in it)
    "picture": (71, 34, 132, 50, "one picture\nof the concept"),
    "noisy": (71, 134, 132, 50, "the drawing so far\n(noise at first)"),
    "vision": (214, 34, 112, 50, "CLIP\nvision tower"),
    "features": (214, 134, 112, 50, "U-Net features"),
    "encoder": (339, 84, 84, 50, "encoder"),
    "word": (443, 84, 72, 50, "S*\na word"),
    "text": (568, 84, 126, 50, 'text encoder\n"a photo of S*"'),
    "unet": (717, 74, 120, 92, "U-Net\n\n\n"),
    "offsets": (717, 94, 100, 36, "weight offsets"),
    "result": (835, 84, 74, 50, "less\nnoise"),
}
TRAINED = ("encoder", "offsets")
NAMES = {
    "picture": "picture",
    "noisy": "drawing so far",
    "vision": "CLIP vision tower",
    "features": "U-Net features",
    "encoder": "encoder",
    "word": "S*",
    "text": "text encoder",
    "unet": "U-Net",
    "offsets": "weight offsets",
    "result": "less noise",
}
ALL = tuple(NAMES)
MAPS = {  # number of the notebook: the boxes that it is about
    "00": ALL,
    "01": ("picture",),
    "02": ("noisy", "text", "unet", "result"),
    "03": ("word", "text"),
    "04": ("vision", "features", "encoder", "word"),
    "05": ("offsets",),
    "06": ("encoder", "word", "offsets"),
    "07": ("encoder", "offsets"),
    "08": ("picture", "encoder", "offsets"),
    "09": ("picture", "result"),
    "10": ALL,
    "11": ALL,
}
ALT = """Map of the system, from left to right. One picture of the concept goes through the CLIP
    vision tower, the drawing so far gives U-Net features; from both, the encoder makes the word S*.
    S* enters the prompt of the text encoder. The U-Net, with weight offsets inside, reads the text
    and the drawing so far, and answers with less noise, which is the next drawing so far. Thick
    frames, where E4T trains: encoder and weight offsets. Lit: """
STRAIGHT = (
    ("picture", "vision"),
    ("noisy", "features"),
    ("encoder", "word"),
    ("word", "text"),
    ("text", "unet"),
    ("unet", "result"),
)


def draw_map(sheet: Sheet, lit: tuple[str, ...]):
    """The whole system, with the named boxes lit."""
    for start, end in STRAIGHT:
        _straight_arrow(sheet, start, end)
    _bent_arrows(sheet)
    for name, (*where, text) in BOXES.items():
        sheet.box(where, text, LIT if name in lit else PLAIN, thick=name in TRAINED)


def _straight_arrow(sheet: Sheet, start: str, end: str):
    x, y, width, *_ = BOXES[start]
    to_x, _, to_width, *_ = BOXES[end]
    if start == "unet":  # its box is not as high in the middle as those beside it
        y = BOXES[end][1]
    sheet.arrow((x + width / 2, y), (to_x - to_width / 2, y))


def _bent_arrows(sheet: Sheet):
    for y, turn in ((34, 75), (134, 93)):  # both eyes of the encoder
        sheet.arrow((270, y), (283, y), (283, turn), (297, turn))
    sheet.arrow((94, 159), (94, 176), (717, 176), (717, 120))  # the drawing into the U-Net
    sheet.arrow((835, 109), (835, 194), (48, 194), (48, 159))  # the result is the next drawing


def _alt(lit: tuple[str, ...]) -> str:
    boxes = "all boxes" if lit == ALL else ", ".join(NAMES[name] for name in lit)
    return one_line(f"{ALT}{boxes}.")


for _number, _lit in MAPS.items():
    FIGURES[f"map-{_number}"] = Drawing(_alt(_lit), 203, 24, partial(draw_map, lit=_lit))
