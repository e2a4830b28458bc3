"""Figures of the base model: the sampling loop (notebook 02), and how a word enters (03)."""

import numpy as np

from .catalogue import figure
from .sheet import GREY, LIT, PLAIN, Sheet


@figure("sampling-02", 232)
def sampling(sheet: Sheet):
    """The sampling loop. The noisy latents z_t, pure noise at first, and the timestep t go into the
    same U-Net twice: once with the empty prompt, giving v_empty, once with the prompt, giving
    v_prompt. Guidance combines them: v = v_empty + g (v_prompt - v_empty). The DDIM rule uses v to
    mix picture and noise again with a little less noise. That goes back to z_t, 10 times; then the
    autoencoder unpacks the latents into a picture."""
    sheet.box((75, 104, 124, 76), "latents $z_t$\nand timestep t\n(at first: noise)")
    _ask_the_unet(sheet, 36, "empty", "with the empty prompt")
    _ask_the_unet(sheet, 172, "prompt", "with your prompt")
    sheet.write(275, 104, "the same network,\nasked twice", 11, color=GREY)
    guidance = "guidance\n$v_{\\mathrm{empty}} + g\\,(v_{\\mathrm{prompt}} - v_{\\mathrm{empty}})$"
    sheet.box((479, 104, 170, 56), guidance, LIT, size=11.5)
    sheet.arrow((564, 104), (592, 104), text="$v$", at=(577, 92))
    sheet.box((660, 104, 136, 76), "DDIM rule:\nmix again with a\nlittle less noise", LIT)
    sheet.arrow((728, 104), (770, 104), text="last\nstep", at=(748, 82))
    sheet.box((820, 104, 100, 76), "autoencoder:\nlatents to\npicture")
    back = ((660, 142), (660, 222), (75, 222), (75, 142))
    sheet.arrow(*back, text="next step: 10 in all", at=(580, 211))


def _ask_the_unet(sheet: Sheet, y: int, name: str, prompt: str):
    sheet.arrow((137, 104), (165, 104), (165, y), (190, y))
    sheet.box((275, y, 170, 56), f"U-Net\n{prompt}")
    into_guidance = (446, 76 if y < 104 else 132)
    answer = f"$v_{{\\mathrm{{{name}}}}}$"
    sheet.arrow((360, y), (446, y), into_guidance, text=answer, at=(402, y - 14))


@figure("word-03", 322, colors=64)
def word(sheet: Sheet):
    """How S* enters a prompt. The prompt 'a photo of S*' is cut into the tokens start, a, photo,
    of, S*, end. Each token's row is looked up in the table of embeddings; in the place of S* a
    vector from outside is put instead, D numbers wide as all rows. Only then comes the text
    encoder, where each row looks at itself and at those before it, S* as any other word. Out comes
    one row of D numbers per token, which the U-Net reads in its cross-attention."""
    _names_of_the_stages(sheet)
    for i, token in enumerate(("start", "a", "photo", "of", "S*", "end")):
        _column_of(sheet, i, token)
    sheet.arrow((690, 70), (548, 70), (548, 93))
    sheet.axis.plot([528, 528], [48, 62], color="#555555", linewidth=1.1)
    sheet.write(528, 68, "×", 22, weight="bold")
    sheet.box((775, 70, 170, 58), "a vector of our choice,\nD numbers", LIT)
    attention = "each row looks at itself and at those before it,\nS* as any other word"
    sheet.box((396, 192, 530, 48), attention)
    sheet.write(396, 302, "all T rows go to the U-Net, which reads them in its cross-attention")


def _names_of_the_stages(sheet: Sheet):
    stages = {
        32: "tokens",
        102: "their rows in\nthe table",
        192: "text encoder",
        256: "what it says,\n(T, D)",
        302: "next",
    }
    for y, text in stages.items():
        sheet.write(20, y, text, 12, ha="left", weight="bold")


def _column_of(sheet: Sheet, i: int, token: str):
    """One token on its way from the prompt to the text encoder's output."""
    x, is_placeholder = 176 + 88 * i, token == "S*"
    sheet.box((x, 32, 74, 32), token, LIT if is_placeholder else PLAIN)
    if not is_placeholder:
        sheet.arrow((x, 48), (x, 93))
    colors = "Oranges" if is_placeholder else "Greys"
    sheet.cells(x - 36, 97, _random_row(i), colors=colors, limit=2.5)
    sheet.arrow((x, 110), (x, 168))
    sheet.arrow((x, 216), (x, 248))
    sheet.cells(x - 36, 252, _random_row(10 + i), colors="Blues", limit=2.5)


def _random_row(seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(1, 8)
