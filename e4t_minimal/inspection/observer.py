"""One who looks inside: what it asks for, and where in a run the model is."""

import re
from collections.abc import Callable

import torch

from ..base import Base
from .names import CLIP_LEVELS, base_of, check_patterns, matches, names


class Observer:
    """Sees the tensors with the wanted names, and may change them.

    patterns: names, or patterns of names, of `model` (see names.py); ValueError for an unknown one.
    function(name, tensor, t, part) -> the tensor to go on with. t: the timestep, a tuple of them in
    training, None before the first. part: which pass of the U-Net it is, "cond", "uncond", "both"
    (one batch, as diffusers' pipelines do it), "features" (E4T's, in training), or None outside.
    at_pass(z_t): called with what the U-Net is given (B, C, h, w), at the beginning of every pass.
    at_end(): called when pictures are drawn to their end.
    changing: whether `function` may return another tensor than it was given.
    """

    def __init__(
        self,
        model,
        patterns: str | tuple[str, ...],
        function: Callable,
        at_pass: Callable | None = None,
        at_end: Callable | None = None,
        changing: bool = False,
    ):
        self.patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        check_patterns(model, self.patterns)
        self.base = base_of(model)
        self.function = function
        self.at_pass = at_pass
        self.at_end = at_end
        self.changing = changing
        self.wanted = {name for name in names(model) if matches(name, self.patterns)}
        self.t = None
        self.part = None
        self.in_pass = False

    def begin_pass(self, z_t: torch.Tensor, t: torch.Tensor, part: str | None):
        if self.at_pass is not None:
            self.at_pass(z_t)
        times = t.flatten().tolist()
        self.t = int(times[0]) if len(times) == 1 else tuple(times)
        self.part = part
        self.in_pass = True

    def end_pass(self):
        self.part = None
        self.in_pass = False

    def sees(self, name: str) -> bool:
        if isinstance(self.base, Base) and self not in self.base.taps:
            return False  # see `Base.untapped`
        if name.startswith("latent["):
            return matches(name, self.patterns)
        # Gradient checkpointing computes parts of the U-Net again, in backward: what it computes
        # has to be changed again, but is nothing new to see.
        again = name.startswith("unet.") and not self.in_pass
        return name in self.wanted and (self.changing or not again)

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == CLIP_LEVELS:
            return self._see_levels(tensor)
        if self.sees(name):
            step = re.fullmatch(r"latent\[(\d+)\]", name)
            t = int(step[1]) if step else self.t
            tensor = self.function(name, tensor, t, self.part)
        if name == "latent[end]" and self.at_end is not None:
            self.at_end()
        return tensor

    def _see_levels(self, tensor: torch.Tensor) -> torch.Tensor:
        """Each level of the vision tower by itself: (B, L/2, width)."""
        seen = [name for name in self.wanted if name.startswith(CLIP_LEVELS)]
        if not seen:
            return tensor
        levels = [self(f"{CLIP_LEVELS}[{i}]", level) for i, level in enumerate(tensor.unbind(1))]
        return torch.stack(levels, dim=1) if self.changing else tensor


def change_first(output, change: Callable):
    """A tensor, or the first of a tuple or of a library's output class, put through `change`."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    key = next(iter(output.keys()))
    output[key] = change(output[key])
    return output
