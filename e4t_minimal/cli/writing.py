"""What commands leave behind: pictures, reports, and a bar while they work."""

import json
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from PIL import Image

    from ..train import Step


def write_report(report: dict, path: Path | None) -> None:
    """Print a report, and write it if there is a path."""
    from ..helpers.files import replacing

    text = json.dumps(report, indent=2, allow_nan=False)  # a NaN is no result
    typer.echo(text)
    if path:
        with replacing(path) as new:
            new.write_text(text + "\n")


def write_pictures(folder: Path, pictures: list["Image.Image"], prompts: list[str]) -> None:
    """One PNG each, numbered and named after its prompt, beside those that are there already."""
    from ..helpers.files import locked

    with locked(folder):  # of two processes, one numbers after the other
        for picture, prompt in zip(pictures, prompts, strict=True):
            path = _write_new(folder, readable(prompt), picture)
            typer.echo(f"{path}  {prompt}")


def _write_new(folder: Path, name: str, picture: "Image.Image") -> Path:
    """NUMBER-NAME.png with the first number that no picture in the folder has."""
    from ..helpers.files import replacing

    number = 0
    while any(folder.glob(f"{number:02d}-*")):
        number += 1
    path = folder / f"{number:02d}-{name}.png"
    with replacing(path) as new:
        picture.save(new)
    return path


def readable(prompt: str, limit: int = 120) -> str:
    """A prompt in any script as part of a file's name: its letters, marks and digits."""
    text = unicodedata.normalize("NFC", prompt)
    kept = [letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text]
    words = "-".join("".join(kept).split())
    cut = words.encode("utf-8", "ignore")[:limit]  # bytes: what file systems limit
    return cut.decode("utf-8", "ignore").strip("-") or "picture"


def follow(
    steps: Iterator["Step"], total: int, title: str, every: float = 0.1, hidden: bool = False
) -> float:
    """Let a training run under a progress bar that tells its losses; the seconds that it took.

    every: seconds after which the bar is drawn again.
    """
    from tqdm import tqdm

    start = time.perf_counter()
    with tqdm(total=total, desc=title, mininterval=every, disable=hidden) as bar:
        for step in steps:
            losses = {name: f"{value:.4f}" for name, value in step.losses.items()}
            bar.set_postfix(losses, refresh=False)
            bar.update(step.index + 1 - bar.n)  # a run that goes on does not start at 0
    return time.perf_counter() - start
