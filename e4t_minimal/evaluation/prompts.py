"""The prompts whose pictures are scored."""

from typing import NamedTuple


class Prompt(NamedTuple):
    """What a picture is asked for with, and what the judge should find in it."""

    kind: str  # "plain", "background" or "style"
    template: str  # {} stands for the subject
    wanted: dict[str, str]  # {question: word}


PROMPTS = [
    Prompt("plain", "a photo of {}", {"style": "photo"}),
    Prompt("plain", "a photo of {} on a blue background", {"background": "blue"}),
    Prompt("background", "a photo of {} on the beach", {"background": "beach"}),
    Prompt("background", "a photo of {} in the forest", {"background": "forest"}),
    Prompt("background", "a photo of {} in space", {"background": "space"}),
    Prompt("style", "a pencil sketch of {}", {"style": "sketch"}),
    Prompt("style", "pixel art of {}", {"style": "pixel"}),
    Prompt("style", "a neon drawing of {}", {"style": "neon"}),
]
