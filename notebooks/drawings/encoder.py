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
    go through LayerNorm, a linear layer and LeakyReLU. Both halves, side by side, go through two
    linear layers: E. The embedding of S* is the class word's embedding plus s times E, with s =
    0.1. Thick frames: what learns."""
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
    sheet.box((666, 184, 120, 60), "side by side,\ntwo linear layers", thick=True)
    sheet.arrow((726, 184), (760, 184), text="E", at=(740, 171))
    sheet.box((790, 184, 60, 44), "times\ns = 0.1")
    sheet.arrow((790, 206), (790, 236))


def _add_to_the_class_word(sheet: Sheet):
    sheet.box((790, 254, 36, 36), "+", size=18)
    sheet.box((657, 254, 140, 44), 'embedding of the\nclass word, "face"')
    sheet.arrow((727, 254), (772, 254))
    sheet.arrow((790, 272), (790, 299))
    sheet.box((790, 320, 130, 40), "embedding of S*", LIT)
