"""From what stands on a command line to a picture, a base, a model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .options import BaseOptions

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..base import Base
    from ..model import E4T

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_picture(path: Path, box: str | None = None, mask: Path | None = None) -> "Image.Image":
    """`open_photo`, with its notes printed; box as "left,top,right,bottom", mask as a file."""
    from ..scaling.photos import open_photo

    corners = None
    if box is not None:
        if not re.fullmatch(r"\d+(,\d+){3}", box):
            raise ValueError(
                f"--box takes left,top,right,bottom in pixels, such as 120,40,380,300, not {box!r}."
            )
        corners = tuple(int(number) for number in box.split(","))
    picture, notes = open_photo(path, corners, mask=mask)
    for note in notes:
        typer.echo(f"{path}: {note}")
    return picture


def load_model(weights: Path, options: BaseOptions) -> "E4T":
    """An E4T folder on its base: the one it names unless the options say another."""
    from ..model import E4T

    base = load_base_of(weights, options)
    _register_alternatives()
    return E4T.from_pretrained(weights, base)


def load_base_of(
    weights: Path | None,
    options: BaseOptions,
    vision: str | None = None,
    resolution: int | None = None,
) -> "Base":
    """The base that an E4T folder was made for ("toy" without one), unless another is named."""
    from ..base import load_base
    from ..helpers.stored import read_config

    config = read_config(weights) if weights else {"base": "toy"}
    return load_base(
        options.base or config["base"],
        vision or config.get("vision"),
        options.device,
        number_format(options.dtype),
        resolution or config.get("resolution"),
    )


def local(base: str | None) -> Path | None:
    """The folder that a base is read from, if that is one."""
    return Path(base) if base not in (None, "toy") and Path(base).is_dir() else None


def number_format(name: str) -> "torch.dtype":
    """The torch dtype of fp32, bf16 or fp16; ValueError for another."""
    import torch

    from ..helpers.checks import choice

    choice("number format", name, DTYPES)
    return getattr(torch, DTYPES[name])


def _register_alternatives() -> None:
    """Kinds of encoders and offsets that only ablations use, and whose folders can be read too."""
    from ..evaluation import alternatives  # noqa: F401
    from ..scaling import fixed  # noqa: F401
