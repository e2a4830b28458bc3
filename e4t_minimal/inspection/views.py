"""What the widgets show, as plain functions that return a matplotlib figure: they need neither a notebook nor ipywidgets."""

from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image

from .. import DATA
from ..base import Base
from ..model import E4T
from ..inspection.plots import gallery, grid
from ..sample import sample
from ..inspection.trace import Trace
from ..train import personalize
from ..world import DOMAINS, Identity, Scene, draw


def plane(x: torch.Tensor, name: str, channel: int = 0, token: int = 0) -> torch.Tensor:
    """Two dimensions of one kept tensor, of its first picture: a channel (B C h w), what a head's places give one token (B heads N T), one number of
    every place (B N D), a prompt's tokens (B T D), a weight's change (n m), or a vector as one line."""
    if name.endswith(".delta"):
        return x
    if x.dim() < 3:
        return x.reshape(-1, x.shape[-1])[:1] if x.dim() else x.reshape(1, 1)
    x, side = x[0], int(x.shape[-2] ** 0.5)
    if name.endswith(".map"):
        return x[channel, :, token].unflatten(0, (side, -1))
    if x.dim() == 2:
        return (
            x
            if name == "text.hidden" or side**2 != x.shape[0]
            else x[:, channel].unflatten(0, (side, -1))
        )
    return x[channel]


def limits(x: torch.Tensor, name: str) -> tuple[int, int]:
    """(how many channels or heads, how many tokens) one can choose from in `plane`."""
    if name.endswith(".map"):
        return x.shape[1], x.shape[3]
    if x.dim() == 4:
        return x.shape[1], 1
    square = x.dim() == 3 and name != "text.hidden" and int(x.shape[1] ** 0.5) ** 2 == x.shape[1]
    return (x.shape[2] if square else 1), 1


def look(kept: Trace, name: str, call: int = 0, channel: int = 0, token: int = 0) -> Figure:
    """One tensor of a trace at one call: its heat map, the histogram of all its numbers, and its norm over all calls. ValueError for a name that was not kept."""
    found, calls = kept[name], kept.calls[name]
    shown, (t, part) = plane(found[call].float(), name, channel, token).cpu(), calls[call]
    figure = plt.figure(figsize=(9.5, 2.7), dpi=80, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    image = left.imshow(
        shown,
        aspect="equal" if shown.shape[0] == shown.shape[1] else "auto",
        interpolation="nearest",
    )
    figure.colorbar(image, ax=left, shrink=0.8)
    when = "" if t is None or isinstance(t, tuple) else f", t = {t}"
    left.set_title(fill(f"{name}{when}{f', {part}' if part else ''}", 32), fontsize=9)
    middle.hist(found[call].float().flatten().cpu().numpy(), bins=60, color="#c2410c")
    middle.set_title(f"its numbers, {tuple(found[call].shape)}", fontsize=9)
    for kind in dict.fromkeys(part for _, part in calls):
        rows = [i for i, (_, part) in enumerate(calls) if part == kind]
        right.plot(
            rows, [found[i].float().norm().item() for i in rows], marker=".", label=kind or "all"
        )
    right.axvline(call, color="#999999", linewidth=0.8)
    right.set_title("norm, call by call", fontsize=9)
    right.legend(fontsize=7)
    return figure


def avatar(one: Identity, scene: Scene = Scene()) -> Figure:
    """An identity of the toy world in a scene, its mask, and its caption. See `world.draw`."""
    image, text, mask = draw(one, scene)
    figure = grid([image, mask], ["the picture", "its mask"])
    figure.supxlabel(fill(text, 40), fontsize=8)
    return figure


def any_identity(domain: str, **attributes: str) -> Identity:
    """An identity from a few attributes, the first word of its list for every other; ValueError for an attribute or word that the domain has not."""
    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}; there are {', '.join(DOMAINS)}.")
    words = {attribute: list(options) for attribute, options in DOMAINS[domain].attributes.items()}
    for attribute, word in attributes.items():
        if word not in words.get(attribute, ()):
            raise ValueError(
                f"{domain} has no {attribute} = {word!r}; "
                + (
                    f"{attribute} is one of {', '.join(words[attribute])}."
                    if attribute in words
                    else f"its attributes are {', '.join(words)}."
                )
            )
    return Identity(
        domain,
        {attribute: attributes.get(attribute, options[0]) for attribute, options in words.items()},
    )


def learn(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    steps: int = 5,
    s: float | None = None,
    weights: str | Path = DATA / "e4t-face",
    progress=lambda step: None,
) -> E4T:
    """The domain's E4T, personalized on a picture. s: how far S* may lie from its class word (default: as trained); progress(step) after each step.
    If it breaks off, the base is as it was."""
    model = E4T.from_pretrained(weights, base)
    try:
        if s is not None:
            model.encoder.s = model.encoder.config["s"] = s
        for state in personalize(model, image, mask, steps=steps):
            progress(state["step"] + 1)
        return model
    except BaseException:
        model.detach()
        raise


def playground(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    steps: int = 5,
    s: float | None = None,
    prompt: str = "a photo of S* on the beach",
    guidance: float = 4.0,
    seed: int = 0,
    count: int = 3,
    weights: str | Path = DATA / "e4t-face",
    progress=lambda step: None,
) -> Figure:
    """Personalize on a picture and draw `count` pictures of the prompt beside it; see `learn`. The base is left as it was."""
    model = learn(base, image, mask, steps, s, weights, progress)
    try:
        return gallery(
            image,
            {
                f"{steps} steps": sample(
                    model, [prompt] * count, image, guidance=guidance, seed=seed
                )
            },
            [prompt] * count,
        )
    finally:
        model.detach()


def what_changed(
    base: Base,
    image: Image.Image,
    mask: Image.Image | None = None,
    prompts: list[str] = ("a photo of S*", "a photo of S* on the beach"),
    steps: int = 15,
    guidance: float = 4.0,
    seed: int = 0,
    weights: str | Path = DATA / "e4t-face",
    progress=lambda step: None,
) -> Figure:
    """The same noise three times: the base with the class word, the domain's E4T that has seen the picture, the E4T personalized on it."""
    how, rows, model = {"guidance": guidance, "seed": seed}, {}, E4T.from_pretrained(weights, base)
    try:
        word, token = f"a {model.placeholder.class_word}", model.placeholder.token
        rows["domain-tuned"] = sample(model, prompts, image, **how)
        model.detach()
        rows = {
            f"base: {word}": sample(base, [p.replace(token, word) for p in prompts], **how)
        } | rows
        model = learn(base, image, mask, steps, None, weights, progress)
        rows[f"personalized, {steps} steps"] = sample(model, prompts, image, **how)
    finally:
        model.detach()
    return gallery(image, rows, prompts)
