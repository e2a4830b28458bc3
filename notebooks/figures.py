"""Draws the conceptual figures of the notebooks into `figures/`, each with its alternative text: `python notebooks/figures.py`.

The text goes into the PNG itself (the standard field "Description"), where `e4t_minimal.inspection.plots.diagram` finds it. The same code gives the same bytes.
Colours: yellow is lit, blue is an aside; a thick frame is what E4T trains. None of it is told by colour alone.
"""

from functools import partial
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FOLDER = Path(__file__).parent / "figures"
LIT, PLAIN, ASIDE, INK = "#ffd866", "#f1f1f1", "#dbe9fb", "#222222"
WIDTH, FIGURES = (
    880,
    {},
)  # points of the screen, two pixels each; name: (alternative text, height, number of colours, function that draws)


def figure(name: str, height: int, alt: str = "", colors: int = 24):
    """Registers a function that draws on a Sheet. Its docstring is the alternative text, unless another is given."""

    def keep(draw):
        FIGURES[name] = (alt or " ".join(draw.__doc__.split()), height, colors, draw)
        return draw

    return keep


class Sheet:
    """A page with its origin at the upper left. Boxes are (x of the middle, y of the middle, width, height)."""

    def __init__(self, height: int):
        self.figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=200)
        self.axis = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        self.axis.axis("off")

    def write(self, x, y, text, size=12.0, **options):
        self.axis.text(
            x,
            y,
            text,
            **{
                "ha": "center",
                "va": "center",
                "fontsize": size * 0.72,
                "color": INK,
                "linespacing": 1.25,
            }
            | options,
        )

    def box(self, x, y, w, h, text="", color=PLAIN, thick=False, size=12.0, round=7):
        self.axis.add_patch(
            FancyBboxPatch(
                (x - w / 2, y - h / 2),
                w,
                h,
                boxstyle=f"round,pad=0,rounding_size={round}",
                facecolor=color,
                edgecolor="#b03a00" if thick else "#777777",
                linewidth=2.2 if thick else 0.8,
            )
        )
        self.write(x, y, text, size)

    def arrow(self, *points, text="", at=None, dashed=False, color="#555555"):
        """Through all the points (x, y), with its head at the last; `text` at `at`."""
        xs, ys = zip(*points)
        line = "--" if dashed else "-"
        self.axis.plot(
            xs[:-1], ys[:-1], color=color, linewidth=1.1, linestyle=line, solid_joinstyle="miter"
        )
        self.axis.annotate(
            "",
            points[-1],
            points[-2],
            arrowprops={
                "arrowstyle": "->",
                "color": color,
                "linewidth": 1.1,
                "linestyle": line,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        if text:
            self.write(*at, text, 11)

    def cells(self, x, y, values, size=9, colors="PuOr", limit=2.0):
        """A matrix (rows, columns) of squares, its upper left corner at (x, y)."""
        values = np.atleast_2d(values)
        rows, columns = values.shape
        edge = {"edgecolors": "#888888", "linewidth": 0.4}
        self.axis.pcolormesh(
            x + size * np.arange(columns + 1),
            y + size * np.arange(rows + 1),
            values,
            cmap=colors,
            vmin=-limit,
            vmax=limit,
            **edge,
        )


BOXES = {  # of the map: (x, y, width, height, what is written in it)
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
MAPS = {
    "00": NAMES,
    "01": ("picture",),
    "02": ("noisy", "text", "unet", "result"),
    "03": ("word", "text"),
    "04": ("vision", "features", "encoder", "word"),
    "05": ("offsets",),
    "06": ("encoder", "word", "offsets"),
    "07": ("encoder", "offsets"),
    "08": ("picture", "encoder", "offsets"),
    "09": ("picture", "result"),
    "10": NAMES,
    "11": NAMES,
}  # number of the notebook: the boxes that it is about
SYSTEM = """Map of the system, from left to right. One picture of the concept goes through the CLIP vision tower, the drawing so far gives U-Net features; from
    both, the encoder makes the word S*. S* enters the prompt of the text encoder. The U-Net, with weight offsets inside, reads the text and the drawing so far, and
    answers with less noise, which is the next drawing so far. Thick frames, where E4T trains: encoder and weight offsets. Lit: """


def system_map(sheet: Sheet, lit):
    """The whole system, with the named boxes lit."""
    for start, end in (
        ("picture", "vision"),
        ("noisy", "features"),
        ("encoder", "word"),
        ("word", "text"),
        ("text", "unet"),
        ("unet", "result"),
    ):
        (x, y, w, *_), (to, _, width, *_) = BOXES[start], BOXES[end]
        y = 84 if start == "unet" else y
        sheet.arrow((x + w / 2, y), (to - width / 2, y))
    for y, turn in ((34, 75), (134, 93)):
        sheet.arrow((270, y), (283, y), (283, turn), (297, turn))
    sheet.arrow((94, 159), (94, 176), (717, 176), (717, 120))
    sheet.arrow((835, 109), (835, 194), (48, 194), (48, 159))
    for name, (x, y, w, h, text) in BOXES.items():
        sheet.box(x, y, w, h, text, LIT if name in lit else PLAIN, name in ("encoder", "offsets"))


for number, lit in MAPS.items():
    words = "all boxes" if lit is NAMES else ", ".join(NAMES[name] for name in lit)
    figure(f"map-{number}", 203, " ".join(f"{SYSTEM}{words}.".split()))(
        partial(system_map, lit=lit)
    )


@figure("sampling-02", 232)
def sampling(sheet):
    """The sampling loop. The noisy latents z_t, pure noise at first, and the timestep t go into the same U-Net twice: once with the empty prompt, giving v_empty,
    once with the prompt, giving v_prompt. Guidance combines them: v = v_empty + g (v_prompt - v_empty). The DDIM rule uses v to mix picture and noise again with
    a little less noise. That goes back to z_t, 20 times; then the autoencoder unpacks the latents into a picture."""
    sheet.box(75, 104, 124, 76, "latents $z_t$\nand timestep t\n(at first: noise)")
    for y, name, prompt in (
        (36, "empty", "with the empty prompt"),
        (172, "prompt", "with your prompt"),
    ):
        sheet.arrow((137, 104), (165, 104), (165, y), (190, y))
        sheet.box(275, y, 170, 56, f"U-Net\n{prompt}")
        sheet.arrow(
            (360, y),
            (446, y),
            (446, 76 if y < 104 else 132),
            text=f"$v_{{\\mathrm{{{name}}}}}$",
            at=(402, y - 14),
        )
    sheet.write(275, 104, "the same network,\nasked twice", 11, color="#444444")
    sheet.box(
        479,
        104,
        170,
        56,
        "guidance\n$v_{\\mathrm{empty}} + g\\,(v_{\\mathrm{prompt}} - v_{\\mathrm{empty}})$",
        LIT,
        size=11.5,
    )
    sheet.arrow((564, 104), (592, 104), text="$v$", at=(577, 92))
    sheet.box(660, 104, 136, 76, "DDIM rule:\nmix again with a\nlittle less noise", LIT)
    sheet.arrow((728, 104), (770, 104), text="last\nstep", at=(748, 82))
    sheet.box(820, 104, 100, 76, "autoencoder:\nlatents to\npicture")
    sheet.arrow(
        (660, 142), (660, 222), (75, 222), (75, 142), text="next step: 20 in all", at=(580, 211)
    )


def row(seed: int, count: int = 8) -> np.ndarray:
    return np.random.RandomState(seed).randn(1, count)


@figure("word-03", 322, colors=64)
def word(sheet):
    """How S* enters a prompt. The prompt 'a photo of S*' is cut into the tokens start, a, photo, of, S*, end. Each token's row is looked up in the table of
    embeddings; in the place of S* a vector from outside is put instead, D numbers wide as all rows. Only then comes the text encoder, where each row looks at
    itself and at those before it, S* as any other word. Out comes one row of D numbers per token, which the U-Net reads in its cross-attention."""
    for y, text in (
        (32, "tokens"),
        (102, "their rows in\nthe table"),
        (192, "text encoder"),
        (256, "what it says,\n(T, D)"),
        (302, "next"),
    ):
        sheet.write(20, y, text, 12, ha="left", weight="bold")
    for i, token in enumerate(("start", "a", "photo", "of", "S*", "end")):
        x, here = 176 + 88 * i, token == "S*"
        sheet.box(x, 32, 74, 32, token, LIT if here else PLAIN)
        if not here:
            sheet.arrow((x, 48), (x, 93))
        sheet.cells(x - 36, 97, row(i), colors="Oranges" if here else "Greys", limit=2.5)
        sheet.arrow((x, 110), (x, 168))
        sheet.arrow((x, 216), (x, 248))
        sheet.cells(x - 36, 252, row(10 + i), colors="Blues", limit=2.5)
    sheet.arrow((690, 70), (548, 70), (548, 93))
    sheet.axis.plot([528, 528], [48, 62], color="#555555", linewidth=1.1)
    sheet.write(528, 68, "×", 22, weight="bold")
    sheet.box(775, 70, 170, 58, "a vector of our choice,\nD numbers", LIT)
    sheet.box(
        396, 192, 530, 48, "each row looks at itself and at those before it,\nS* as any other word"
    )
    sheet.write(396, 302, "all T rows go to the U-Net, which reads them in its cross-attention")


@figure("encoder-04", 350)
def encoder(sheet):
    """The encoder, drawn with the sizes of the toy. Upper half: the picture goes through the six layers of the frozen CLIP vision tower; the CLS token after layers
    2, 4 and 6 goes through a LayerNorm and a linear layer, each its own; their average goes through LeakyReLU. Lower half: the noisy latents z_t, with t and the
    empty prompt, go through the first half of the U-Net, three down blocks and the mid block; each output is averaged over all places; side by side they go
    through LayerNorm, a linear layer and LeakyReLU. Both halves, side by side, go through two linear layers: E. The embedding of S* is the class word's embedding
    plus s times E, with s = 0.1. Thick frames: what learns."""
    sheet.box(62, 90, 96, 50, "the picture")
    sheet.arrow((110, 90), (136, 90))
    sheet.write(233, 24, "CLIP vision tower, frozen", 11, color="#444444")
    for i in range(6):
        x, lit = 150 + 33 * i, i % 2 == 1
        sheet.box(x, 90, 25, 88, str(i + 1), LIT if lit else PLAIN, round=4)
        if lit:
            y = 158 - 9 * (i // 2)
            sheet.arrow((x, 134), (x, y), (343, y))
    sheet.write(300, 169, "[CLS]", 11)
    sheet.box(397, 144, 108, 62, "LayerNorm and\nlinear layer,\neach its own", thick=True)
    sheet.arrow((451, 144), (470, 144))
    sheet.box(522, 144, 104, 50, "average,\nLeakyReLU")
    sheet.box(62, 272, 96, 66, "$z_t$, t and the\nempty prompt")
    sheet.arrow((110, 272), (138, 272))
    sheet.write(239, 340, "first half of the U-Net", 11, color="#444444")
    for i, (text, h) in enumerate((("down", 108), ("down", 90), ("down", 72), ("mid", 54))):
        x = 164 + 50 * i
        sheet.box(x, 272, 43, h, text, LIT, size=11, round=4)
        sheet.arrow((x, 272 - h / 2), (x, 208), (343, 208))
    sheet.write(268, 196, "mean over places", 11)
    sheet.box(397, 222, 108, 62, "side by side,\nLayerNorm and\nlinear layer", thick=True)
    sheet.arrow((451, 222), (470, 222))
    sheet.box(522, 222, 104, 50, "LeakyReLU")
    sheet.arrow((574, 144), (590, 144), (590, 176), (606, 176))
    sheet.arrow((574, 222), (590, 222), (590, 192), (606, 192))
    sheet.box(666, 184, 120, 60, "side by side,\ntwo linear layers", thick=True)
    sheet.arrow((726, 184), (760, 184), text="E", at=(740, 171))
    sheet.box(790, 184, 60, 44, "times\ns = 0.1")
    sheet.arrow((790, 206), (790, 236))
    sheet.box(790, 254, 36, 36, "+", size=18)
    sheet.box(657, 254, 140, 44, 'embedding of the\nclass word, "face"')
    sheet.arrow((727, 254), (772, 254))
    sheet.arrow((790, 272), (790, 299))
    sheet.box(790, 320, 130, 40, "embedding of S*", LIT)


def example() -> tuple[np.ndarray, ...]:
    """A small weight offset, computed: constant, x (n), y (m), Delta (n, m), left (n, 3), right (m, 3)."""
    random = np.random.RandomState(4)
    constant, x, y, A, a, B, b = (
        random.randn(*shape) for shape in ((4, 1), (6,), (9,), (6, 6), (6,), (9, 9), (9,))
    )
    A, B = A / 6**0.5, B / 9**0.5
    delta = (
        A @ np.outer(x, y) + a[:, None]
    ) @ B.T + b  # a linear layer over every column, then one over every row
    return (
        constant,
        x,
        y,
        delta,
        np.stack([A @ x, a, np.ones(6)], 1),
        np.stack([B @ y, B.sum(1), b], 1),
    )


@figure("offsets-05", 246, colors=64)
def offsets(sheet):
    """How a weight offset is made. Two linear layers turn a learned constant into a column x of n numbers and a row y of m numbers. Their outer product is an n by m
    matrix. One linear layer over its columns, then one over its rows, make Delta. The frozen weight W is multiplied, element by element, by 1 + Delta; that product
    is what the layer uses. Thick frames: what learns."""
    constant, x, y, delta, *_ = example()
    weight, s = 1.2 * np.random.RandomState(5).randn(*delta.shape), 11
    sheet.write(50, 24, "learned\nconstant", weight="bold")
    sheet.box(49.5, 98, 23, 56, thick=True)
    sheet.cells(44, 76, constant, s)
    for middle in (56, 154):
        sheet.arrow((64, 98), (78, 98), (78, middle), (94, middle))
        sheet.box(126, middle, 62, 34, "linear", thick=True)
        sheet.arrow((157, middle), (190, middle))
    sheet.cells(196, 26, x[:, None], s)
    sheet.write(202, 106, "column x (n)", 11)
    sheet.cells(196, 148, y, s)
    sheet.write(245, 174, "row y (m)", 11)
    sheet.arrow((212, 56), (300, 56), (300, 74), (328, 74))
    sheet.arrow((300, 154), (314, 154), (314, 98), (328, 98))
    sheet.cells(334, 53, np.outer(x, y), s)
    sheet.write(384, 36, "outer product (n, m)", 11)
    sheet.arrow((436, 86), (456, 86))
    sheet.box(498, 86, 82, 50, "linear over\ncolumns", thick=True)
    sheet.arrow((539, 86), (556, 86))
    sheet.box(593, 86, 72, 50, "linear\nover rows", thick=True)
    sheet.arrow((629, 86), (647, 86))
    sheet.cells(653, 53, delta, s, limit=3)
    sheet.write(703, 36, "$\\Delta$ (n, m)", 12)
    sheet.arrow((721, 123), (721, 187))
    sheet.write(
        575, 191, "$W \\cdot (1 + \\Delta)$,\nelement by element", 12, ha="right", weight="bold"
    )
    sheet.cells(597, 158, weight, s, limit=3)
    sheet.write(646, 234, "W, frozen", 11)
    sheet.arrow((702, 191), (740, 191))
    sheet.cells(746, 158, weight * (1 + delta), s, limit=6)
    sheet.write(796, 234, "what the layer uses", 11)


@figure("folded-05", 148, colors=64)
def folded(sheet):
    """The same Delta, folded: left, a matrix of n rows and 3 columns, A x, a and ones, times the transpose of right, 3 rows and m columns, B y, B 1 and b. That takes
    3 (n + m) numbers. A and a are weight and bias of the linear layer over columns, B and b of the one over rows."""
    *_, delta, left, right = example()
    sheet.write(16, 66, "folded:\n3 (n + m) numbers", ha="left", weight="bold")
    for i, text in enumerate(("A x", "a", "1")):
        sheet.cells(196 + 32 * i, 20, left[:, i : i + 1], 16, limit=3)
        sheet.write(204 + 32 * i, 130, text)
    sheet.write(236, 9, "left (n, 3)", 11)
    sheet.write(306, 68, "×", 18)
    sheet.write(406, 9, "right, transposed (3, m)", 11)
    for i, text in enumerate(("B y", "B 1", "b")):
        sheet.cells(334, 24 + 32 * i, right[:, i], 16, limit=3)
        sheet.write(486, 33 + 32 * i, text, ha="left")
    sheet.write(544, 68, "=", 18)
    sheet.cells(576, 20, delta, 16, limit=3)
    sheet.write(648, 130, "$\\Delta$ (n, m), as before")
    sheet.write(736, 66, "A, a: layer over columns\nB, b: layer over rows", 11, ha="left")


@figure("pull-06", 250)
def pull(sheet):
    """Two panels with the same points: zero, the class word face with other words around it, and S* far from all of them, at the end of the offset s E. Left: a penalty
    on the offset s E alone pulls S* back to the class word. Right: a penalty on the whole vector v* pulls S* to zero, away from all words."""
    for left, title, target in (
        (20, "penalty on the offset, s E", "face"),
        (460, "penalty on v* whole", "zero"),
    ):
        sheet.box(left + 200, 125, 400, 236, color="#ffffff")
        zero, face, star = (left + 60, 205), (left + 215, 95), (left + 340, 160)
        sheet.write(left + 200, 27, title, 13, weight="bold")
        for dx, dy in ((-48, -24), (-18, -34), (34, -26), (-56, 10), (58, -4), (-22, 30)):
            sheet.axis.plot(face[0] + dx, face[1] + dy, "o", color="#999999", markersize=3.5)
        sheet.arrow(zero, face, color="#999999")
        sheet.write(left + 112, 145, "$v_{\\mathrm{class}}$", 12)
        sheet.arrow(zero, star, color="#999999")
        sheet.write(left + 190, 168, "$v^*$", 12)
        sheet.arrow(face, star, color="#999999")
        sheet.write(left + 268, 139, "$s\\,E$", 12)
        end = face if target == "face" else zero
        aim = [s + 0.72 * (e - s) for s, e in zip(star, end)]
        bend = 16 if target == "zero" else -13
        pull = {"arrowstyle": "-|>", "color": "#1d4ed8", "linewidth": 2.6, "mutation_scale": 16}
        sheet.axis.annotate("", (aim[0], aim[1] + bend), (star[0], star[1] + bend), arrowprops=pull)
        sheet.axis.plot(*zero, "s", color=INK, markersize=7)
        sheet.axis.plot(*face, "o", color=INK, markersize=7)
        sheet.axis.plot(*star, "*", color="#b03a00", markersize=14)
        sheet.write(zero[0], zero[1] + 20, "zero: no word", 11)
        sheet.write(face[0] - 6, face[1] - 18, "face", 12, ha="right")
        sheet.write(star[0] + 14, star[1] - 4, "S*", 13, ha="left", weight="bold")
        sheet.write(left + 310, 228, "grey dots: other words", 11, color="#444444")


@figure("training-07", 294)
def training(sheet):
    """One training step. A picture's latents z_0 are mixed with noise to z_t. The encoder sees the picture and the U-Net's features of z_t, and makes S*, which
    takes its place in the picture's caption. The U-Net, with its weight offsets, reads z_t and the caption and says what is picture and what is noise. The loss
    is the squared difference to the truth plus a weight times the squared length of the offset s E. Dashed arrows: the gradient changes the encoder and the
    weight offsets; all else is frozen."""
    sheet.axis.set_ylim(326, 32)
    sheet.box(75, 70, 120, 50, "a picture, and\nits latents $z_0$")
    sheet.box(75, 230, 120, 50, "noise and a\ntimestep t")
    sheet.arrow((75, 95), (75, 128))
    sheet.arrow((75, 205), (75, 172))
    sheet.box(75, 150, 120, 40, "mix: $z_t$")
    sheet.arrow((135, 70), (280, 70), text="[CLS] tokens", at=(205, 58))
    sheet.arrow((135, 142), (205, 142), (205, 88), (280, 88), text="U-Net features", at=(256, 112))
    sheet.box(330, 79, 96, 56, "encoder", LIT, True)
    sheet.arrow((378, 79), (420, 79), text="s E", at=(397, 66))
    sheet.box(495, 79, 146, 56, 'S* = face + s E\n"a photo of S* …"')
    sheet.arrow((568, 79), (600, 79))
    sheet.box(660, 79, 116, 56, "text encoder")
    sheet.arrow((660, 107), (660, 128))
    sheet.box(660, 174, 140, 88, "U-Net\n\n\n")
    sheet.box(660, 191, 112, 36, "weight offsets", LIT, True)
    sheet.arrow((135, 158), (588, 158))
    sheet.arrow((660, 218), (660, 244), text="$v$", at=(672, 230))
    sheet.box(540, 270, 380, 48, "loss = mean of ($v$ − truth)$^2$ + 0.01 · mean of |s E|$^2$")
    sheet.arrow(
        (135, 240),
        (240, 240),
        (240, 264),
        (348, 264),
        text="truth: the $v$ of $z_0$ and noise",
        at=(235, 225),
    )
    blue = {"dashed": True, "color": "#1d4ed8"}
    sheet.arrow((732, 270), (800, 270), (800, 191), (718, 191), **blue)
    sheet.arrow((348, 280), (330, 280), (330, 109), **blue)
    sheet.write(808, 300, "dashed: gradients,\nwhat learns", 11, color="#1d4ed8")
    sheet.write(540, 312, "all else is frozen", 11, color="#444444")


@figure("phases-07", 338)
def phases(sheet):
    """The two phases side by side, as a table. Phase 1, domain pretraining: many people of one domain; captions with S* and the scene; all timesteps, 0 to 999;
    diffusion loss over the whole picture, plus 0.01 times the squared length of s E; encoder and weight offsets learn, from S* = face and Delta = 0, in many steps,
    once for the domain. Phase 2, personalization: one picture under 16 noises a step, on 16 backgrounds; the caption 'a photo of S*'; timesteps from 300 up; diffusion
    loss inside the mask, plus 0.1 times the squared length of s E, plus 3 times the change outside the mask; encoder and folded weight offsets learn, from what
    phase 1 has learned, in 5 to 15 steps for each new picture. Marked as our choice: the scene in captions, the backgrounds, the high timesteps, the change outside."""
    rows = (
        (
            "pictures",
            "many people of one domain",
            "ONE picture, 16 noises a step, on 16 backgrounds*",
        ),
        ("captions", '"a photo of S* on the beach": with the scene*', '"a photo of S*"'),
        ("timesteps t", "all, 0 to 999", "high noise only, 300 to 999*"),
        ("diffusion loss", "over the whole picture", "inside the mask"),
        ("added to it", "0.01 · |s E|$^2$", "0.1 · |s E|$^2$  and  3 · change outside the mask*"),
        ("what learns", "encoder and weight offsets", "encoder and folded weight offsets"),
        ("starts from", 'S* = "face", $\\Delta$ = 0', "what phase 1 has learned"),
        ("steps", "many, once for the domain", "5 to 15, for each new picture"),
    )
    for x, title in ((317, "Phase 1: domain pretraining"), (689, "Phase 2: personalization")):
        sheet.box(x, 22, 346, 36, title, LIT, size=14)
    sheet.arrow((490, 22), (516, 22))
    for i, (name, first, second) in enumerate(rows):
        y = 62 + 33 * i
        sheet.write(130, y, name, 12, ha="right", weight="bold")
        for x, text in ((317, first), (689, second)):
            sheet.box(x, y, 346, 28, text, "#ffffff", round=4)
    sheet.write(
        144,
        322,
        "* our choice; backgrounds and the change outside only where there is a mask. All else is frozen in both.",
        11,
        ha="left",
        color="#444444",
    )


def render(name: str) -> Image.Image:
    """The figure, in few colours: a small file."""
    _, height, colors, draw = FIGURES[name]
    with style.context("default"):
        sheet = Sheet(height)
        draw(sheet)
        canvas = FigureCanvasAgg(sheet.figure)
        canvas.draw()
    return (
        Image.fromarray(np.asarray(canvas.buffer_rgba()))
        .convert("RGB")
        .quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )


def png(name: str) -> bytes:
    """The file: the figure, its alternative text, and what drew it (another version may set letters a little differently)."""
    info, out = PngInfo(), BytesIO()
    info.add_itxt("Description", FIGURES[name][0])
    info.add_text("Software", f"matplotlib {matplotlib.__version__}")
    render(name).save(out, format="png", optimize=True, pnginfo=info)
    return out.getvalue()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in FIGURES:
        (FOLDER / f"{name}.png").write_bytes(png(name))
        print(f"{name}: {(FOLDER / f'{name}.png').stat().st_size // 1024} KB")
    for file in FOLDER.glob("*.png"):
        if file.stem not in FIGURES:
            file.unlink()
