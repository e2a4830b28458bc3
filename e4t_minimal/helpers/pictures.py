"""Pictures in whatever form -> 8 bits of RGB that stand upright, and what is made of them."""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps

ORIENTATION = 0x0112  # the EXIF tag in which a camera notes how it was turned
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LEAST = 1e-3  # share of a picture that must be seen: less is nothing to learn from


def standardize(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """(a copy as people see it, what was done to it).

    Upright, in sRGB, in 8 bits a channel: "RGBA" if something may be transparent, otherwise "RGB".
    ValueError if it holds no numbers.
    """
    if not isinstance(picture, Image.Image):
        raise ValueError(f"{picture!r:.80} is no picture; give one of PIL's, as of Image.open.")
    picture.load()  # by itself, PIL turns a TIFF upright here
    notes = []
    turn = TURNS.get(orientation(picture))
    if turn is not None:
        picture = picture.transpose(turn)
        notes.append("turned upright, as the camera noted")
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture, note = _eight_bits(picture)
        notes.append(note)
    picture, converted = _in_srgb(picture)
    notes += converted
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.info = {}  # what it said of turning and colours has been done
    return picture, notes


def orientation(picture: Image.Image) -> int:
    """1 to 8, as EXIF counts the ways in which a camera may be turned; 1 is upright."""
    try:
        noted = picture.getexif().get(ORIENTATION)
        return noted if noted in TURNS else 1
    except Exception:  # EXIF may be broken in any way, and it is only a hint
        return 1


def _eight_bits(picture: Image.Image) -> tuple[Image.Image, str]:
    """One channel of more bits (modes I and F) -> ("L", what was done)."""
    values = np.asarray(picture).astype(np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise ValueError("The picture holds no numbers (all are NaN). Give another.")
    low, high = values[known].min(), values[known].max()
    if picture.mode == "F":
        # floats are from 0 to 1 by custom; others are spread from the darkest to the brightest
        start, end = (0.0, 1.0) if 0 <= low <= high <= 1 else (low, high)
        note = f"its numbers from {start:g} to {end:g} became grey levels"
    else:
        # a camera's 12 bits lie in 16, and 16 in 32
        bits = next(bits for bits in (8, 12, 16, 32) if high < 2**bits or bits == 32)
        start, end = 0.0, 2.0**bits
        note = f"read as {bits} bits of grey"
    scaled = 256 * (np.where(known, values, start) - start) / max(end - start, 1e-8)
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)), note


def _in_srgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture with its colour profile applied, and a note if it had another than sRGB."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture, []
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    colours = picture if picture.mode in ("RGB", "L", "CMYK") else picture.convert("RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(given).strip()
        if "srgb" in name.lower():
            return picture, []
        srgb = ImageCms.createProfile("sRGB")
        colours = ImageCms.profileToProfile(colours, given, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture, ["its colour profile cannot be read: taken as sRGB"]
    if alpha is not None:
        colours.putalpha(alpha)
    return colours, [f"its colours brought from {name} to sRGB"]


def transparency(image: Image.Image) -> Image.Image | None:
    """Where the picture shows something ("L", white = subject), if it says so itself.

    None if nothing is transparent; ValueError if (almost) everything is.
    """
    alpha = image.convert("RGBA").getchannel("A")
    low, _ = alpha.getextrema()
    if low >= 128:
        return None
    if share_shown(alpha) < LEAST:
        raise ValueError(
            "The picture is transparent everywhere, or almost: there is nothing to learn. "
            "Give a picture that shows its subject."
        )
    return alpha


def share_shown(mask: Image.Image) -> float:
    """Share of the pixels of a mask ("L") that are rather white than black."""
    return sum(mask.histogram()[128:]) / max(mask.width * mask.height, 1)


def as_mask(image: Image.Image) -> Image.Image:
    """ "L", white where the subject is: from any picture; what is transparent in it is black.

    ValueError if it is (almost) nowhere white.
    """
    upright, _ = standardize(image)
    black = Image.new("RGBA", upright.size, "black")
    black.alpha_composite(upright.convert("RGBA"))
    mask = black.convert("L")
    if share_shown(mask) < LEAST:
        raise ValueError(
            f"The mask shows nothing: its brightest pixel is {mask.getextrema()[1]} of 255. "
            "Make it white (255) where the subject is."
        )
    return mask


def mask_of(image: Image.Image, mask: Image.Image | None = None) -> Image.Image | None:
    """Where the subject of a standardized picture is: as a mask says, or else its transparency.

    ("L", white = subject), or None. ValueError if the two are of different sizes.
    """
    if mask is None:
        return transparency(image)
    mask = as_mask(mask)
    if mask.size != image.size:
        raise ValueError(
            f"The mask is {mask.width} x {mask.height}, its picture {image.width} x "
            f"{image.height}: both must be of one size, since both are cropped alike."
        )
    return mask


def on_white(image: Image.Image) -> Image.Image:
    """A standardized picture as RGB; what is transparent is white, whatever colour lies there."""
    if image.mode != "RGBA":
        return image
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return paper.convert("RGB")


def square(image: Image.Image, size: int, keep_transparency: bool = False) -> Image.Image:
    """The middle square, size x size pixels, as RGB with what is transparent turned white.

    keep_transparency: or as RGBA, if something is.
    """
    image, _ = standardize(image)
    if not keep_transparency:
        image = on_white(image)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def on_backgrounds(
    image: Image.Image, mask: Image.Image, count: int, size: int, seed: int = 0
) -> list[Image.Image]:
    """The subject before `count` other backgrounds, size x size pixels (our choice).

    Each is made of 1, 4, 16 or 64 random colours that run into each other.
    """
    rng = np.random.default_rng(seed)
    subject = square(image, size)
    where = square(mask, size).convert("L")
    pictures = []
    for number in range(count):
        side = 2 ** (number % 4)
        colors = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        background = Image.fromarray(colors).resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(Image.composite(subject, background, where))
    return pictures
