"""What an argument may be: checked where it is made, in one wording.

Every check raises ValueError with one sentence: what was given, and what to give instead.
"""

import math
import warnings
from collections.abc import Collection, Mapping, Sized
from numbers import Integral, Real
from operator import index

# The largest: what torch, numpy and JSON all take. Of it, torch's generator on the CPU looks at the
# lowest 32 bits only: 5 and 5 + 2**32 draw the same.
SEED = 2**63 - 1
MANY = 10**9  # more steps than anyone has time for


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
    return (
        f"from {low:g} to {high:g}" if high <= 1e6 else f"of at least {low:g}, at most {high:.0e}"
    )


def seed(value: int) -> int:
    """The seed as Python's own int: a library's may overflow, or be refused by others."""
    whole(0, SEED, seed=value)
    return index(value)


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
    if not found:
        raise ValueError("Here is no prompt; give at least one.")
    for prompt in found:
        if not isinstance(prompt, str):
            raise ValueError(f"{prompt!r} is no prompt; give text, such as 'a photo of S*'.")
    return found


def all_read(prompts: list[str], found, tokenizer):
    """What a tokenizer has found in prompts is what stands there.

    found: its token numbers and attention mask, B lists of T. Words that are cut off are named in
    a warning. ValueError for what has no token: CLIP would read the end of the text there.
    """
    rows = zip(prompts, found.input_ids, found.attention_mask, strict=True)
    for prompt, ids, mask in rows:
        used = sum(mask)  # with the marks of start and end
        if tokenizer.unk_token_id in ids[1 : used - 1]:
            _refuse_unknown(prompt, tokenizer)
        if used == len(ids):
            _warn_of_cut(prompt, used, tokenizer)


def _refuse_unknown(prompt: str, tokenizer):
    def is_unknown(text: str) -> bool:
        return tokenizer.unk_token_id in tokenizer(text, add_special_tokens=False).input_ids

    letters = dict.fromkeys(letter for letter in prompt if is_unknown(letter))
    if tokenizer.unk_token in prompt:
        letters = [tokenizer.unk_token]
    unknown = ", ".join(map(repr, letters))
    raise ValueError(f"This base has no token for {unknown}; write {prompt!r} without.")


def _warn_of_cut(prompt: str, used: int, tokenizer):
    ids = tokenizer(prompt, verbose=False).input_ids
    cut = tokenizer.decode(ids[used - 1 : -1]).replace("</w>", " ").strip()
    if cut:
        warnings.warn(
            f"The base reads {used - 2} tokens of a prompt: {cut!r} at the end of {prompt!r} is "
            "cut off.",
            stacklevel=4,
        )


def whole_batch(terms: dict, schedule, processes: int = 1):
    """A term of the loss that compares the pictures of a batch sees all of them at once.

    terms: {name: function}, of which such ones have the attribute `whole_batch`.
    """
    if processes == 1 and (schedule.micro is None or schedule.micro >= schedule.batch):
        return
    for name, weight in schedule.weights.items():
        if weight and getattr(terms.get(name), "whole_batch", False):
            raise ValueError(
                f"The term {name!r} compares all pictures of a batch: it cannot be computed in "
                "micro-batches or by several processes. Leave out `micro`; take one process."
            )


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


def warn_of_overflow(step: int):
    """In fp16: a step whose gradients were too large for it was left out, and the next goes on."""
    warnings.warn(
        f"Step {step} was left out: its gradients were too large for fp16. The loss is scaled by "
        "less from now on; if that goes on, take a base in bf16 or fp32.",
        stacklevel=3,
    )


def hangable(projections: Mapping):
    """ValueError if there is nothing to hang offsets on."""
    if not projections:
        raise ValueError(
            "This U-Net has no projections of its own to Q, K and V: it is none of Stable "
            "Diffusion's, or an adapter (LoRA) lies around them. Merge or unload the adapter first."
        )


def can_be_seen(pixels):
    """ValueError if there are pixels that are no numbers: as bytes they would be black."""
    if not pixels.isfinite().all():
        raise ValueError(
            "The picture has pixels that are not finite (NaN or infinite). In fp16 mostly the "
            "autoencoder's numbers grow too large: take a base in bf16 or fp32."
        )


def reason(error: Exception, limit: int = 160) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:limit]}"
