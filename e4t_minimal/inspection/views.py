"""What the widgets draw, as plain functions that return a matplotlib figure.

They need neither a notebook nor ipywidgets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image

from .. import DATA
from ..base import Base
from ..helpers import checks
from ..model import E4T
from ..sample import sample
from ..train import PERSONALIZATION, personalize
from ..world import DOMAINS, Identity, Scene, draw
from .names import axes_of, side_of_places
from .plots import gallery, grid
from .trace import Trace

PLAIN_SCENE = Scene()


def plane(
    x: torch.Tensor,
    name: str,
    channel: int = 0,
    token: int = 0,
    latents: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Two dimensions of one kept tensor, of its first picture.

    A channel (B C h w), what a head's places give one token (B heads N T), one number of every
    place (B N C), a prompt's tokens (B T D), a weight's change (n m), or a vector as one line.
    latents: (h, w) of the latents (`Trace.latents`), which says how N places lie; None: a square.
    """
    if name.endswith(".delta"):
        return x
    if x.dim() < 3:
        return x.reshape(-1, x.shape[-1])[:1] if x.dim() else x.reshape(1, 1)
    first = x[0]
    if name.endswith(".map"):
        return _as_picture(first[channel, :, token], latents)
    if first.dim() == 3:
        return first[channel]
    return _as_picture(first[:, channel], latents) if _has_places(x, name) else first


def limits(x: torch.Tensor, name: str) -> tuple[int, int]:
    """(how many channels or heads, how many tokens) one can choose from in `plane`."""
    if name.endswith(".map"):
        return x.shape[1], x.shape[3]
    if x.dim() == 4:
        return x.shape[1], 1
    return (x.shape[2] if _has_places(x, name) else 1), 1


def _has_places(x: torch.Tensor, name: str) -> bool:
    """Whether x (B, N, D) belongs to the N places of a picture, and not to T tokens."""
    return x.dim() == 3 and "N" in axes_of(name)


def _as_picture(x: torch.Tensor, latents: tuple[int, int] | None) -> torch.Tensor:
    """(N,) -> (height, width)."""
    side = math.isqrt(len(x))
    return x.unflatten(0, side_of_places(len(x), latents or (side, side)))


def plot_tensor(kept: Trace, name: str, call: int = 0, channel: int = 0, token: int = 0) -> Figure:
    """One tensor of a trace at one call, as a heat map; all its numbers; its norm over all calls.

    channel, token: see `plane`. ValueError for a name that was not kept.
    """
    numbers = kept[name][call].float().cpu()
    t, part = kept.calls[name][call]
    figure = plt.figure(figsize=(9.5, 2.7), dpi=80, layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)  # the labels of one beside those of the next
    left, middle, right = figure.subplots(1, 3)
    shown = plane(numbers, name, channel, token, kept.latents)
    aspect = "equal" if shown.shape[0] == shown.shape[1] else "auto"
    image = left.imshow(shown, aspect=aspect, interpolation="nearest")
    figure.colorbar(image, ax=left, shrink=0.8)
    title = [name]
    if isinstance(t, int):
        title.append(f"t = {t}")
    if part:
        title.append(part)
    left.set_title(fill(", ".join(title), 32), fontsize=9)
    middle.hist(numbers.flatten().numpy(), bins=60, color="#c2410c")
    middle.set_title(f"its numbers, {tuple(numbers.shape)}", fontsize=9)
    _plot_norms(right, kept, name)
    right.axvline(call, color="#999999", linewidth=0.8)
    return figure


def _plot_norms(axis, kept: Trace, name: str):
    """The tensor's norm at every call, a line for each part of the sampling."""
    parts = [part for _, part in kept.calls[name]]
    norms = [tensor.float().norm().item() for tensor in kept[name]]
    for part in dict.fromkeys(parts):
        calls = [i for i, of_call in enumerate(parts) if of_call == part]
        axis.plot(calls, [norms[i] for i in calls], marker=".", label=part or "all")
    axis.set_title("norm, call by call", fontsize=9)
    axis.legend(fontsize=7)


def avatar(one: Identity, scene: Scene = PLAIN_SCENE) -> Figure:
    """An identity of the toy world in a scene, its mask, and its caption. See `world.draw`."""
    image, text, mask = draw(one, scene)
    figure = grid([image, mask], ["the picture", "its mask"])
    figure.supxlabel(fill(text, 40), fontsize=8)
    return figure


def any_identity(domain: str, **attributes: str) -> Identity:
    """An identity from a few attributes, the first word of its list for every other.

    ValueError for a domain, attribute or word that there is not.
    """
    checks.choice("domain", domain, DOMAINS)
    first = {name: next(iter(words)) for name, words in DOMAINS[domain].attributes.items()}
    return Identity(domain, first | attributes)


@dataclass(frozen=True)
class Settings:
    """How a picture is learned, and what is then drawn."""

    prompts: tuple[str, ...] = ("a photo of S*", "a photo of S* on the beach")
    steps: int = 5  # of personalization
    s: float | None = None  # how far S* may lie from its class word; None: as trained
    guidance: float = 4.0
    seed: int = 0
    weights: str | Path = DATA / "e4t-face"  # the domain's E4T


FEW_STEPS = Settings()
AS_TRAINED = Settings(steps=PERSONALIZATION.steps)


def learn(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    settings: Settings = FEW_STEPS,
    progress: Callable[[int], None] | None = None,
) -> E4T:
    """The domain's E4T, personalized on a picture; progress(steps done) after each step.

    If it breaks off, the base is as it was.
    """
    model = E4T.from_pretrained(settings.weights, base)
    try:
        if settings.s is not None:
            model.encoder.config = replace(model.encoder.config, s=settings.s)
        schedule = PERSONALIZATION.replace(steps=settings.steps)
        for step in personalize(model, image, schedule, mask=mask):
            if progress is not None:
                progress(step.index + 1)
    except BaseException:
        model.detach()
        raise
    return model


def playground(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    settings: Settings = FEW_STEPS,
    progress: Callable[[int], None] | None = None,
) -> Figure:
    """Personalize on a picture and draw the prompts beside it; see `learn`.

    The base is left as it was.
    """
    model = learn(base, image, mask, settings, progress)
    try:
        drawn = _draw_prompts(model, image, settings)
    finally:
        model.detach()
    return gallery(image, {f"{settings.steps} steps": drawn}, settings.prompts)


def what_changed(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    settings: Settings = AS_TRAINED,
    progress: Callable[[int], None] | None = None,
) -> Figure:
    """The same noise three times: base, domain's E4T, personalized E4T.

    The base draws the class word; the domain's E4T has seen the picture, and the personalized one
    has learned it. The base is left as it was.
    """
    model = E4T.from_pretrained(settings.weights, base)
    try:
        of_domain = _draw_prompts(model, image, settings)
    finally:
        model.detach()
    word = f"a {model.placeholder.class_word}"
    token = model.placeholder.token
    without = replace(settings, prompts=tuple(p.replace(token, word) for p in settings.prompts))
    of_base = _draw_prompts(base, None, without)
    model = learn(base, image, mask, settings, progress)
    try:
        personalized = _draw_prompts(model, image, settings)
    finally:
        model.detach()
    results = {
        f"base: {word}": of_base,
        "domain-tuned": of_domain,
        f"personalized, {settings.steps} steps": personalized,
    }
    return gallery(image, results, settings.prompts)


def _draw_prompts(
    model: Base | E4T, image: Image.Image | None, settings: Settings
) -> list[Image.Image]:
    return sample(model, settings.prompts, image, guidance=settings.guidance, seed=settings.seed)
