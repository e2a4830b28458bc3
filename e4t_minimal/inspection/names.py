"""The names under which `trace` and `patch` know a model's tensors.

    text.hidden                   the prompts, as the text encoder says them
    unet.down.0, unet.mid, ...    output of a U-Net block
    unet.down.0.attn2             output of an attention layer: attn1 self-, attn2 cross-attention;
                                  attn2[0], attn2[1] where a block has several
      ... .to_q, .to_k, .to_v     its queries, keys and values
      ... .map                    softmax(Q K^T / sqrt(d))
      ... .to_q.weight.delta      Delta of the offset that hangs on a projection
    guidance.uncond, .cond        what the U-Net says to the empty prompt, and to the prompt
    guidance.prediction           both, guided
    latent[981], latent[end]      what the step at t = 981 starts from, and the result

With an `E4T` also:

    encoder.clip.cls[0], ...      what the encoder sees of the picture, level by level
    encoder.features              what it sees of the noisy latents
    encoder.offset                what it says: s E
    placeholder.embedding         v*
    loss.diffusion, loss.total    and every term between them

In a pattern, * stands for any text and ? for one character; a bracket is a bracket.
"""

import re
from fnmatch import fnmatchcase

import torch
from torch.nn.utils import parametrize

from ..base import Base
from ..model import E4T
from ..regularizers import TERMS

PROJECTIONS = ("to_q", "to_k", "to_v")
CLIP_LEVELS = "encoder.clip.cls"
OF_SAMPLING = (
    "guidance.uncond",
    "guidance.cond",
    "guidance.prediction",
    "latent[t]",
    "latent[end]",
)


# axes of the tensors, by the first pattern that fits; letters as in base.py, n x m a weight
AXES = {
    "*.delta": "n m",
    "*.attn1*.map": "B heads N N",
    "*.map": "B heads N T",
    "*.attn2*.to_[kv]": "B T C",
    "*.attn*": "B N C",
    "unet.*": "B C h w",
    "latent*": "B C h w",
    "guidance.*": "B C h w",
    "text.*": "B T D",
    "encoder.clip.*": "B width",
    "encoder.features": "B width",
    "encoder.*": "B D",
    "placeholder.*": "B D",
    "*": "",
}


def axes_of(name: str) -> list[str]:
    """What the axes of the tensor under a name are: ["B", "C", "h", "w"] for a block's output."""
    return next(axes.split() for pattern, axes in AXES.items() if fnmatchcase(name, pattern))


def matches(name: str, patterns: str | tuple[str, ...]) -> bool:
    if isinstance(patterns, str):
        patterns = (patterns,)
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def base_of(model):
    """The `Base` of an `E4T`; a `Base` or a diffusers pipeline is its own."""
    return model.base if isinstance(model, E4T) else model


def blocks(unet) -> dict[str, torch.nn.Module]:
    """{name: block} of the U-Net, in the order in which a picture passes them."""
    named = {f"unet.down.{i}": block for i, block in enumerate(unet.down_blocks)}
    named["unet.mid"] = unet.mid_block
    named |= {f"unet.up.{i}": block for i, block in enumerate(unet.up_blocks)}
    return named


def attention_layers(unet) -> dict[str, torch.nn.Module]:
    """{name: attention layer} (diffusers' `Attention`) of all blocks."""
    named = {}
    for block_name, block in blocks(unet).items():
        for kind in ("attn1", "attn2"):
            layers = [m for path, m in block.named_modules() if path.endswith(f".{kind}")]
            for i, layer in enumerate(layers):
                number = f"[{i}]" if len(layers) > 1 else ""
                named[f"{block_name}.{kind}{number}"] = layer
    return named


def side_of_places(places: int, latents: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an attention layer's N places, in a U-Net whose latents are (h, w).

    Every level of a U-Net halves both, and rounds up. ValueError if none has so many places.
    """
    height, width = latents
    while height * width > places:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != places:
        raise ValueError(
            f"{places} places belong to no level of a U-Net whose latents are {latents[0]} x "
            f"{latents[1]}: keep pictures of one shape in a trace."
        )
    return height, width


def names(model: E4T | Base) -> list[str]:
    """Every name that `trace` and `patch` know in an `E4T`, a `Base` or a diffusers pipeline.

    "latent[t]" stands for one name a timestep.
    """
    unet = base_of(model).unet
    known = ["text.hidden", *OF_SAMPLING, *blocks(unet)]
    for name, layer in attention_layers(unet).items():
        known += _names_of_layer(name, layer)
    if isinstance(model, E4T):
        known += _names_of_e4t(model)
    return known


def _names_of_layer(name: str, layer: torch.nn.Module) -> list[str]:
    known = [name, f"{name}.map"]
    for projection in PROJECTIONS:
        known.append(f"{name}.{projection}")
        if parametrize.is_parametrized(getattr(layer, projection), "weight"):
            known.append(f"{name}.{projection}.weight.delta")
    return known


def _names_of_e4t(model: E4T) -> list[str]:
    levels = getattr(model.encoder, "levels", ())  # not every encoder has them
    return [
        *(f"{CLIP_LEVELS}[{i}]" for i in range(len(levels))),
        "encoder.features",
        "encoder.offset",
        "placeholder.embedding",
        *(f"loss.{term}" for term in ("diffusion", *TERMS, "total")),
    ]


def check_patterns(model: E4T | Base, patterns: tuple[str, ...]):
    """ValueError for a pattern that fits none of the model's names."""
    known = names(model)
    for pattern in patterns:
        # which steps there are, the drawing decides
        of_a_step = re.fullmatch(r"latent\[[\d*?]+\]", pattern)
        if not of_a_step and not any(matches(name, pattern) for name in known):
            examples = ", ".join((known[0], known[1], known[6]))
            raise ValueError(
                f"Nothing here is called {pattern!r}; `names(model)` lists what is, "
                f"such as {examples}."
            )
