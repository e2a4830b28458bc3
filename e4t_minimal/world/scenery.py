"""What stands behind the subject, and how the finished picture is drawn: places and styles,
painted with PIL."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from .random_numbers import rng_of

SIZE = 64  # pixels, height and width of every picture
PLAIN = {
    "white": "#f4f4f4",
    "grey": "#a9adb3",
    "blue": "#7fb6ea",
    "green": "#93cf96",
    "yellow": "#f5e08a",
    "pink": "#f3b9cd",
}
PLACES = {
    "beach": "on the beach",
    "forest": "in the forest",
    "snow": "in the snow",
    "city": "in the city",
    "space": "in space",
    "sunset": "at sunset",
}
BACKGROUNDS = {color: f"on a {color} background" for color in PLAIN} | PLACES
STYLES = {
    "photo": "a photo of",
    "greyscale": "a black and white photo of",
    "sketch": "a pencil sketch of",
    "pixel": "pixel art of",
    "neon": "a neon drawing of",
    "negative": "a negative of",
}


def background(name: str, seed: int) -> Image.Image:
    """(SIZE, SIZE) RGB: a plain color, or a place.

    A place is made of a few shapes whose positions depend on the seed.
    """
    if name in PLAIN:
        return Image.new("RGB", (SIZE, SIZE), PLAIN[name])
    sky, paint = PAINTERS[name]
    image = Image.new("RGB", (SIZE, SIZE), sky)
    rng = rng_of("place", seed)
    x = rng.randint(4, 43)  # of the sun, the planet
    paint(ImageDraw.Draw(image), x, rng)
    return image


def _beach(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    pen.rectangle((0, 34, 64, 48), "#2b86c9")
    pen.rectangle((0, 48, 64, 64), "#efd79a")
    pen.ellipse((x, 4, x + 14, 18), "#ffe14d")


def _forest(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    pen.rectangle((0, 50, 64, 64), "#5d8a3a")
    for i in range(-1, 6):
        left = 12 * i + rng.randint(0, 7)
        top = rng.randint(4, 19)
        color = "#23693a" if i % 2 else "#2f8049"
        pen.polygon([(left, 54), (left + 8, top), (left + 16, 54)], color)


def _snow(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    pen.rectangle((0, 44, 64, 64), "#ffffff")
    _dots(pen, 24, rng)


def _city(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    for i in range(5):
        left = 13 * i
        top = rng.randint(8, 33)
        pen.rectangle((left, top, left + 11, 64), "#4b5570" if i % 2 else "#39415a")
        for y in range(top + 4, 64, 8):  # two lit windows on each floor
            pen.rectangle((left + 2, y, left + 4, y + 3), "#ffd866")
            pen.rectangle((left + 7, y, left + 9, y + 3), "#ffd866")


def _space(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    _dots(pen, 22, rng)
    pen.ellipse((x, 5, x + 16, 21), "#c46ad6")


def _sunset(pen: ImageDraw.ImageDraw, x: int, rng: random.Random):
    purple = np.array([91, 58, 134])
    orange = np.array([255, 140, 60])
    for y in range(SIZE):
        color = purple + (orange - purple) * min(y / 48, 1)
        pen.line((0, y, SIZE, y), tuple(int(value) for value in color))
    pen.ellipse((x, 34, x + 20, 54), "#ffe27a")
    pen.rectangle((0, 50, 64, 64), "#4a2b3f")  # the dark ground


def _dots(pen: ImageDraw.ImageDraw, count: int, rng: random.Random):
    """Snowflakes, or stars."""
    xs = rng.choices(range(63), k=count)
    ys = rng.choices(range(63), k=count)
    for x, y in zip(xs, ys, strict=True):
        pen.rectangle((x, y, x + 1, y + 1), "#ffffff")


# {place: (color of its sky, what is painted on it)}
PAINTERS = {
    "beach": ("#9fdcff", _beach),
    "forest": ("#bfe3c0", _forest),
    "snow": ("#c9dcf0", _snow),
    "city": ("#8fa3c7", _city),
    "space": ("#150d33", _space),
    "sunset": ("#5b3a86", _sunset),
}


def stylise(image: Image.Image, style: str) -> Image.Image:
    """(SIZE, SIZE) RGB -> the same in one of STYLES."""
    if style == "greyscale":
        return image.convert("L").convert("RGB")
    if style == "sketch":  # dark lines where the picture changes, a trace of shading
        lines = _framed(image).convert("L").filter(ImageFilter.CONTOUR).crop(INSIDE)
        shading = image.convert("L").point([160 + value * 3 // 8 for value in range(256)])
        return Image.blend(lines, shading, 0.35).convert("RGB")
    if style == "pixel":
        small = image.resize((16, 16), Image.Resampling.BOX)
        return small.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    if style == "neon":
        edges = _framed(image).filter(ImageFilter.FIND_EDGES).crop(INSIDE)
        return edges.point([min(255, 2 * value) for value in range(256)] * 3)
    if style == "negative":
        return ImageOps.invert(image)
    return image


INSIDE = (1, 1, SIZE + 1, SIZE + 1)  # of a framed picture


def _framed(image: Image.Image) -> Image.Image:
    """With its outermost pixels twice: PIL's filters leave the outermost as they are."""
    return Image.fromarray(np.pad(np.array(image), ((1, 1), (1, 1), (0, 0)), "edge"))
