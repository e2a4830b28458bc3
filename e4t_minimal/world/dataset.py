"""Many pictures, each with its caption, its mask and the truth about who and where."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.resources import files
from operator import attrgetter
from typing import TYPE_CHECKING

from ..helpers import checks
from .drawing import draw
from .identities import NAMES, identity, named
from .random_numbers import rng_of
from .scene import Scene

if TYPE_CHECKING:
    from datasets import Dataset

DRAWN_BY = ("dicebear-core", "dicebear-styles", "resvg-py", "pillow")


def example(domain: str, split: str, index: int, seed: int = 0, plain: float = 0.5) -> dict:
    """The index-th row of a dataset.

    split "named": the celebrities in turn, three times in four under their name.
    plain: see `Scene.sample`.
    """
    checks.number(0, 1, plain=plain)
    rng = rng_of("example", domain, split, seed, index)
    if split == "named":
        one = named(domain)[index % NAMES]
        called = one if rng.random() < 0.75 else replace(one, name=None)
    else:
        one = called = identity(domain, split, index)
    scene = Scene.sample(domain, rng, plain)
    image, text, mask = draw(called, scene, rng)
    return {
        "image": image,
        "caption": text,
        "mask": mask,
        "identity": json.dumps(asdict(one)),
        "scene": json.dumps(asdict(scene)),
    }


def as_dataset(
    domain: str,
    split: str = "train",
    pictures: int = 1000,
    seed: int = 0,
    plain: float = 0.5,
    num_proc: int | None = None,
) -> "Dataset":
    """A Hugging Face `Dataset` (columns image, caption, mask, identity, scene).

    It is drawn once, by `num_proc` processes, and then read from its cache.
    """
    checks.whole(1, checks.MANY, pictures=pictures)
    checks.seed(seed)
    from datasets import Dataset  # half a second, for whoever only wants a picture

    asked = {"domain": domain, "split": split, "seed": seed, "plain": plain}
    # what the pictures depend on is all in here: by these, `datasets` knows its cache again
    given = {"indices": list(range(pictures)), "asked": asked, "code": _code()}
    return Dataset.from_generator(_examples, gen_kwargs=given, num_proc=num_proc)


def _examples(indices: list[int], asked: dict, code: str) -> Iterator[dict]:
    for index in indices:
        yield example(index=index, **asked)


def _code() -> str:
    """A checksum of everything that decides how pictures are drawn: other code, other cache."""
    versions = " ".join(version(package) for package in DRAWN_BY)
    checksum = zlib.crc32(versions.encode())
    for file in sorted(files(__package__).iterdir(), key=attrgetter("name")):
        if file.name.endswith((".py", ".json")):
            checksum = zlib.crc32(file.read_bytes(), checksum)
    return f"{checksum:08x}"
