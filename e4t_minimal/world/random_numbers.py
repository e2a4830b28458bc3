"""Random numbers that depend on a key alone: the same call always gives the same picture."""

import random


def rng_of(*key: str | int) -> random.Random:
    """A random generator that is a pure function of its key (strings and integers)."""
    return random.Random(repr(key))
