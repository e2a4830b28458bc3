"""Will it fit? Peak memory and stored bytes of E4T on a base.

Found by rehearsing a training step with tensors that have shapes but no numbers. What is counted:
every tensor that is alive at the same time (weights, activations, gradients, optimizer). What is
not: the workspace inside a kernel, the allocator's rounding, the CUDA context (about half a GB on
top, as a rule).
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..base import Base
from ..model import E4T, Batch
from ..offsets import fold
from ..train import PERSONALIZATION, PRETRAINING, Schedule, accumulate, loss_function
from .architectures import build

# a batch of 16, as the paper's
PHASES = {"personalize": PERSONALIZATION, "pretrain": PRETRAINING}


@dataclass(frozen=True)
class Plan:
    """What one phase takes on one device, in bytes."""

    base: int  # frozen weights
    trained: int  # parameters that learn, with their gradients and Adam's two averages
    peak: int  # the most that is alive at once, of everything
    stored: int  # a concept on disk, without its picture
    offsets: int  # of that, the folded offsets


def plan(
    architecture: str | dict[str, dict],
    phase: str = "personalize",
    schedule: Schedule | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
    checkpointing: bool = True,
) -> Plan:
    """What a training step of a phase takes on one device, without allocating it.

    architecture: see `architectures.build`. phase, schedule: one of PHASES, whose schedule is the
    default; its batch is that of this device. resolution: pixels of a picture. ValueError for
    another phase, a batch that cannot be, or a resolution that does not fit.
    """
    if phase not in PHASES:
        raise ValueError(f"There is no phase {phase!r}; choose one of {', '.join(PHASES)}.")
    schedule = schedule or PHASES[phase]
    _check_batch(schedule)
    if dtype == torch.float16:  # as many bytes, and no loss scaling, which asks for numbers
        dtype = torch.bfloat16
    with rehearsal() as live:
        base = build(architecture, dtype=dtype, resolution=resolution)
        frozen = _bytes_of_base(base)
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
        any_word = base.tokenizer.convert_ids_to_tokens(256).removesuffix("</w>")
        model = E4T(base, any_word)
        if phase == "personalize":
            model.fold()
        live.peak = live.now  # what came and went while the model was built does not count
        trained = _step(model, phase, schedule)
        peak = live.peak
        offsets = [p for offset in fold(model.offsets).values() for p in offset.parameters()]
        encoder = sum(tensor.numel() for tensor in model.encoder.state_dict().values())
        return Plan(
            base=frozen,
            trained=trained,
            peak=peak,
            stored=2 * encoder + _bytes(offsets),  # fp16 and fp32
            offsets=_bytes(offsets),
        )


def _check_batch(schedule: Schedule) -> None:
    if schedule.micro is not None and schedule.micro > schedule.batch:
        raise ValueError(
            f"A batch of {schedule.batch} in parts of {schedule.micro}: a part is at most the "
            "batch."
        )


def _step(model: E4T, phase: str, schedule: Schedule) -> int:
    """One training step; the bytes of what learns, with its gradients and Adam's averages."""
    parameters = model.parameters()
    if schedule.micro:  # two parts need as much as any number of them
        schedule = schedule.replace(batch=min(schedule.batch, 2 * schedule.micro))
    if phase == "personalize":  # one picture, prepared once, when Adam has no averages yet
        batch = _prepare(model, 1)
        batch = batch.replace(mask=torch.ones_like(batch.latents[:, :1]))
    averages = [_like(p, schedule.eight_bit) for p in parameters for _ in range(2)]
    if phase == "pretrain":  # new pictures at every step
        batch = _prepare(model, schedule.micro or schedule.batch)
    batch = batch[torch.arange(schedule.batch) % len(batch)]
    noise = torch.randn_like(batch.latents)
    t = torch.zeros(schedule.batch, dtype=torch.long)
    accumulate(loss_function(model, schedule, parameters), batch, noise, t, schedule.micro)
    for_a_moment = [torch.zeros_like(p) for p in parameters]  # the denominators of Adam's step
    del for_a_moment
    gradients = [p.grad for p in parameters]
    return _bytes([*parameters, *gradients, *averages])


@torch.no_grad()
def _prepare(model: E4T, count: int) -> Batch:
    """As `train.prepare`, for pictures without numbers."""
    base = model.base
    pixels = torch.zeros(count, 3, base.resolution, base.resolution, dtype=base.dtype)
    ids = torch.full((count, base.tokenizer.model_max_length), model.placeholder.id)
    return Batch(base.encode(pixels), model.image_features(pixels), ids)


def _like(parameter: torch.Tensor, eight_bit: bool) -> torch.Tensor:
    return torch.zeros_like(parameter, dtype=torch.uint8 if eight_bit else None)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes_of_base(base: Base) -> int:
    parts = (base.unet, base.vae, base.text_encoder, base.vision)
    return sum(_bytes([*part.parameters(), *part.buffers()]) for part in parts)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still alive.

    now: of this moment; peak: the most at once.
    """

    def __init__(self):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())  # views share one
        self.peak = max(self.peak, self.now)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextmanager
def rehearsal() -> Iterator[LiveBytes]:
    """Inside, tensors have shapes, dtypes and lives, but no numbers and no memory.

    Gives the `LiveBytes` that counts them.
    """
    # parameters without memory cannot be moved, and need not be
    stay = mock.patch.object(torch.nn.Module, "to", lambda self, *args, **kwargs: self)
    # a number that is asked for, such as a loss to be printed, is 0
    number = mock.patch.object(torch.Tensor, "item", lambda self: 0.0)
    with stay, number, FakeTensorMode(), LiveBytes() as live:
        yield live
