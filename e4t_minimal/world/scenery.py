"""What stands behind the subject, and how the finished picture is drawn: places and styles, painted with PIL."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIZE = 64  # pixels, height and width of every picture
PLAIN = dict(
    white="#f4f4f4",
    grey="#a9adb3",
    blue="#7fb6ea",
    green="#93cf96",
    yellow="#f5e08a",
    pink="#f3b9cd",
)
PLACES = {
    "beach": "on the beach",
    "forest": "in the forest",
    "snow": "in the snow",
    "city": "in the city",
    "space": "in space",
    "sunset": "at sunset",
}
BACKGROUNDS = {**{c: f"on a {c} background" for c in PLAIN}, **PLACES}
STYLES = {
    "photo": "a photo of",
    "greyscale": "a black and white photo of",
    "sketch": "a pencil sketch of",
    "pixel": "pixel art of",
    "neon": "a neon drawing of",
    "negative": "a negative of",
}


def rng_of(*key) -> random.Random:
    """A random generator that is a pure function of its key (strings and integers)."""
    return random.Random(repr(key))


def background(name: str, seed: int) -> Image.Image:
    """(SIZE, SIZE) RGB: a plain colour, or a place made of a few shapes whose positions depend on the seed."""
    if name in PLAIN:
        return Image.new("RGB", (SIZE, SIZE), PLAIN[name])
    rng, sky = (
        rng_of("place", seed),
        dict(
            beach="#9fdcff",
            forest="#bfe3c0",
            snow="#c9dcf0",
            city="#8fa3c7",
            space="#150d33",
            sunset="#5b3a86",
        ),
    )
    image = Image.new("RGB", (SIZE, SIZE), sky[name])
    pen, x = ImageDraw.Draw(image), rng.randint(4, 43)
    if name == "beach":
        (
            pen.rectangle((0, 34, 64, 48), "#2b86c9"),
            pen.rectangle((0, 48, 64, 64), "#efd79a"),
            pen.ellipse((x, 4, x + 14, 18), "#ffe14d"),
        )
    elif name == "forest":
        pen.rectangle((0, 50, 64, 64), "#5d8a3a")
        for i in range(-1, 6):
            left = 12 * i + rng.randint(0, 7)
            pen.polygon(
                [(left, 54), (left + 8, rng.randint(4, 19)), (left + 16, 54)],
                "#23693a" if i % 2 else "#2f8049",
            )
    elif name == "snow":
        pen.rectangle((0, 44, 64, 64), "#ffffff")
        for px, py in zip(rng.choices(range(63), k=24), rng.choices(range(63), k=24)):
            pen.rectangle((px, py, px + 1, py + 1), "#ffffff")
    elif name == "city":
        for i in range(5):
            left, top = 13 * i, rng.randint(8, 33)
            pen.rectangle((left, top, left + 11, 64), "#4b5570" if i % 2 else "#39415a")
            for wy in range(top + 4, 64, 8):
                (
                    pen.rectangle((left + 2, wy, left + 4, wy + 3), "#ffd866"),
                    pen.rectangle((left + 7, wy, left + 9, wy + 3), "#ffd866"),
                )
    elif name == "space":
        for px, py in zip(rng.choices(range(63), k=22), rng.choices(range(63), k=22)):
            pen.rectangle((px, py, px + 1, py + 1), "#ffffff")
        pen.ellipse((x, 5, x + 16, 21), "#c46ad6")
    else:
        for y in range(SIZE):  # purple to orange, then the dark ground
            pen.line(
                (0, y, SIZE, y),
                tuple(
                    int(a + (b - a) * min(y / 48, 1)) for a, b in zip((91, 58, 134), (255, 140, 60))
                ),
            )
        pen.ellipse((x, 34, x + 20, 54), "#ffe27a"), pen.rectangle((0, 50, 64, 64), "#4a2b3f")
    return image


def stylise(image: Image.Image, style: str) -> Image.Image:
    if style == "greyscale":
        return image.convert("L").convert("RGB")
    framed = Image.fromarray(
        np.pad(np.array(image), ((1, 1), (1, 1), (0, 0)), "edge")
    )  # PIL's filters leave the outermost pixels as they are
    if style == "sketch":  # dark lines where the picture changes, a trace of shading
        lines = framed.convert("L").filter(ImageFilter.CONTOUR).crop((1, 1, SIZE + 1, SIZE + 1))
        return Image.blend(
            lines, image.convert("L").point(lambda v: 160 + v * 3 // 8), 0.35
        ).convert("RGB")
    if style == "pixel":
        return image.resize((16, 16), Image.Resampling.BOX).resize(
            (SIZE, SIZE), Image.Resampling.NEAREST
        )
    if style == "neon":
        return (
            framed.filter(ImageFilter.FIND_EDGES)
            .crop((1, 1, SIZE + 1, SIZE + 1))
            .point(lambda v: min(255, v * 2))
        )
    return ImageOps.invert(image) if style == "negative" else image
