"""A user study: which of two pictures shows the same person as the first?

Methods are hidden, sides are random, votes survive a restart. `study_page` shows it in a notebook.
"""

import random
import time
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from .records import append_records, read_records

CHOICES = ("left", "right", "neither")


class Vote(BaseModel):
    """A line of a file of votes."""

    model_config = ConfigDict(extra="allow")

    voter: str
    person: str
    prompt: str
    left: str
    right: str
    choice: Literal[CHOICES]


@dataclass(frozen=True)
class Trial:
    """A picture of a person, a prompt, and what two or more methods drew for it."""

    person: str
    prompt: str
    picture: Image.Image
    results: dict[str, Image.Image]  # {method: picture}


@dataclass(frozen=True)
class Question:
    """Two methods' results of one trial, side by side."""

    trial: Trial
    left: str  # method
    right: str

    @property
    def key(self) -> tuple:
        """What is asked, whichever side a method is on."""
        return self.trial.person, self.trial.prompt, frozenset((self.left, self.right))

    def sheet(self, size: int = 160) -> Image.Image:
        """One picture: the person, then left and right, each `size` x `size`."""
        results = self.trial.results
        pictures = (self.trial.picture, results[self.left], results[self.right])
        page = Image.new("RGB", (3 * size + 40, size), "white")
        for picture, x in zip(pictures, (0, size + 30, 2 * size + 40), strict=True):
            shown = picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
            page.paste(shown, (x, 0))
        return page


def questions(trials: list[Trial], seed: int = 0) -> list[Question]:
    """Every trial with every pair of its methods, shuffled, each pair in a random order."""
    rng = random.Random(seed)
    asked = []
    for trial in trials:
        for a, b in combinations(trial.results, 2):
            left, right = rng.choice([(a, b), (b, a)])
            asked.append(Question(trial, left, right))
    rng.shuffle(asked)
    return asked


class Study:
    """Asks, and keeps every vote at once in a JSON Lines file.

    After a restart it goes on with what has not been asked of this voter.
    """

    def __init__(self, trials: list[Trial], votes: str | Path, voter: str, seed: int = 0):
        self.path = Path(votes)
        self.voter = voter
        own = [vote for vote in read_votes(self.path) if vote["voter"] == voter]
        done = {
            (vote["person"], vote["prompt"], frozenset((vote["left"], vote["right"])))
            for vote in own
        }
        self.remaining = [asked for asked in questions(trials, seed) if asked.key not in done]

    def vote(self, choice: str, **more):
        """Record an answer to the first remaining question, one of CHOICES, and go on to the next.

        more: further entries of the record. ValueError for another choice.
        """
        if choice not in CHOICES:
            raise ValueError(f"A vote is 'left', 'right' or 'neither', not {choice!r}.")
        asked = self.remaining[0]
        record = {
            "voter": self.voter,
            "person": asked.trial.person,
            "prompt": asked.trial.prompt,
            "left": asked.left,
            "right": asked.right,
            "choice": choice,
            "time": time.time(),
        }
        append_records(self.path, [record | more])
        del self.remaining[0]  # only now: a vote that cannot be written is asked for again


def read_votes(path: Path) -> list[dict]:
    """The votes of a JSON Lines file; ValueError for a line that is none."""
    return [vote.model_dump() for vote in read_records(path, Vote)]


def win_rates(votes: list[dict]) -> dict[str, dict]:
    """{method: {"wins", "votes", "rate", "low", "high"}}: the share of its pairs that it won.

    With Wilson's 95 % interval; "neither" is half a win.
    """
    methods = sorted({vote[side] for vote in votes for side in ("left", "right")})
    rates = {}
    for method in methods:
        own = [vote for vote in votes if method in (vote["left"], vote["right"])]
        wins = sum(_wins(vote, method) for vote in own)
        low, high = _wilson(wins, len(own))
        rates[method] = {
            "wins": wins,
            "votes": len(own),
            "rate": round(wins / len(own), 3),
            "low": round(low, 3),
            "high": round(high, 3),
        }
    return rates


def _wins(vote: dict, method: str) -> float:
    if vote["choice"] == "neither":
        return 0.5
    return float(vote[vote["choice"]] == method)


def _wilson(wins: float, votes: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share; z: 1.96 for 95 %."""
    share = wins / votes
    middle = share + z * z / (2 * votes)
    half = z * sqrt(share * (1 - share) / votes + z * z / (4 * votes * votes))
    scale = 1 + z * z / votes
    return (middle - half) / scale, (middle + half) / scale
