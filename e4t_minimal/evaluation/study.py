"""A user study on one page: which of two pictures shows the same person as the first? Methods are hidden, sides are random, votes survive a restart."""

import json
import random
import time
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Trial:
    """One question: a picture of the person, a prompt, and what two or more methods drew for it."""

    person: str
    prompt: str
    picture: Image.Image
    results: dict[str, Image.Image]  # {method: picture}


def order(trials: list[Trial], seed: int = 0) -> list[tuple[Trial, tuple[str, str]]]:
    """Every trial with every pair of its methods, shuffled, each pair in a random order (left, right)."""
    rng, asked = random.Random(seed), []
    for trial in trials:
        methods = list(trial.results)
        asked += [
            (trial, rng.choice([(a, b), (b, a)]))
            for i, a in enumerate(methods)
            for b in methods[i + 1 :]
        ]
    rng.shuffle(asked)
    return asked


def read_rows(path: Path) -> list[dict]:
    """Rows of a JSON Lines file; a line that a stopped program left half-written does not count."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            pass
    return rows


def append_rows(path: Path, rows: list[dict]):
    """Add rows to a JSON Lines file, on a line of their own even if the last one was left half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("" if whole else "\n")
        file.write("".join(json.dumps(row) + "\n" for row in rows))


class Study:
    """Asks, keeps every vote at once in a JSON Lines file, and goes on after a restart with what has not been asked of this voter."""

    def __init__(self, trials: list[Trial], votes: str | Path, voter: str, seed: int = 0):
        self.path, self.voter = Path(votes), voter
        done = {
            (v["person"], v["prompt"], frozenset((v["left"], v["right"])))
            for v in read_rows(self.path)
            if v["voter"] == voter
        }
        self.left = [
            (trial, pair)
            for trial, pair in order(trials, seed)
            if (trial.person, trial.prompt, frozenset(pair)) not in done
        ]

    def vote(self, choice: str, **more):
        """Record an answer ("left", "right" or "neither") to the question at hand, and go on to the next."""
        if choice not in ("left", "right", "neither"):
            raise ValueError(f"A vote is 'left', 'right' or 'neither', not {choice!r}.")
        trial, (left, right) = self.left.pop(0)
        row = {
            "voter": self.voter,
            "person": trial.person,
            "prompt": trial.prompt,
            "left": left,
            "right": right,
            "choice": choice,
            "time": time.time(),
            **more,
        }
        append_rows(self.path, [row])

    def sheet(self, size: int = 160) -> Image.Image:
        """The question at hand as one picture: the person, then left and right."""
        trial, (left, right) = self.left[0]
        page = Image.new("RGB", (3 * size + 40, size), "white")
        for i, picture in enumerate((trial.picture, trial.results[left], trial.results[right])):
            page.paste(
                picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST),
                (i * (size + 10) + 20 * (i > 0), 0),
            )
        return page

    def page(self):
        """The study as a widget."""
        import io

        import ipywidgets as widgets

        question, shown = widgets.HTML(), widgets.Image(format="png")
        buttons = {
            choice: widgets.Button(description=label)
            for choice, label in {
                "left": "the left one",
                "right": "the right one",
                "neither": "cannot say",
            }.items()
        }

        def show():
            for button in buttons.values():
                button.disabled = not self.left
            if not self.left:
                question.value, shown.value = "Thank you, that was all.", b""
                return
            question.value = f"<b>Which one is this person?</b> Asked for: “{self.left[0][0].prompt}”. {len(self.left)} to go."
            self.sheet().save(data := io.BytesIO(), "PNG")
            shown.value = data.getvalue()

        for choice, button in buttons.items():
            button.on_click(lambda _, choice=choice: (self.vote(choice), show()))
        show()
        return widgets.VBox([question, shown, widgets.HBox(list(buttons.values()))])


def win_rates(votes: list[dict]) -> dict:
    """{method: {"wins", "votes", "rate", "low", "high"}}: share of its pairs that a method won, with Wilson's 95 % interval; "neither" is half a win."""
    out = {}
    for method in sorted({v[side] for v in votes for side in ("left", "right")}):
        own = [v for v in votes if method in (v["left"], v["right"])]
        wins = sum(0.5 if v["choice"] == "neither" else v[v["choice"]] == method for v in own)
        n, z = len(own), 1.96
        p = wins / n
        middle, half = (
            (p + z * z / (2 * n)) / (1 + z * z / n),
            z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
        )
        out[method] = {
            "wins": wins,
            "votes": n,
            "rate": round(p, 3),
            "low": round(middle - half, 3),
            "high": round(middle + half, 3),
        }
    return out
