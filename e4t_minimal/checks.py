"""What an argument may be: checked where it is made, in one wording.

Every check raises ValueError with one sentence: what was given, and what to give instead.
"""

import math
from collections.abc import Collection, Sized
from numbers import Integral, Real

SEED = 2**63 - 1  # the largest: what torch, numpy and JSON all take


def number(low: float, high: float, **values: float):
    """Each value by its name: a finite number from low to high."""
    for name, value in values.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} is {value!r}; give a number {_range(low, high)}.")


def whole(low: int, high: float, **values: int):
    """Each value by its name: a whole number from low to high."""
    for name, value in values.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (is_whole and low <= value <= high):
            raise ValueError(f"{name} is {value!r}; give a whole number {_range(low, high)}.")


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"of at least {low}"
    return f"from {low} to {high}"


def seed(value: int):
    whole(0, SEED, seed=value)


def choice(what: str, value: str, known: Collection[str]):
    """value is one of those known; what it is, in words."""
    if value not in tuple(known):
        raise ValueError(f"There is no {what} {value!r}; choose one of {', '.join(known)}.")


def as_many(**things: Sized | None):
    """All that are given have the same length, which is not 0."""
    counts = {name: len(thing) for name, thing in things.items() if thing is not None}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"Here are {found}; give as many of each, and at least one.")


def texts(prompts: list[str] | str) -> list[str]:
    """One prompt or several -> a list of them."""
    found = [prompts] if isinstance(prompts, str) else list(prompts)
    for prompt in found:
        if not isinstance(prompt, str):
            raise ValueError(f"{prompt!r} is no prompt; give text, such as 'a photo of S*'.")
    return found


def still_finite(step: int, **numbers: float):
    """Before an optimizer takes a step: what it would learn from are numbers.

    A training that stops here has changed nothing since the step before.
    """
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(
                f"The training stopped at step {step}: {name} is {value}. What was learned before "
                "is still there. Try smaller learning rates or weights, or a base in fp32."
            )


def reason(error: Exception, limit: int = 160) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:limit]}"
