"""Will it fit? Peak memory and stored bytes of E4T on a base, found by rehearsing a training step with tensors that have shapes but no numbers.

What is counted: every tensor that is alive at the same time (weights, activations, gradients, optimizer). What is not: the workspace inside a
kernel, the allocator's rounding, the CUDA context (about half a GB on top, as a rule).
"""

import weakref
from contextlib import contextmanager
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..scaling.architectures import build
from ..model import E4T
from ..offsets import fold
from ..train import OUTSIDE, backward

PHASES = ("personalize", "pretrain")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still alive: `now`, and the most at once, `peak`."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def _free(self, key: int, size: int):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()  # views share one
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out


@contextmanager
def rehearsal():
    """Inside, tensors have shapes, dtypes and lives, but no numbers and no memory; gives the `LiveBytes` that counts them."""
    stay = mock.patch.object(
        torch.nn.Module, "to", lambda self, *args, **kwargs: self
    )  # such parameters cannot be moved, and need not be
    with stay, FakeTensorMode(), LiveBytes() as live:
        yield live


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@torch.no_grad()
def _prepare(model: E4T, count: int) -> dict:
    """As `train.prepare`, for pictures without numbers."""
    base = model.base
    pixels = torch.zeros(count, 3, base.resolution, base.resolution, dtype=base.dtype)
    latents, view = base.encode(pixels), model.encoder.view(base, pixels)
    ids = torch.full((count, base.tokenizer.model_max_length), model.placeholder.id)
    return {
        "latents": latents,
        "view": view,
        "ids": ids,
        "mask": latents.new_ones(count, 1, *latents.shape[-2:]),
    }


def plan(
    architecture: str | dict,
    phase: str = "personalize",
    batch: int = 16,
    micro: int | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float16,
    checkpointing: bool = True,
    eight_bit: bool = False,
    pictures: int = 1,
) -> dict:
    """Bytes for a training step of one phase on one device, without allocating them.

    architecture: see `architectures.build`. batch, micro: rows of a step on this device, and rows at a time. pictures: prepared at once in
    personalization (one). Returns base (frozen weights), trained (parameters, gradients, Adam), peak (of everything), and stored: a concept on disk,
    without its picture."""
    if phase not in PHASES:
        raise ValueError(f"There is no phase {phase!r}; choose one of {', '.join(PHASES)}.")
    if batch < 1 or (micro is not None and not 1 <= micro <= batch):
        raise ValueError(
            f"A batch of {batch} in parts of {micro}: both must be at least 1, and a part at most the batch."
        )
    dtype = (
        torch.bfloat16 if dtype == torch.float16 else dtype
    )  # as many bytes, and no loss scaling, which looks at numbers
    micro, batch = (
        micro or batch,
        min(batch, 2 * micro if micro else batch),
    )  # two parts show what a third would
    with rehearsal() as live:
        base = build(architecture, dtype=dtype, resolution=resolution)
        frozen = sum(
            _bytes([*part.parameters(), *part.buffers()])
            for part in (base.unet, base.vae, base.text_encoder, base.vision)
        )
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
        model = E4T(
            base, base.tokenizer.convert_ids_to_tokens(256).removesuffix("</w>")
        )  # some word
        if phase == "personalize":
            model.fold()
        trained = model.parameters()
        live.peak = live.now  # what came and went while the model was built does not count
        at_work = _prepare(model, pictures) if phase == "personalize" else None
        start = [p.detach().clone() for p in trained] if at_work else None  # for the term "outside"
        if at_work:
            at_work = {k: v.expand(batch, *v.shape[1:]).clone() for k, v in at_work.items()}
        state = [
            torch.zeros_like(p, dtype=torch.uint8 if eight_bit else None)
            for p in trained
            for _ in range(2)
        ]

        def step():
            data = at_work or {
                k: torch.cat([v] * (batch // micro + 1))[:batch]
                for k, v in _prepare(model, micro).items()
            }
            noise, t = torch.randn_like(data["latents"]), torch.zeros(batch, dtype=torch.long)
            backward(
                lambda some, *at: model.loss(
                    some | model.before(trained, start, some, *at),
                    *at,
                    {"l2": 0.1, "outside": OUTSIDE},
                ),
                data,
                noise,
                t,
                micro,
            )

        step()
        gradients = [p.grad for p in trained]
        temporary = [torch.zeros_like(p) for p in trained]  # Adam's denominators
        folded = fold(model.offsets)
        return {
            "phase": phase,
            "base": frozen,
            "trained": _bytes(trained) + _bytes(gradients) + _bytes(state),
            "peak": live.peak,
            "stored": 2 * sum(p.numel() for p in model.encoder.state_dict().values())
            + _bytes(p for offset in folded.values() for p in offset.parameters()),
            "offsets": _bytes(p for offset in folded.values() for p in offset.parameters()),
            "temporary": _bytes(temporary),
        }
