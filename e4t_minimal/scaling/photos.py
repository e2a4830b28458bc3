"""A photo as it comes from a camera, a scanner or a website -> a square picture, and one sentence for everything that was done to it."""

from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..base import transparency

TINY, LARGE = (
    32,
    2048,
)  # sides in pixels: below, there is nothing to see; above, the picture is made smaller at once, to save memory
READABLE = "PNG, JPEG or WebP"


def open_photo(
    path: str | Path | BinaryIO,
    box: tuple[int, int, int, int] | None = None,
    name: str | None = None,
    mask: str | Path | None = None,
) -> tuple[Image.Image, list[str]]:
    """(square RGB or RGBA picture, notes for the user). The picture stands upright, in 8 bits a channel, at most LARGE pixels wide.

    path: of the file, or the open file, and then `name` is what errors call it.
    box: left, top, right, bottom of the part to keep, in pixels of the upright photo, such as a face; default: around what is not transparent,
    and otherwise the middle. mask: a file that is white where the subject is, as large as the upright photo; it becomes the transparency.
    ValueError if the file cannot be read, shows nothing, or is too small."""
    notes, name = [], name or path
    with reading(path, name) as file:
        turned = file.getexif().get(0x0112, 1)  # 1: not; from 5 on, width and height change places
        full = file.size[::-1] if turned >= 5 else file.size
        if file.format == "JPEG" and box is None:
            file.draft(
                "RGB", (2 * LARGE, 2 * LARGE)
            )  # a huge one is read at half, a quarter or an eighth of its size
        picture = eight_bits(ImageOps.exif_transpose(file))
    if turned != 1:
        notes.append("turned upright, as the camera noted")
    if mask:
        with reading(mask, mask) as file:
            white = eight_bits(file).convert("L")
        if white.size != full:
            raise ValueError(
                f"The mask {mask} is {white.width} x {white.height}, but {name} is {full[0]} x {full[1]}: both must be of one size."
            )
        picture.putalpha(white.resize(picture.size))
    alpha = transparency(picture)
    if box is None and alpha is not None and picture.width != picture.height:
        box = around(alpha)
        notes.append("cut to a square around what is not transparent")
    elif box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            raise ValueError(
                f"The box {left},{top},{right},{bottom} does not lie in the picture, which is {picture.width} x {picture.height}."
            )
        notes.append(f"cut to the square around {left},{top},{right},{bottom}")
        box = grow(box, picture.size)
    elif picture.width != picture.height:
        box = grow(
            (picture.width // 2, picture.height // 2, picture.width // 2, picture.height // 2),
            picture.size,
            min(picture.size),
        )
        notes.append(
            f"{full[0]} x {full[1]} is not square: the middle was kept; with --box left,top,right,bottom another part, such as the face"
        )
    picture = picture.crop(box) if box else picture
    if picture.width < TINY:
        raise ValueError(
            f"What is kept of {name} is {picture.width} x {picture.height} pixels: too small to show anyone. Give at least {TINY} x {TINY}."
        )
    if picture.width > LARGE:
        notes.append(f"made smaller, from {full[0]} x {full[1]}")
        picture = picture.resize((LARGE, LARGE), Image.Resampling.LANCZOS)
    return picture, notes


@contextmanager
def reading(path, name):
    """The open file; a file that cannot be read ends in a ValueError that says so."""
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise ValueError(
            f"There is no picture at {name}. Give the path of a {READABLE} file."
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name} cannot be read as a picture ({error}). Give a {READABLE} file."
        ) from None


def eight_bits(picture: Image.Image) -> Image.Image:
    """Any mode (grey, palette, CMYK, 16 bits, float) -> RGB, or RGBA if something is transparent."""
    if picture.mode.startswith("I"):  # 16 bits of grey: keep the upper 8
        picture = Image.fromarray(
            (np.asarray(picture).astype(np.uint32) // 256).clip(0, 255).astype("uint8")
        )
    elif picture.mode == "F":
        values = np.asarray(picture)
        picture = Image.fromarray(
            (255 * (values - values.min()) / max(np.ptp(values), 1e-8)).astype("uint8")
        )
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def around(mask: Image.Image) -> tuple[int, int, int, int]:
    """The square around the white of a mask."""
    return grow(mask.point(lambda x: 255 if x >= 128 else 0).getbbox(), mask.size)


def grow(
    box: tuple[int, int, int, int], size: tuple[int, int], side: int = 0
) -> tuple[int, int, int, int]:
    """The square with the box's middle and its longer side (at least `side`), pushed into the picture and no larger than it."""
    side = min(max(box[2] - box[0], box[3] - box[1], side), *size)
    left, top = ((low + high - side) // 2 for low, high in ((box[0], box[2]), (box[1], box[3])))
    left, top = (min(max(at, 0), whole - side) for at, whole in zip((left, top), size))
    return left, top, left + side, top + side
