"""A method that stands in somebody's own file, for `e4t bench --method path.py:Class`.

What the class must have is `Learner`; docs/own-method.md tells how to write one.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from PIL import Image

from ..base import Base
from ..helpers import checks
from ..helpers.checksums import checksum
from ..model import E4T
from ..train import PERSONALIZATION, Schedule
from .baselines import METHODS, Method


class Learner(Protocol):
    """What a class must have. For every person one is made, without arguments."""

    what: str  # one line for tables
    steps: int  # how long the comparison runs it

    def start(self, base: Base, class_word: str, weights: Path, seed: int) -> E4T:
        """The model before the first step.

        base: the method's own copy, of which it may change everything. weights: the folder of the
        E4T that was pretrained on the domain.
        """

    def learn(
        self, model: E4T, picture: Image.Image, mask: Image.Image, schedule: Schedule
    ) -> Iterator:
        """Teach the model the one picture; yield after each of `schedule.steps` steps."""

    def stored(self, model: E4T) -> list[torch.Tensor]:
        """What has to be kept of one person, beside the base and the domain's weights."""


FUNCTIONS = ("start", "learn", "stored")


@dataclass(frozen=True)
class OwnMethod(Method):
    """A `Learner` among the methods. What it learns, and at which rates, it knows itself."""

    learner: Learner | None = None

    def anew(self) -> "OwnMethod":
        return self.replace(learner=type(self.learner)())

    @property
    def schedule(self) -> Schedule:
        return PERSONALIZATION.replace(steps=self.steps)


def register(source: str) -> str:
    """Put the method of "path.py:Class" among METHODS, and return its name there: the class's.

    ValueError if there is none, or if it lacks something.
    """
    path, _, name = source.rpartition(":")
    if not path or not name.isidentifier():
        raise ValueError(f"{source!r} names no method of your own; write it as path.py:Class.")
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}, in which the method {name} should stand.")
    found = getattr(_module_of(Path(path)), name, None)
    if not isinstance(found, type):
        raise ValueError(f"There is no class {name} in {path}.")
    missing = [function for function in FUNCTIONS if not callable(getattr(found, function, None))]
    if missing:
        raise ValueError(
            f"The class {name} in {path} lacks {', '.join(missing)}; a method needs "
            f"{', '.join(FUNCTIONS)} (docs/own-method.md)."
        )
    what, steps = getattr(found, "what", ""), getattr(found, "steps", None)
    if not (isinstance(what, str) and what):
        raise ValueError(f"The class {name} in {path} lacks `what`: one line that says what it is.")
    checks.whole(1, 10_000, **{f"{name}.steps": steps})
    if name in METHODS and not METHODS[name].source:
        raise ValueError(f"There is a method {name} already; give the class another name.")
    with _named(source):
        learner = found()
    METHODS[name] = OwnMethod(
        what=what,
        learns={},
        steps=steps,
        source=source,
        sha256=checksum(Path(path)),
        learner=learner,
    )
    return name


def _module_of(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    if spec is None:
        raise ValueError(f"{path} is no Python file; its name should end in .py.")
    module = module_from_spec(spec)
    with _named(str(path)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Errors of somebody's code: the traceback for who wrote it, and one sentence."""
    try:
        yield
    except Exception as error:  # theirs, whatever it is
        traceback.print_exc()
        raise ValueError(
            f"{source} broke off ({checks.reason(error)}); the lines above say where."
        ) from None


# The same three functions as `baselines` has.


@contextmanager
def model_for(
    method: OwnMethod, base: Base, class_word: str, folder: Path, seed: int = 0
) -> Iterator[E4T]:
    """The model as it is before a method's first step. The base does not stay as it was."""
    torch.manual_seed(seed)
    with _named(method.source):
        model = method.learner.start(base, class_word, folder, seed)
    if not isinstance(model, E4T):
        raise ValueError(f"{method.source}: start gave {type(model).__name__}, and not an E4T.")
    try:
        yield model
    finally:
        model.detach()


def personalize_with(
    method: OwnMethod,
    model: E4T,
    image: Image.Image,
    mask: Image.Image,
    prior: list[Image.Image] | None,
    schedule: Schedule,
) -> Iterator:
    """One step after the other; ValueError if there are fewer than asked for."""
    with _named(method.source):
        steps = iter(method.learner.learn(model, image, mask, schedule))
    for number in range(schedule.steps):
        with _named(method.source):
            step = next(steps, steps)
        if step is steps:
            raise ValueError(
                f"{method.source}: learn ended after {number} of {schedule.steps} steps; "
                "it has to yield after each."
            )
        yield step


def stored_bytes(method: OwnMethod, model: E4T) -> int:
    """What one concept takes on disk, in fp16."""
    with _named(method.source):
        return 2 * sum(tensor.numel() for tensor in method.learner.stored(model))
