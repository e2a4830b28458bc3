"""What a diffusers pipeline does not show by itself: guidance and latents.

Its U-Net has hooks for the one, its scheduler none for the other: while somebody looks, its `step`
is ours, on this one scheduler.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from .observer import Observer, change_first


def part_of_pipeline(pipeline) -> str:
    """Which pass of the U-Net it is: with guidance both in one batch, the empty prompt first."""
    return "both" if getattr(pipeline, "do_classifier_free_guidance", False) else "cond"


@contextmanager
def observed_pipeline(pipeline, observer: Observer) -> Iterator[None]:
    """Inside, the observer sees guidance.* and latent[...] of the pipeline."""

    def see(unet, args, output):
        if part_of_pipeline(pipeline) == "both":
            return change_first(output, partial(_see_halves, observer))
        return change_first(output, partial(observer, "guidance.cond"))

    with (
        pipeline.unet.register_forward_hook(see),
        _observed_step(pipeline.scheduler, observer),
    ):
        yield


def _see_halves(observer: Observer, predictions: torch.Tensor) -> torch.Tensor:
    """(2 B, C, h, w) -> the same, each half under its own name."""
    unconditional, conditional = predictions.chunk(2)
    unconditional = observer("guidance.uncond", unconditional)
    conditional = observer("guidance.cond", conditional)
    return torch.cat([unconditional, conditional])


class ObservedStep:
    """A scheduler's `step`, before observers; pipelines ask for its signature."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.of_class = "step" not in vars(scheduler)
        self.original = scheduler.step
        self.__signature__ = inspect.signature(self.original)
        self.observers: list[Observer] = []
        self.timesteps = None  # of the drawing that is going on
        self.place = -1  # which of them the last step was at

    def __call__(
        self, prediction: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, *args, **kwargs
    ):
        """prediction, latents (B, C, h, w), and what else a scheduler takes -> what it returns."""
        times = self._go_on(float(t))
        if self.place == 0:
            self._show_start(f"latent[{int(t)}]", latents)
        following = times[self.place + 1 :]
        after = f"latent[{int(following[0])}]" if following else "latent[end]"
        prediction = self.show("guidance.prediction", prediction)
        output = self.original(prediction, t, latents, *args, **kwargs)
        return change_first(output, partial(self.show, after))

    def _go_on(self, t: float) -> list[float]:
        """The drawing's timesteps; finds out which of them t is.

        Several may be alike: some schedulers (PNDM, Heun) look twice at one. They are made anew for
        every drawing, which may start in their middle (from a picture).
        """
        if self.timesteps is not self.scheduler.timesteps:
            self.timesteps, self.place = self.scheduler.timesteps, -1
        times = self.timesteps.tolist()
        if t not in times[self.place + 1 :]:
            self.place = -1  # drawn again with the old ones
        self.place = times.index(t, self.place + 1)
        return times

    def remove(self):
        """Let the scheduler be as it was."""
        del self.scheduler.step
        if not self.of_class:
            self.scheduler.step = self.original

    def show(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        for observer in self.observers:
            tensor = observer(name, tensor)
        return tensor

    def _show_start(self, name: str, noise: torch.Tensor):
        """The first latents are seen only now, when the U-Net has already seen them."""
        for observer in self.observers:
            if not observer.changing:
                observer(name, noise)
            elif name in observer.patterns:
                raise ValueError(
                    f"{name} is the noise that the drawing starts from, and nothing can change it "
                    "from here: give another `seed`."
                )


@contextmanager
def _observed_step(scheduler, observer: Observer) -> Iterator[None]:
    """All observers of a scheduler share one step; the last one to leave takes it away."""
    step = scheduler.step
    if not isinstance(step, ObservedStep):
        step = ObservedStep(scheduler)
        scheduler.step = step
    step.observers.append(observer)
    try:
        yield
    finally:
        step.observers.remove(observer)
        if not step.observers:
            step.remove()
