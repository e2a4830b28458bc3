"""Files that are whole or not there; and other small helpers: seeds, devices."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .checks import reason


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` once it is whole.

    Two processes may write the same path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder: only there is the last step a renaming, not a copy
    new = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | Path, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """An empty folder to write files into, which are moved into `folder` once all are whole.

    names: files that belong together; of them, what has not been written this time is taken away.
    Whatever else lies in `folder` stays.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        folder.mkdir(exist_ok=True)
        for name in names:
            if not (new / name).exists():
                (folder / name).unlink(missing_ok=True)
        for file in new.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step.

    Every step has a generator of its own: a run that goes on after a stop sees the numbers that
    one without a stop sees.
    """
    # of 64 bits, whatever the seed
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**64)


def check_device(device: str):
    """ValueError if nothing can be put there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"The device {device!r} cannot be used here ({reason(error)}). "
            "Choose another of cpu, cuda, mps."
        ) from None


MODEL_FILES = ("e4t.json", "encoder.safetensors", "offsets.safetensors", "picture.png")


@dataclass(frozen=True)
class StoredModel:
    """What lies in an E4T folder."""

    config: dict  # e4t.json
    encoder: dict[str, torch.Tensor]  # encoder.safetensors
    offsets: dict[str, torch.Tensor]  # offsets.safetensors
    picture: Image.Image | None = None  # picture.png, of a concept


def write_model(folder: str | Path, stored: StoredModel):
    """Write an E4T folder; ValueError, with nothing written, if something else lies there."""
    with filling(check_target(folder), MODEL_FILES) as new:
        for part in ("encoder", "offsets"):
            tensors = getattr(stored, part).items()
            found = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors}
            save_file(found, new / f"{part}.safetensors")
        (new / "e4t.json").write_text(json.dumps(stored.config, indent=2) + "\n")
        if stored.picture is not None:
            stored.picture.save(new / "picture.png")


def read_model(folder: str | Path) -> StoredModel:
    """Read an E4T folder; ValueError if it is missing, foreign or damaged."""
    folder = Path(folder)
    config = read_config(folder)
    try:
        path = folder / "picture.png"
        return StoredModel(
            config,
            encoder=load_file(folder / "encoder.safetensors"),
            offsets=load_file(folder / "offsets.safetensors"),
            picture=Image.open(path).copy() if path.exists() else None,
        )
    except (SafetensorError, OSError) as error:
        raise damaged(folder, error) from None


def damaged(folder: str | Path, error: Exception) -> ValueError:
    """What to raise when a folder cannot be read."""
    return ValueError(f"{folder} is damaged ({reason(error)}). Make or download it again.")


def read_config(folder: str | Path) -> dict:
    """What e4t.json says: base, class_word, token, encoder ...; ValueError if there is none."""
    try:
        config = json.loads((Path(folder) / "e4t.json").read_text())
        required = {name: config[name] for name in ("base", "class_word", "token", "encoder")}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} is not an E4T folder (no readable e4t.json). "
            "Make one with `e4t personalize`, or use data_samples/e4t-face."
        ) from None
    return required | config


def check_target(folder: str | Path) -> Path:
    """The folder's absolute path if an E4T may be written there; ValueError otherwise."""
    folder = Path(folder).resolve()
    is_e4t = (folder / "e4t.json").exists()
    is_empty = folder.is_dir() and not any(folder.iterdir())
    foreign = folder.exists() and not is_e4t and not is_empty
    if folder == Path.cwd() or foreign:
        raise ValueError(
            f"{folder} exists and is not an E4T folder of its own; nothing was written. "
            "Choose another name."
        )
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the libraries' bars and notices."""
    from transformers.utils import logging as of_transformers

    verbosity = of_transformers.get_verbosity()
    of_transformers.set_verbosity_error()
    from diffusers.utils import logging as of_diffusers  # only now: its import has notices too

    of_transformers.disable_progress_bar()
    of_diffusers.disable_progress_bar()
    try:
        yield
    finally:
        of_transformers.set_verbosity(verbosity)
        of_transformers.enable_progress_bar()
        of_diffusers.enable_progress_bar()
