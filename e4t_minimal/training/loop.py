"""One training loop for all toy models: progress bar, states that resume, averaged weights."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import trange

from ..evaluation.records import append_records
from ..helpers import checks
from ..helpers.files import check_writable
from ..helpers.runtime import check_device, generator
from ..scaling.checkpoint import load_state, read_facts, save_state
from .hardware import autocast

SAVE_SECONDS = 180  # between two states on disk


class Facts(BaseModel):
    """What a state says besides its tensors."""

    step: int = Field(ge=0)  # steps done
    seconds: float = Field(ge=0)
    seed: int | None = None  # states from before it was kept have none


@dataclass(frozen=True)
class Training:
    """How a toy model is trained."""

    name: str  # of the progress bar, and in the command that made the model
    folder: Path  # for state.safetensors, log.jsonl and the trained model
    steps: int
    seed: int = 0
    resume: bool = False  # go on from the folder's state, if there is one
    device: str = "cpu"
    check_every: int = 200  # steps
    decay: float = 0.999  # of the averaged weights, once there are enough steps for it
    warmup: int = 100  # steps in which the learning rate rises
    cool: float = 0.5  # share of the steps in which it falls to zero, at the end

    def __post_init__(self):
        checks.whole(1, checks.MANY, steps=self.steps, check_every=self.check_every)
        checks.whole(1, checks.MANY, warmup=self.warmup)
        checks.number(0, 1, decay=self.decay, cool=self.cool)
        checks.seed(self.seed)

    def replace(self, **changes) -> "Training":
        return replace(self, **changes)

    @property
    def path(self) -> Path:
        """Of the state that it goes on from."""
        return self.folder / "state.safetensors"

    def check(self):
        """ValueError if it cannot be done here, told before anything is drawn or loaded."""
        check_device(self.device)
        check_writable(self.path)
        self.facts()

    def facts(self) -> Facts:
        """Where it goes on from; ValueError if that is the state of another training."""
        if not self.resume or not self.path.exists():
            return Facts(step=0, seconds=0.0)
        facts = read_facts(self.path, Facts)
        if facts.seed not in (None, self.seed) or facts.step > self.steps:
            seed = "" if facts.seed is None else f" with seed {facts.seed}"
            raise ValueError(
                f"{self.path} has done {facts.step} steps{seed}, and cannot become a training of "
                f"{self.steps} with seed {self.seed}. Go on with the same, or leave out --resume."
            )
        return facts

    @property
    def command(self) -> str:
        """What makes this model again."""
        return f"python -m e4t_minimal.training {self.name} --steps {self.steps} --seed {self.seed}"

    def rate(self, step: int) -> float:
        """Factor on the learning rate: up, flat, then half a cosine down to zero."""
        rising = min(1.0, (step + 1) / self.warmup)
        into_cooling = max(0.0, 1 - (self.steps - step) / max(1.0, self.cool * self.steps))
        return rising * (0.5 + 0.5 * math.cos(math.pi * into_cooling))


def train(
    model: torch.nn.Module,
    groups: list[dict],
    loss_of_step: Callable,
    training: Training,
    check: Callable | None = None,
) -> dict:
    """Train `model` in place and leave the averaged weights in it.

    groups: AdamW's parameter groups. loss_of_step(generator, step) -> scalar. check() -> {name:
    number}, printed and kept in log.jsonl every `check_every` steps. Returns {"steps", "seconds",
    "command"}. A run that was stopped and resumed gives the same bits. ValueError, with the last
    state as it is, when loss or gradients are no longer finite.
    """
    training.folder.mkdir(parents=True, exist_ok=True)
    for p in model.parameters():  # the fused AdamW takes numbers as they lie in memory, and the
        p.data = p.data.contiguous()  # averages that a state brings back lie row by row
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=training.device != "mps")
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = AveragedModel(model, multi_avg_fn=_average(training.decay), use_buffers=True)
    start, spent = _resume(model, average, optimizer, training)
    begun, saved, smooth = time.time() - spent, time.time(), None
    low_precision = autocast(training.device)
    bar = trange(start, training.steps, initial=start, total=training.steps, desc=training.name)
    for step in bar:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * training.rate(step)
        g = generator(training.seed, step)
        torch.manual_seed(g.initial_seed())  # for dropout
        with low_precision:
            loss = loss_of_step(g, step)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        checks.still_finite(step, loss=loss.item(), gradients=norm.item())
        optimizer.step()
        average.update_parameters(model)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        last = step + 1 == training.steps
        if check and (last or (step + 1) % training.check_every == 0):
            row = {
                "step": step + 1,
                "seconds": round(time.time() - begun),
                "loss": round(smooth, 4),
            }
            with low_precision:
                row |= _checked(model, check)
            append_records(training.folder / "log.jsonl", [row])
            bar.write(json.dumps(row))
        if last or time.time() - saved > SAVE_SECONDS:
            parts = {"model": model.state_dict(), "average": average.state_dict()}
            facts = {"step": step + 1, "seconds": time.time() - begun, "seed": training.seed}
            save_state(training.path, parts, optimizer, **facts)
            saved = time.time()
    model.load_state_dict(average.module.state_dict())
    model.eval()
    seconds = round(time.time() - begun)
    return {"steps": training.steps, "seconds": seconds, "command": training.command}


def _average(decay: float) -> Callable:
    """As torch's exponential average, with a smaller decay in the first steps."""

    def update(averages, weights, count):
        if averages[0].is_floating_point():
            ramped = min(decay, (1 + int(count)) / (10 + int(count)))
            get_ema_multi_avg_fn(ramped)(averages, weights, count)
        else:  # torch would average whole numbers, and cut off what is behind the point
            torch._foreach_copy_(averages, weights)

    return update


def _resume(model, average, optimizer, training: Training) -> tuple[int, float]:
    """(steps done, seconds spent), after putting a saved state back where it was."""
    facts = training.facts()
    if facts.step:
        like = {"model": model.state_dict(), "average": average.state_dict()}
        parts = load_state(training.path, optimizer, like)
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
    return facts.step, facts.seconds


@torch.no_grad()
def _checked(model: torch.nn.Module, check: Callable) -> dict[str, float]:
    model.eval()
    numbers = {name: round(float(value), 4) for name, value in check().items()}
    model.train()
    return numbers
