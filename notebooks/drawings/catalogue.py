"""The list of all figures: what each is called, what it says in words, and who draws it."""

from collections.abc import Callable
from dataclasses import dataclass

from .sheet import Sheet


@dataclass(frozen=True)
class Drawing:
    alt: str  # the figure in words, for those who cannot see it
    height: int  # points of the screen
    colors: int  # how many the file may have: few make it small
    draw: Callable[[Sheet], None]


FIGURES: dict[str, Drawing] = {}


def figure(name: str, height: int, colors: int = 24):
    """Register a function that draws on a Sheet; its docstring is the alternative text."""

    def register(draw):
        FIGURES[name] = Drawing(one_line(draw.__doc__), height, colors, draw)
        return draw

    return register


def one_line(text: str) -> str:
    return " ".join(text.split())
