"""A photo as it comes from a camera, a scanner or a website -> a square picture.

Everything that is done to it is said in a sentence.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..helpers.pictures import as_mask, on_white, orientation, standardize, transparency

TINY = 32  # pixels, of a side: below, there is nothing to see
LARGE = 2048  # pixels, of a side: above, the picture is made smaller at once, to save memory
READABLE = "PNG, JPEG or WebP"
# what PIL raises for a file that is no picture, or none that can be opened; a RuntimeError is
# pathlib's, of links that lead in a circle
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
# what the file of an iPhone begins with, whatever it is called
HEIC = re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", re.DOTALL)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Size = tuple[int, int]  # width, height in pixels


def open_photo(
    path: str | Path | BinaryIO,
    box: Box | None = None,
    name: str | None = None,
    mask: str | Path | None = None,
) -> tuple[Image.Image, list[str]]:
    """(square RGB or RGBA picture, notes for the user).

    The picture stands upright, in 8 bits a channel, at most LARGE pixels wide.

    path: of the file, or the open file, and then `name` is what errors call it.
    box: the part to keep, such as a face, in pixels of the upright photo; default: around what is
    not transparent, and otherwise the middle.
    mask: a file that is white where the subject is, as large as the upright photo; it becomes the
    transparency.
    ValueError if the file cannot be read, shows nothing, or is too small.
    """
    name = name or path
    picture, full_size, notes = _read_upright(path, name, shrink=box is None)
    if mask:
        picture = on_white(picture)
        picture.putalpha(_read_mask(mask, name, full_size).resize(picture.size))
    square, note = _square_to_keep(picture, full_size, box)
    if square:
        picture = picture.crop(square)
        notes.append(note)
    if picture.width < TINY:
        raise ValueError(
            f"What is kept of {name} is {picture.width} x {picture.height} pixels: too small to "
            f"show anyone. Give at least {TINY} x {TINY}."
        )
    if picture.width > LARGE:
        notes.append(f"made smaller, from {full_size[0]} x {full_size[1]}")
        picture = picture.resize((LARGE, LARGE), Image.Resampling.LANCZOS)
    return picture, notes


def _read_upright(
    path: str | Path | BinaryIO, name: str | Path, shrink: bool
) -> tuple[Image.Image, Size, list[str]]:
    """(picture in 8 bits, its size in the file once it stands upright, notes).

    shrink: read a huge JPEG at half, a quarter or an eighth of its size.
    """
    with reading(path, name) as file:
        full_size = file.size
        if file.format == "JPEG" and shrink:
            file.draft("RGB", (2 * LARGE, 2 * LARGE))
        file.load()
        if orientation(file) >= 5:  # it lies on its side
            full_size = full_size[::-1]
        picture, notes = standardize(file)
    return picture, full_size, notes


def _read_mask(path: str | Path, name: str | Path, full_size: Size) -> Image.Image:
    """ "L", of the upright photo's size."""
    with reading(path, path) as file:
        upright, _ = standardize(file)
    try:  # what `as_mask` refuses can be read: it is said in its own words
        mask = as_mask(upright)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if mask.size != full_size:
        raise ValueError(
            f"The mask {path} is {mask.width} x {mask.height}, but {name} is "
            f"{full_size[0]} x {full_size[1]}: both must be of one size."
        )
    return mask


def _square_to_keep(
    picture: Image.Image, full_size: Size, box: Box | None
) -> tuple[Box | None, str | None]:
    """(the square, what to say of it); (None, None) if the whole picture is to be kept."""
    width, height = picture.size
    alpha = transparency(picture)  # refuses a picture that shows nothing, whatever the box
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"The box {left},{top},{right},{bottom} does not lie in the picture, "
                f"which is {width} x {height}."
            )
        return _square(box, picture.size), f"cut to the square around {left},{top},{right},{bottom}"
    if width == height:
        return None, None
    if alpha is not None:
        subject = alpha.point([0] * 128 + [255] * 128).getbbox()
        left, top, right, bottom = subject
        note = "cut to a square around what is not transparent"
        if max(right - left, bottom - top) > min(width, height):
            note += ", whose ends are cut off"
        return _square(subject, picture.size), note
    middle = (width // 2, height // 2, width // 2, height // 2)
    return _square(middle, picture.size, min(width, height)), (
        f"{full_size[0]} x {full_size[1]} is not square: the middle was kept; "
        "with --box left,top,right,bottom another part, such as the face"
    )


def _square(box: Box, size: Size, at_least: int = 0) -> Box:
    """The square with the box's middle and its longer side, `at_least` so many pixels.

    It is pushed into a picture of that size, and no larger than it.
    """
    left, top, right, bottom = box
    width, height = size
    side = min(max(right - left, bottom - top, at_least), width, height)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side


@contextmanager
def reading(path: str | Path | BinaryIO, name: str | Path) -> Iterator[Image.Image]:
    """The open file; one that cannot be read ends in a ValueError that says so."""
    if isinstance(path, str | Path) and Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{name} is not a file. Give the path of a {READABLE} file.")
    _know_heic()
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise ValueError(
            f"There is no picture at {name}. Give the path of a {READABLE} file."
        ) from None
    except UNREADABLE as error:
        if _is_heic(path):
            raise ValueError(
                f"{name} is a HEIC photo, which needs pillow-heif: `pip install pillow-heif`, or "
                "save it as JPEG."
            ) from None
        raise ValueError(
            f"{name} cannot be read as a picture ({error}). Give a {READABLE} file."
        ) from None


def _know_heic() -> None:
    """Let PIL open HEIC, if pillow-heif is there."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()


def _is_heic(path: str | Path | BinaryIO) -> bool:
    start = b""
    with suppress(OSError, ValueError):
        if isinstance(path, str | Path):
            with open(path, "rb") as file:
                start = file.read(16)
        else:
            path.seek(0)
            start = path.read(16)
    return HEIC.match(start) is not None
