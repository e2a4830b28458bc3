"""Figures of the training: what the regularizer pulls at (06), one step, the two phases (07)."""

from .catalogue import figure
from .sheet import GRADIENT, GREY, INK, LIT, TRAINED, WHITE, Sheet


@figure("pull-06", 250)
def pull(sheet: Sheet):
    """Two panels with the same points: zero, the class word face with other words around it, and S*
    far from all of them, at the end of the offset s E. Left: a penalty on the offset s E alone
    pulls S* back to the class word. Right: a penalty on the whole vector v* pulls S* to zero, away
    from all words."""
    for left, title, target in (
        (20, "penalty on the offset, s E", "face"),
        (460, "penalty on v* whole", "zero"),
    ):
        _panel(sheet, left, title, target)


def _panel(sheet: Sheet, left: int, title: str, target: str):
    points = {"zero": (left + 60, 205), "face": (left + 215, 95), "star": (left + 340, 160)}
    sheet.box((left + 200, 125, 400, 236), color=WHITE)
    sheet.write(left + 200, 27, title, 13, weight="bold")
    _other_words(sheet, points["face"])
    _vectors(sheet, left, points)
    _pull_towards(sheet, points["star"], points[target], bend=16 if target == "zero" else -13)
    _points(sheet, points)
    sheet.write(left + 310, 228, "grey dots: other words", 11, color=GREY)


def _other_words(sheet: Sheet, face):
    for dx, dy in ((-48, -24), (-18, -34), (34, -26), (-56, 10), (58, -4), (-22, 30)):
        sheet.axis.plot(face[0] + dx, face[1] + dy, "o", color="#999999", markersize=3.5)


def _vectors(sheet: Sheet, left: int, points: dict):
    for start, end, name, x, y in (
        ("zero", "face", "$v_{\\mathrm{class}}$", 112, 145),
        ("zero", "star", "$v^*$", 190, 168),
        ("face", "star", "$s\\,E$", 268, 139),
    ):
        sheet.arrow(points[start], points[end], color="#999999")
        sheet.write(left + x, y, name, 12)


def _pull_towards(sheet: Sheet, star, end, bend: int):
    """An arrow over most of the way, `bend` points beside the line."""
    tip = [s + 0.72 * (e - s) for s, e in zip(star, end, strict=True)]
    head = {"arrowstyle": "-|>", "color": GRADIENT, "linewidth": 2.6, "mutation_scale": 16}
    sheet.axis.annotate("", (tip[0], tip[1] + bend), (star[0], star[1] + bend), arrowprops=head)


def _points(sheet: Sheet, points: dict):
    zero, face, star = points["zero"], points["face"], points["star"]
    sheet.axis.plot(*zero, "s", color=INK, markersize=7)
    sheet.axis.plot(*face, "o", color=INK, markersize=7)
    sheet.axis.plot(*star, "*", color=TRAINED, markersize=14)
    sheet.write(zero[0], zero[1] + 20, "zero: no word", 11)
    sheet.write(face[0] - 6, face[1] - 18, "face", 12, ha="right")
    sheet.write(star[0] + 14, star[1] - 4, "S*", 13, ha="left", weight="bold")


@figure("training-07", 294)
def training(sheet: Sheet):
    """One training step. A picture's latents z_0 are mixed with noise to z_t. The encoder sees the
    picture and the U-Net's features of z_t, and makes S*, which takes its place in the picture's
    caption. The U-Net, with its weight offsets, reads z_t and the caption and says what is picture
    and what is noise. The loss is the squared difference to the truth plus a weight times the
    squared length of the offset s E. Dashed arrows: the gradient changes the encoder and the weight
    offsets; all else is frozen."""
    sheet.axis.set_ylim(326, 32)
    _mix_picture_and_noise(sheet)
    _make_the_word(sheet)
    _ask_under_the_caption(sheet)
    _compare_with_the_truth(sheet)
    _send_the_gradient_back(sheet)


def _mix_picture_and_noise(sheet: Sheet):
    sheet.box((75, 70, 120, 50), "a picture, and\nits latents $z_0$")
    sheet.box((75, 230, 120, 50), "noise and a\ntimestep t")
    sheet.arrow((75, 95), (75, 128))
    sheet.arrow((75, 205), (75, 172))
    sheet.box((75, 150, 120, 40), "mix: $z_t$")


