"""The figure of the encoder (notebook 04)."""

from .catalogue import figure
from .sheet import GREY, LIT, PLAIN, Sheet


@figure("encoder-04", 350)
def encoder(sheet: Sheet):
    """The encoder, drawn with the sizes of the toy. Upper half: the picture goes through the six
    layers of the frozen CLIP vision tower; the CLS token after layers 2, 4 and 6 goes through a
    LayerNorm and a linear layer, each its own; their average goes through LeakyReLU. Lower half:
    the noisy latents z_t, with t and the empty prompt, go through the first half of the U-Net,
    three down blocks and the mid block; each output is averaged over all places; side by side they
    go through LayerNorm, a linear layer and LeakyReLU. Both halves, side by side, go through a
    linear layer, LeakyReLU and a linear layer: E. The embedding of S* is the class word's embedding
    plus s times E, with s = 0.1. Thick frames: what learns."""
    _upper_half(sheet)
    _lower_half(sheet)
    _join(sheet)
    _add_to_the_class_word(sheet)


def _upper_half(sheet: Sheet):
    sheet.box((62, 90, 96, 50), "the picture")
    sheet.arrow((110, 90), (136, 90))
    sheet.write(233, 24, "CLIP vision tower, frozen", 11, color=GREY)
    for i in range(6):
        x, is_read = 150 + 33 * i, i % 2 == 1
        sheet.box((x, 90, 25, 88), str(i + 1), LIT if is_read else PLAIN, corner=4)
        if is_read:
            y = 158 - 9 * (i // 2)
            sheet.arrow((x, 134), (x, y), (343, y))
    sheet.write(300, 169, "[CLS]", 11)
    sheet.box((397, 144, 108, 62), "LayerNorm and\nlinear layer,\neach its own", thick=True)
    sheet.arrow((451, 144), (470, 144))
    sheet.box((522, 144, 104, 50), "average,\nLeakyReLU")


def _lower_half(sheet: Sheet):
    sheet.box((62, 272, 96, 66), "$z_t$, t and the\nempty prompt")
    sheet.arrow((110, 272), (138, 272))
    sheet.write(239, 340, "first half of the U-Net", 11, color=GREY)
    for i, (name, height) in enumerate((("down", 108), ("down", 90), ("down", 72), ("mid", 54))):
        x = 164 + 50 * i
        sheet.box((x, 272, 43, height), name, LIT, size=11, corner=4)
        sheet.arrow((x, 272 - height / 2), (x, 208), (343, 208))
    sheet.write(268, 196, "mean over places", 11)
    sheet.box((397, 222, 108, 62), "side by side,\nLayerNorm and\nlinear layer", thick=True)
    sheet.arrow((451, 222), (470, 222))
    sheet.box((522, 222, 104, 50), "LeakyReLU")


def _join(sheet: Sheet):
    sheet.arrow((574, 144), (590, 144), (590, 176), (606, 176))
    sheet.arrow((574, 222), (590, 222), (590, 192), (606, 192))
    layers = "side by side,\nlinear, LeakyReLU,\nlinear"
    sheet.box((666, 184, 120, 60), layers, thick=True)
    sheet.arrow((726, 184), (760, 184), text="E", at=(740, 171))
    sheet.box((790, 184, 60, 44), "times\ns = 0.1")
    sheet.arrow((790, 206), (790, 236))


def _add_to_the_class_word(sheet: Sheet):
    sheet.box((790, 254, 36, 36), "+", size=18)
    sheet.box((657, 254, 140, 44), 'embedding of the\nclass word, "face"')
    sheet.arrow((727, 254), (772, 254))
    sheet.arrow((790, 272), (790, 299))
    sheet.box((790, 320, 130, 40), "embedding of S*", LIT)


@figure("loop-04", 322)
def loop(sheet: Sheet):
    """E4T's sampling loop, its parts numbered like the lines of the code. 1: the latents z_t go
    through the U-Net without words, which gives v_empty and features. 2: the encoder makes S* of
    the features and of the picture's CLS tokens, which were computed once. 3: S* goes into the
    prompt, and the text encoder reads it. 4: the same latents go through the U-Net with that
    prompt, which gives v_prompt. 5: guidance combines v_empty and v_prompt. 6: the DDIM rule takes
    a little noise away. That goes back to z_t, 10 times; then the autoencoder unpacks the latents
    into a picture."""
    sheet.box((62, 134, 104, 76), "latents $z_t$\nand timestep t\n(at first: noise)")
    sheet.arrow((114, 134), (136, 134), (136, 40), (160, 40))
    sheet.arrow((136, 134), (136, 272), (404, 272), (404, 252))
    sheet.box((235, 40, 150, 52), "1 · U-Net\nwithout words")
    sheet.arrow((235, 66), (235, 108), text="features", at=(266, 86))
    sheet.box((235, 134, 150, 52), "2 · encoder", LIT)
    sheet.box((235, 226, 150, 52), "the picture's [CLS]:\nseen once, before")
    sheet.arrow((235, 200), (235, 160))
    sheet.arrow((310, 134), (339, 134), text="S*", at=(323, 122))
    sheet.box((404, 134, 130, 52), "3 · S* in the prompt,\ntext encoder", LIT)
    sheet.arrow((404, 160), (404, 200))
    sheet.box((404, 226, 130, 52), "4 · U-Net with\nthe prompt")
    _guidance_and_step(sheet)


def _guidance_and_step(sheet: Sheet):
    sheet.arrow((310, 40), (570, 40), (570, 106), text="$v_{\\mathrm{empty}}$", at=(540, 26))
    sheet.arrow((469, 226), (570, 226), (570, 162), text="$v_{\\mathrm{prompt}}$", at=(524, 212))
    sheet.box((570, 134, 130, 56), "5 · guidance")
    sheet.arrow((635, 134), (659, 134), text="$v$", at=(646, 122))
    sheet.box((714, 134, 110, 76), "6 · DDIM rule:\na little\nless noise")
    sheet.arrow((769, 134), (799, 134), text="last\nstep", at=(783, 112))
    sheet.box((836, 134, 74, 76), "auto-\nencoder:\npicture")
    back = ((714, 172), (714, 306), (62, 306), (62, 172))
    sheet.arrow(*back, text="next step: 10 in all", at=(620, 295))
