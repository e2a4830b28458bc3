"""How a picture is made: DiceBear draws the subject as SVG, resvg turns it into pixels, PIL puts
it before a background and changes the style. A pure function of identity and scene."""

import io
import random
from functools import lru_cache
from importlib.resources import files

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from ..helpers import checks
from ..helpers.reading import parse_json
from .captions import caption
from .identities import DOMAINS, Identity
from .scene import Scene
from .scenery import SIZE, background, stylise

SMALL = 46  # pixels, height and width of a small subject; a large one fills the picture


def draw(
    identity: Identity, scene: Scene, rng: random.Random | None = None
) -> tuple[Image.Image, str, Image.Image]:
    """(picture RGB 64x64, caption, mask "L" 64x64: how much of each pixel is the subject, 0..255).

    rng: see `caption`.
    """
    pixels = SIZE if scene.size == "large" else SMALL
    subject = _subject(identity, scene.expression, pixels)
    alpha = subject.getchannel("A")
    # in the middle, on the ground
    corner = ((SIZE - pixels) // 2 + scene.shift, SIZE - pixels)

    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(alpha, corner)
    picture = background(scene.background, scene.seed)
    picture.paste(subject.convert("RGB"), corner, alpha)
    return stylise(picture, scene.style), caption(identity, scene, rng), mask


@lru_cache
def _style(name: str) -> Style:
    text = files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")
    return Style(parse_json(text, name))


def _subject(identity: Identity, expression: str, pixels: int) -> Image.Image:
    """The identity alone, RGBA pixels x pixels, transparent around it."""
    domain = DOMAINS[identity.domain]
    checks.choice(f"expression of a {identity.domain}", expression, domain.expressions)
    options = {"seed": "0", **domain.always, **domain.expressions[expression]}
    for attribute, word in identity.attributes.items():
        _, chosen = domain.attributes[attribute][word]
        options |= chosen
    svg = Avatar(_style(domain.style), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