def _make_the_word(sheet: Sheet):
    sheet.arrow((135, 70), (280, 70), text="[CLS] tokens", at=(205, 58))
    features = ((135, 142), (205, 142), (205, 88), (280, 88))
    sheet.arrow(*features, text="U-Net features", at=(256, 112))
    sheet.box((330, 79, 96, 56), "encoder", LIT, thick=True)
    sheet.arrow((378, 79), (420, 79), text="s E", at=(397, 66))
    sheet.box((495, 79, 146, 56), 'S* = face + s E\n"a photo of S* …"')


def _ask_under_the_caption(sheet: Sheet):
    sheet.arrow((568, 79), (600, 79))
    sheet.box((660, 79, 116, 56), "text encoder")
    sheet.arrow((660, 107), (660, 128))
    sheet.box((660, 174, 140, 88), "U-Net\n\n\n")
    sheet.box((660, 191, 112, 36), "weight offsets", LIT, thick=True)
    sheet.arrow((135, 158), (588, 158))
    sheet.arrow((660, 218), (660, 244), text="$v$", at=(672, 230))


def _compare_with_the_truth(sheet: Sheet):
    loss = "loss = mean of ($v$ − truth)$^2$ + $\\lambda$ · mean of |s E|$^2$"
    sheet.box((540, 270, 380, 48), loss)
    truth = ((135, 240), (240, 240), (240, 264), (348, 264))
    sheet.arrow(*truth, text="truth: the $v$ of $z_0$ and noise", at=(235, 225))


def _send_the_gradient_back(sheet: Sheet):
    for points in (
        ((732, 270), (800, 270), (800, 191), (718, 191)),
        ((348, 280), (330, 280), (330, 109)),
    ):
        sheet.arrow(*points, dashed=True, color=GRADIENT)
    sheet.write(808, 300, "dashed: gradients,\nwhat learns", 11, color=GRADIENT)
    sheet.write(540, 312, "all else is frozen", 11, color=GREY)


PHASES = {
    "pictures": ("many people of one domain", "ONE picture, 16 noises a step, on 16 backgrounds*"),
    "captions": ('"a photo of S* on the beach": with the scene*', '"a photo of S*"'),
    "timesteps t": ("all, 0 to 999", "high noise only, 300 to 999*"),
    "diffusion loss": ("over the whole picture", "inside the mask"),
    "added to it": (
        "0.01 (on the toy 0.001) · |s E|$^2$",
        "0.1 · |s E|$^2$  and  3 · change outside the mask*",
    ),
    "what learns": ("encoder and weight offsets", "encoder and folded weight offsets"),
    "starts from": ('S* = "face", $\\Delta$ = 0', "what phase 1 has learned"),
    "steps": ("many, once for the domain", "5 to 15, for each new picture"),
}
FOOTNOTE = (
    "* our choice; backgrounds and the change outside only where there is a mask. "
    "All else is frozen in both."
)


@figure("phases-07", 338)
def phases(sheet: Sheet):
    """The two phases side by side, as a table. Phase 1, domain pretraining: many people of one
    domain; captions with S* and the scene; all timesteps, 0 to 999; diffusion loss over the whole
    picture, plus 0.01 (on the toy 0.001) times the squared length of s E; encoder and weight
    offsets learn, from S* = face and Delta = 0, in many steps, once for the domain. Phase 2,
    personalization: one picture under 16 noises a step, on 16 backgrounds; the caption 'a photo of
    S*'; timesteps from 300 up; diffusion loss inside the mask, plus 0.1 times the squared length of
    s E, plus 3 times the change outside the mask; encoder and folded weight offsets learn, from
    what phase 1 has learned, in 5 to 15 steps for each new picture. Marked as our choice: the scene
    in captions, the backgrounds, the high timesteps, the change outside."""
    columns = (317, 689)
    titles = ("Phase 1: domain pretraining", "Phase 2: personalization")
    for x, title in zip(columns, titles, strict=True):
        sheet.box((x, 22, 346, 36), title, LIT, size=14)
    sheet.arrow((490, 22), (516, 22))
    for i, (name, texts) in enumerate(PHASES.items()):
        y = 62 + 33 * i
        sheet.write(130, y, name, 12, ha="right", weight="bold")
        for x, text in zip(columns, texts, strict=True):
            sheet.box((x, y, 346, 28), text, WHITE, corner=4)
    sheet.write(144, 322, FOOTNOTE, 11, ha="left", color=GREY)
