"""How bad inputs end, one by one: what `make soak` counts.

clear      refused, with a sentence of ours
ok         accepted, and right
raw        an error that is not ours
silent     accepted, and wrong
left over  something lies, or hangs, about afterwards
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import e4t_minimal

OUTCOMES = ("clear", "ok", "raw", "silent", "left over")
PACKAGE = str(Path(e4t_minimal.__file__).parent)
LIST = "E4T_SOAK"  # the variable that names the JSON Lines file to count in


def record(kind: str, outcome: str):
    """One more input of this kind, if somebody counts."""
    if path := os.environ.get(LIST):
        with open(path, "a") as file:
            file.write(json.dumps({"kind": kind, "outcome": outcome}) + "\n")


def attempt(
    kind: str,
    call: Callable,
    allowed: tuple[str, ...] = ("clear",),
    right: Callable | None = None,
    left: Callable | None = None,
) -> str:
    """How call() ends, one of OUTCOMES; AssertionError if that is not allowed.

    right(result): whether what was accepted came out right; what need not be accepted never does.
    left(): what is left over, or nothing.
    """
    outcome, said = _ended(call, right if "ok" in allowed else _never)
    over = left() if left else None
    if over:
        outcome, said = "left over", over
    record(kind, outcome)
    assert outcome in allowed, f"{kind}: {outcome} ({said!r})"
    return outcome


def _never(result) -> bool:
    return False


def _ended(call: Callable, right: Callable | None) -> tuple[str, object]:
    try:
        result = call()
    except Exception as error:
        return ("clear" if is_ours(error) else "raw"), error
    return ("ok" if right is None or right(result) else "silent"), result


def is_ours(error: Exception) -> bool:
    """A ValueError that our own code has raised, with a sentence."""
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    ours = frame.tb_frame.f_code.co_filename.startswith(PACKAGE)
    return isinstance(error, ValueError) and ours and len(str(error).split()) > 3
