"""How far an E4T training of the toy has come: its state, and its log, which go together."""

import json
import time
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from tqdm.auto import tqdm

from ..evaluation.records import append_records, read_records
from ..helpers.files import replacing
from ..model import E4T
from ..scaling.checkpoint import load_state, read_facts, save_state

SAVE_SECONDS = 180  # between two states on disk
PHASES = ("start", "dictionary", "pretrain")


class Row(BaseModel):
    """A line of log.jsonl."""

    model_config = ConfigDict(extra="allow")

    phase: Literal[PHASES]
    step: int = Field(ge=0)
    seconds: float = Field(ge=0)


class Facts(BaseModel):
    """What a state says besides its tensors."""

    phase: Literal[PHASES]
    step: int = Field(ge=0)  # steps of the phase that are done
    seconds: float = Field(ge=0)  # of the whole training
    recipe: dict  # what is trained
    attention: Literal["plain", "fused"]  # what was faster here, and decides the last bits
    half: bool  # likewise


class Progress:
    """Where a training stands; a training that was killed goes on there with the same bits.

    resume: go on from the folder's state, if there is one. ValueError if it is another training's.
    """

    def __init__(self, folder: Path, recipe: dict, resume: bool = False):
        self.path = folder / "state.safetensors"
        self.log = folder / "log.jsonl"
        self.recipe = recipe
        self.facts: Facts | None = None
        self.rows: list[dict] = []
        if resume and self.path.exists():
            self.facts = read_facts(self.path, Facts)
            self._check()
            self.rows = [row for row in read_rows(self.log) if self._is_done(row)]
        self.begun = time.time() - (self.facts.seconds if self.facts else 0)
        self.saved = time.time()

    def _check(self):
        given = self.recipe | {"steps": None}  # the training may be made longer
        if self.facts.recipe | {"steps": None} != given or self._too_far():
            raise ValueError(
                f"{self.path} is of another training ({self.facts.recipe}, {self.facts.phase} step "
                f"{self.facts.step}). Go on with the same, or leave out --resume."
            )

    def _too_far(self) -> bool:
        return self.facts.phase == "pretrain" and self.facts.step > self.recipe["steps"]

    def _is_done(self, row: dict) -> bool:
        """Whether the state is from after the row; what comes later comes again."""
        order = PHASES.index(row["phase"]), row["step"]
        return order <= (PHASES.index(self.facts.phase), self.facts.step)

    def begin(self, attention: str, half: bool, rows: list[dict] | None = None):
        """The first state is that of the start: what was faster here, and rows of another log."""
        self.facts = Facts(
            phase="start", step=0, seconds=0, recipe=self.recipe, attention=attention, half=half
        )
        self.rows = rows or []

    def rewrite_log(self):
        """Without what a run that was killed has written after its last state."""
        with replacing(self.log) as new:
            new.write_text("".join(json.dumps(row) + "\n" for row in self.rows), "utf-8")

    @property
    def seconds(self) -> int:
        return round(time.time() - self.begun)

    def write(self, phase: str, step: int, **numbers: float):
        """Print a row of numbers, and add it to the log."""
        row = {"phase": phase, "step": step, "seconds": self.seconds}
        row |= {name: round(value, 4) for name, value in numbers.items()}
        self.rows.append(row)
        append_records(self.log, [row])
        tqdm.write(json.dumps(row))

    def has_passed(self, phase: str) -> bool:
        return PHASES.index(self.facts.phase) > PHASES.index(phase)

    def of(self, phase: str, model: E4T, steps: int) -> "State":
        """What a training loop of `steps` steps asks where to begin, and tells where it is."""
        return State(self, phase, model, steps)


class State:
    """One phase's side of the progress."""

    def __init__(self, progress: Progress, phase: str, model: E4T, steps: int):
        self.progress, self.phase, self.steps = progress, phase, steps
        # a module's name must not have a dot in it
        offsets = {name.replace(".", "/"): offset for name, offset in model.offsets.items()}
        self.parts = {"encoder": model.encoder, "offsets": nn.ModuleDict(offsets)}

    def load(self, optimizer: torch.optim.Optimizer) -> int:
        """Put model and optimizer back where this phase was stopped; the number of steps done."""
        facts = self.progress.facts
        if facts.phase != self.phase:
            return 0
        like = {name: part.state_dict() for name, part in self.parts.items()}
        tensors = load_state(self.progress.path, optimizer, like)
        for name, part in self.parts.items():
            part.load_state_dict(tensors[name])
        return facts.step

    def save(self, optimizer: torch.optim.Optimizer, step: int):
        """Keep what there is after so many steps, if it is time to."""
        progress = self.progress
        if step < self.steps and time.time() - progress.saved < SAVE_SECONDS:
            return
        seconds = time.time() - progress.begun
        changes = {"phase": self.phase, "step": step, "seconds": seconds, "recipe": progress.recipe}
        facts = progress.facts.model_copy(update=changes)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        save_state(progress.path, parts, optimizer, **facts.model_dump())
        progress.saved = time.time()


def read_rows(log: Path) -> list[dict]:
    """The rows of a log; one that was half-written when its training was killed does not count."""
    return [row.model_dump() for row in read_records(log, Row)]
