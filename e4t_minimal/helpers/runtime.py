"""What a run asks for: the random numbers of a step, a device, libraries that keep quiet."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

import torch

from .checks import reason


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step.

    Every step has a generator of its own: a run that goes on after a stop sees the numbers that
    one without a stop sees.
    """
    # torch takes 64 bits, and numpy's integers would overflow
    return torch.Generator().manual_seed((index(seed) * 1_000_003 + step) % 2**64)


def check_device(device: str):
    """ValueError if nothing can be put there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"The device {device!r} cannot be used here ({reason(error)}). "
            "Choose another of cpu, cuda, mps."
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the libraries' bars and notices."""
    from transformers.utils import logging as of_transformers

    verbosity = of_transformers.get_verbosity()
    of_transformers.set_verbosity_error()
    from diffusers.utils import logging as of_diffusers  # only now: its import has notices too

    showing = [log for log in (of_transformers, of_diffusers) if log.is_progress_bar_enabled()]
    for log in showing:
        log.disable_progress_bar()
    try:
        yield
    finally:
        of_transformers.set_verbosity(verbosity)
        for log in showing:
            log.enable_progress_bar()
