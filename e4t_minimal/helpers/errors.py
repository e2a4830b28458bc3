"""How a program ends before its end: one sentence, and an exit status that is not 0."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .checks import reason

REFUSED = 2  # exit status after a bad input, a full disk, too little memory
STOPPED = 128  # and this plus a signal's number after the signal


@contextmanager
def one_sentence(program: str) -> Iterator[None]:
    """What users cannot do anything about stays a traceback; the rest is told and ends here.

    SIGTERM is taken as SIGINT is, so that what is under way cleans up behind itself.
    """
    with _signals_heard() as heard:
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            # a signal in the middle of an import may look like any error
            number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else None
            number = heard[0] if heard else number
            text = _of_signal(number) if number else _of_error(error)
            if text is None:
                raise
            print(f"{program}: {text}", file=sys.stderr)
            sys.exit(STOPPED + number if number else REFUSED)


@contextmanager
def _signals_heard() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM raise KeyboardInterrupt; their numbers come into the list."""
    heard: list[int] = []

    def stop(number, frame):
        heard.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` and the like stay in force
                before[number] = signal.signal(number, stop)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _of_signal(number: int) -> str:
    name = signal.Signals(number).name
    return f"stopped by {name}; what was saved before is whole, and nothing else is left."


def _is_out_of_memory(error: Exception) -> bool:
    """In torch's words, of whatever device; an illegal memory access is something else."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(some in str(error).lower() for some in words)


def _of_error(error: Exception) -> str | None:
    """What to say; None for an error of ours."""
    from safetensors import SafetensorError

    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            f"not enough memory ({reason(error)}). Try fewer pictures at a time (--micro, "
            "--batch), a lower --resolution, or a smaller number format (--dtype)."
        )
    if isinstance(error, SafetensorError):
        return f"a file of tensors could not be read or written ({reason(error)})."
    if isinstance(error, (ValueError, OSError)):
        return str(error) or type(error).__name__
    return None
