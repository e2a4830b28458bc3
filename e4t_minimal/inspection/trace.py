"""Look inside: `trace` keeps tensors under their names, `patch` changes them.

Their names: see names.py, or `names.names(model)`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..helpers.files import replacing
from .hooks import observing
from .names import axes_of
from .observer import Observer


class Trace:
    """What passed, in order of time.

    t["unet.mid"] is a list of tensors, t.calls["unet.mid"] a list of (timestep, part), one for each
    (see `Observer`). t.latents: (h, w) of the latents that the U-Net was given last; None before.
    """

    def __init__(self, device: str | None = None):
        self.latents: tuple[int, int] | None = None
        self.kept: dict[str, list[torch.Tensor]] = {}
        self.calls: dict[str, list[tuple]] = {}
        self.drawings: dict[str, list[int]] = {}  # which drawing each tensor is of
        self.drawing = 0
        self.device = device

    def keep(self, name: str, tensor: torch.Tensor, t, part: str | None) -> torch.Tensor:
        """Put a tensor's copy at the end of the list under its name."""
        copy = tensor.detach().to(self.device or tensor.device, copy=True)
        self.kept.setdefault(name, []).append(copy)
        self.calls.setdefault(name, []).append((t, part))
        self.drawings.setdefault(name, []).append(self.drawing)
        return tensor

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        if name not in self.kept:
            raise ValueError(
                f"Nothing was kept under {name!r}; kept were: {', '.join(self.kept) or 'nothing'}."
            )
        return self.kept[name]

    def of(self, name: str, part: str = "cond") -> dict[int, torch.Tensor]:
        """{timestep: tensor} of the passes with the prompt ("cond") or the empty one ("uncond").

        What belongs to no pass is in both. Of pictures drawn one after the other it is the last,
        and of looks at one timestep, too: some schedulers (PNDM, Heun) take two, see
        `last_drawing`.
        """
        return dict(self.last_drawing(name, part))

    def last_drawing(self, name: str, part: str = "cond") -> list[tuple[int, torch.Tensor]]:
        """[(timestep, tensor), ...] of the last drawing, look by look; part: as in `of`.

        A drawing begins behind the end of another, or, of one that was broken off, where the
        timestep rises.
        """
        halves = {"uncond": 0, "cond": 1}
        found, last = [], None
        kept = zip(self[name], self.calls[name], self.drawings[name], strict=True)
        for tensor, (t, of_part), drawing in kept:
            if of_part not in ("both", part, None):
                continue
            if found and (drawing != last or _rises(found[-1][0], t)):
                found = []
            last = drawing
            found.append((t, tensor.chunk(2)[halves[part]] if of_part == "both" else tensor))
        return found

    def table(self):
        """A pandas table, a line per name: calls, shape, dtype, and statistics over all calls."""
        import pandas

        return pandas.DataFrame([_summary(name, tensors) for name, tensors in self.kept.items()])

    def save(self, path: str | Path):
        """One safetensors file: "name/0", "name/1", ... per call.

        Its metadata has each one's (timestep, part). Written beside, then renamed.
        """
        tensors, calls = {}, {}
        for name, found in self.kept.items():
            for i, tensor in enumerate(found):
                tensors[f"{name}/{i}"] = tensor.contiguous().cpu()
                calls[f"{name}/{i}"] = str(self.calls[name][i])
        with replacing(path) as new:
            save_file(tensors, new, calls)


def _rises(before: int | tuple | None, t: int | tuple | None) -> bool:
    """Whether the second timestep is nearer to pure noise; in training there are many at once."""
    return isinstance(before, int) and isinstance(t, int) and t > before


def _summary(name: str, tensors: list[torch.Tensor]) -> dict:
    numbers = torch.cat([tensor.float().flatten() for tensor in tensors])
    sizes = zip(axes_of(name), tensors[0].shape, strict=False)
    return {
        "name": name,
        "calls": len(tensors),
        "shape": " ".join(f"{axis}={size}" for axis, size in sizes),
        "dtype": str(tensors[0].dtype).removeprefix("torch."),
        "mean": numbers.mean().item(),
        "std": numbers.std(correction=0).item(),
        "min": numbers.min().item(),
        "max": numbers.max().item(),
        "norm": numbers.norm().item(),
        "NaNs": int(numbers.isnan().sum()),
    }


@contextmanager
def trace(model, names: str | tuple[str, ...] = "*", device: str | None = None) -> Iterator[Trace]:
    """Keep what passes under the names that match -> `Trace`.

    model: an `E4T`, a `Base` or a diffusers `StableDiffusionPipeline`. Its results stay the same,
    bit for bit; where it has another attention processor than PyTorch's (`AttnProcessor2_0`) and Q,
    K, V or a map of a layer is asked for, within 1e-5. device: where to keep tensors ("cpu" spares
    a GPU). ValueError for an unknown name, and for a model that is compiled or fused.
    """
    kept = Trace(device)

    def see_size(z_t: torch.Tensor):
        kept.latents = tuple(z_t.shape[-2:])

    def see_end():
        kept.drawing += 1

    with observing(Observer(model, names, kept.keep, see_size, see_end)):
        yield kept


@contextmanager
def patch(
    model, names: str | tuple[str, ...], fn: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """While open, the model goes on with fn(tensor) where a tensor passes under one of the names.

    Works between two steps of a generator, too. In training, `backward` belongs inside: gradient
    checkpointing computes parts of the model a second time then. ValueError as in `trace`, and for
    terms of the loss.
    """

    def change(name: str, tensor: torch.Tensor, t, part: str | None) -> torch.Tensor:
        return fn(tensor)

    observer = Observer(model, names, change, changing=True)
    if any(name.startswith("loss.") for name in observer.wanted):
        raise ValueError(
            f"{names!r}: terms of the loss are read, not changed; change the loss's weights, or a "
            "tensor it is made of."
        )
    with observing(observer):
        yield
