"""Random numbers that depend on a key alone: the same call always gives the same picture."""

import random
from operator import index


def rng_of(*key: str | int) -> random.Random:
    """A random generator that is a pure function of its key (strings and integers)."""
    # numpy's integers are written otherwise, and would give somebody else
    plain = tuple(part if isinstance(part, str) else index(part) for part in key)
    return random.Random(repr(plain))
