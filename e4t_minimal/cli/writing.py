"""What commands leave behind: pictures, reports, and a bar while they work."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from PIL import Image

    from ..train import Step


def write_report(report: dict, path: Path | None) -> None:
    """Print a report, and write it if there is a path."""
    from ..files import replacing

    text = json.dumps(report, indent=2)
    typer.echo(text)
    if path:
        with replacing(path) as new:
            new.write_text(text + "\n")


def write_pictures(folder: Path, pictures: list["Image.Image"], prompts: list[str]) -> None:
    """One PNG each, named after its prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        words = "-".join(re.findall("[A-Za-z0-9]+", prompt))
        path = folder / f"{i:02d}-{words[:60]}.png"
        picture.save(path)
        typer.echo(f"{path}  {prompt}")


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
