"""Phase 1 on one device or many: the loss of `E4T`, with every batch shared among processes.

`accelerate launch -m e4t_minimal pretrain ...` starts one process a device.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ..helpers import checks
from ..helpers.optimizers import adamw
from ..helpers.runtime import generator
from ..model import E4T, Batch
from ..regularizers import TERMS
from ..train import (
    PRETRAINING,
    Schedule,
    Step,
    accumulate,
    draw_noise,
    parameter_groups,
    prepare,
)
from .checkpoint import load_state, read_facts, save_state
from .folders import Pictures, prompts_of

Count = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """What a run was started with; see `_settings`."""

    model_config = ConfigDict(extra="allow")

    options: dict[str, Any]


class Facts(BaseModel):
    """What a state says besides its tensors."""

    step: Count  # steps done
    positions: list[tuple[Count, Count]]  # of the pictures, for every process
    settings: Settings
    scaler: dict[str, Any] | None  # of the loss, in fp16


@dataclass(frozen=True)
class Run:
    """Where a training keeps its state, and whether it goes on from there."""

    folder: Path
    save_every: int = 500  # steps; the state is also saved at the end
    resume: bool = False
    options: dict = field(default_factory=dict)  # what else it was started with, as JSON

    def __post_init__(self):
        checks.whole(1, checks.MANY, save_every=self.save_every)

    @property
    def path(self) -> Path:
        return Path(self.folder) / "state.safetensors"

    def started_with(self) -> dict:
        """The options of the run that is to go on; {} if none is. ValueError if it is damaged."""
        if not self.resume or not self.path.exists():
            return {}
        return _read_facts(self.path).settings.options


def pretrain_on(
    accelerator: Accelerator,
    model: E4T,
    pictures: Pictures,
    schedule: Schedule = PRETRAINING,
    run: Run | None = None,
) -> Iterator[Step]:
    """As `train.pretrain`, with pictures that are read while it runs.

    schedule: its batch is that of all processes together, its micro that of each at a time. Every
    process draws the noise of the whole batch and takes its part, so that two processes do what one
    does. run: where to keep the state; None: nowhere. ValueError if a run that is to go on was
    started with something else, and, with the last state as it is, when loss or gradients are no
    longer finite. The losses of a `Step` are those of this process's pictures.
    """
    checks.whole_batch(TERMS, schedule, accelerator.num_processes)
    optimizer = adamw(parameter_groups(model, schedule), schedule.eight_bit)
    state = _State(accelerator, model, pictures, schedule, run)
    first = state.load(optimizer)
    learner, optimizer = accelerator.prepare(Learner(model, schedule.weights), optimizer)
    for index in range(first, schedule.steps):
        batch, noise, t = _draw_batch(accelerator, model, pictures, schedule, index)
        learner.train()
        optimizer.zero_grad()
        losses = accumulate(
            learner,
            batch,
            noise,
            t,
            schedule.micro,
            accelerator.backward,
            around=partial(accelerator.no_sync, learner),  # the processes talk once a step
        )
        learner.eval()
        norm = accelerator.clip_grad_norm_(learner.parameters(), 1.0)
        # in fp16, infinite gradients tell the scaler to leave the step out
        gradients = 0.0 if accelerator.scaler else norm.item()
        checks.still_finite(index, loss=losses["total"], gradients=gradients)
        optimizer.step()
        if optimizer.step_was_skipped:
            checks.warn_of_overflow(index)
        state.save(optimizer, index + 1)
        yield Step(index, losses)


class Learner(nn.Module):
    """What the processes keep equal: encoder and offsets, and nothing of the frozen base.

    Its forward pass is the loss.
    """

    def __init__(self, model: E4T, weights: dict[str, float]):
        super().__init__()
        self.encoder = model.encoder
        self.offsets = nn.ModuleList(model.offsets.values())
        self._loss = partial(model.loss, weights=weights)

    def forward(self, batch: Batch, noise: torch.Tensor, t: torch.Tensor) -> dict:
        with _uncached(t.device):
            return self._loss(batch, noise, t)


def _uncached(device: torch.device) -> torch.autocast:
    """Accelerate's autocast as it is, but for its cache.

    That would keep half-precision copies of weights from where no gradients were wanted (the
    encoder's features), and the offsets' gradients would end there.
    """
    half = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=half, cache_enabled=False)


def _draw_batch(
    accelerator: Accelerator, model: E4T, pictures: Pictures, schedule: Schedule, index: int
) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """This process's part of one step's batch, noise and timesteps."""
    mine = torch.arange(accelerator.process_index, schedule.batch, accelerator.num_processes)
    prompts = prompts_of(index, schedule.batch, model.placeholder.token, schedule.seed)
    images = pictures.take(schedule.batch)
    batch = prepare(model, images, [prompts[i] for i in mine], at_once=schedule.micro or 64)
    g = generator(schedule.seed, index)
    noise, t = draw_noise(model.base, batch.latents, schedule.batch, g, schedule.t_min)
    mine = mine.to(t.device)
    return batch, noise[mine], t[mine]


class _State:
    """What a run keeps on disk: parameters, optimizer, position, and what it was started with."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: E4T,
        pictures: Pictures,
        schedule: Schedule,
        run: Run | None,
    ):
        self.accelerator = accelerator
        self.pictures = pictures
        self.schedule = schedule
        self.run = run
        # a module's name must not have a dot in it
        offsets = {name.replace(".", "/"): offset for name, offset in model.offsets.items()}
        self.parts = {"encoder": model.encoder, "offsets": nn.ModuleDict(offsets)}
        self.settings = _settings(accelerator, model, pictures, schedule)
        self.settings["options"] = run.options if run else {}

    def load(self, optimizer: torch.optim.Optimizer) -> int:
        """Go back to where the run stopped; the number of steps done."""
        if self.run is None or not self.run.resume or not self.run.path.exists():
            return 0
        path = self.run.path
        facts = _read_facts(path)
        self._check(facts)
        like = {name: part.state_dict() for name, part in self.parts.items()}
        try:
            tensors = load_state(path, optimizer, like)
            if facts.scaler is not None:
                self.accelerator.scaler.load_state_dict(facts.scaler)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from None
        for name, part in self.parts.items():
            part.load_state_dict(tensors[name])
        self.pictures.seek(list(facts.positions[self.accelerator.process_index]))
        return facts.step

    def _check(self, facts: Facts) -> None:
        """ValueError if this is not the run that was stopped, or has gone too far already."""
        path = self.run.path
        _check_settings(path, facts.settings.model_dump(), self.settings)
        if facts.step > self.schedule.steps:
            raise ValueError(
                f"{path} has done {facts.step} steps already: give as many or more, not "
                f"{self.schedule.steps}."
            )
        scales = self.accelerator.scaler is not None
        whole = len(facts.positions) == self.accelerator.num_processes
        if scales != (facts.scaler is not None) or not whole:
            raise _damaged(path, ValueError("a scaler or a position is missing"))

    def save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write the state after so many steps, if it is time to."""
        if self.run is None:
            return
        if step % self.run.save_every and step != self.schedule.steps:
            return
        positions = gather_object([self.pictures.position])
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            save_state(
                self.run.path,
                {name: part.state_dict() for name, part in self.parts.items()},
                optimizer,
                step=step,
                positions=positions,
                settings=self.settings,
                scaler=scaler and scaler.state_dict(),
            )
        self.accelerator.wait_for_everyone()


def _settings(accelerator: Accelerator, model: E4T, pictures: Pictures, schedule: Schedule) -> dict:
    """What a run must go on with to be the one that was stopped, as JSON.

    Not the steps and the pictures at a time: those may change.
    """
    how = asdict(schedule)
    del how["steps"], how["micro"]
    base = model.base
    return how | {
        "processes": accelerator.num_processes,
        "base": base.name,
        "vision": base.vision_name,
        "resolution": base.resolution,
        "dtype": str(base.dtype).removeprefix("torch."),
        "class word": model.placeholder.class_word,
        "token": model.placeholder.token,
        "encoder": asdict(model.encoder.config),
        "pictures": pictures.description,
        "streaming": pictures.streaming,
    }


def _read_facts(path: Path) -> Facts:
    try:
        return read_facts(path, Facts)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _check_settings(path: Path, stored: dict, wanted: dict) -> None:
    differences = [
        f"{name} {stored.get(name)!r} (now {wanted.get(name)!r})"
        for name in stored | wanted
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path} was made with {', '.join(differences)}: go on with the same, or start anew in "
            "another folder."
        )


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged, or was made with another version ({checks.reason(error)}). Start anew "
        "in another folder."
    )
