"""An observer's hooks in a model. They live only inside a `with` block.

Text encoder, U-Net and its blocks get forward hooks; attention layers another processor, if their
Q, K, V or map is asked for. The rest a `Base` and an `E4T` show themselves, through `Base.tap`;
for a stock pipeline, which does not, see stock.py.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch

from ..base import Base
from ..helpers.hooking import check_hookable
from .attention import observed_attention, observed_delta
from .names import PROJECTIONS, attention_layers, blocks
from .observer import Observer, change_first
from .stock import observed_pipeline, part_of_pipeline


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Inside, the observer sees its model at work.

    Observers may come and go in any order. ValueError for a model in which hooks do not work.
    """
    base = observer.base
    check_hookable(text_encoder=base.text_encoder, unet=base.unet)
    with ExitStack() as stack:
        for hook in _hooks(observer):
            stack.enter_context(hook)
        yield


def _hooks(observer: Observer) -> Iterator[AbstractContextManager]:
    """Contexts, each with one hook that is there while it is open."""
    base = observer.base
    yield _output_hook("text.hidden", base.text_encoder, observer)
    yield base.unet.register_forward_pre_hook(partial(_begin_pass, observer), with_kwargs=True)
    yield base.unet.register_forward_hook(partial(_end_pass, observer), always_call=True)
    if isinstance(base, Base):
        yield _tapped(base, observer)
    else:
        yield observed_pipeline(base, observer)
    for name, layer in attention_layers(base.unet).items():
        yield from _attention_hooks(name, layer, observer)
    for name, module in (blocks(base.unet) | attention_layers(base.unet)).items():
        if name in observer.wanted:
            yield _output_hook(name, module, observer)


def _output_hook(name: str, module: torch.nn.Module, observer: Observer) -> AbstractContextManager:
    def see(module, args, output):
        return change_first(output, partial(observer, name))

    return module.register_forward_hook(see)


def _attention_hooks(
    name: str, layer: torch.nn.Module, observer: Observer
) -> Iterator[AbstractContextManager]:
    if not observer.wanted.isdisjoint(f"{name}.{part}" for part in (*PROJECTIONS, "map")):
        yield observed_attention(name, layer, observer)
    for projection in PROJECTIONS:
        delta = f"{name}.{projection}.weight.delta"
        if delta in observer.wanted:
            yield observed_delta(delta, getattr(layer, projection), observer)


@contextmanager
def _tapped(base: Base, observer: Observer) -> Iterator[None]:
    base.taps.append(observer)
    try:
        yield
    finally:
        base.taps.remove(observer)


def _begin_pass(observer: Observer, unet: torch.nn.Module, args: tuple, kwargs: dict):
    z_t = args[0] if args else kwargs["sample"]
    t = args[1] if len(args) > 1 else kwargs["timestep"]
    base = observer.base
    if not isinstance(base, Base):
        part = part_of_pipeline(base)
    else:
        part = base.running[0] if base.running else None
    observer.begin_pass(z_t, torch.as_tensor(t), part)


def _end_pass(observer: Observer, unet: torch.nn.Module, args: tuple, output):
    observer.end_pass()
