"""Where in the picture each token of the prompt is read, from the cross-attention maps of a run."""

import torch
import torch.nn.functional as F

from ..model import E4T
from .names import base_of, matches


def tokens(model, prompt: str) -> list[str]:
    """The T tokens of a prompt as the text encoder reads them: beginning, words, end, padding.

    Their order is that of the tokens in `heat_maps`.
    """
    tokenizer = model.placeholder.tokenizer if isinstance(model, E4T) else model.tokenizer
    ids = tokenizer(
        prompt,
        padding="max_length",
        truncation=True,
        max_length=base_of(model).tokenizer.model_max_length,
    ).input_ids
    return tokenizer.convert_ids_to_tokens(ids)


def heat_maps(
    kept,
    size: int,
    names: str | tuple[str, ...] = "*attn2*.map",
    part: str = "cond",
    heads: slice | list[int] = slice(None),
    times: list[int] | None = None,
) -> torch.Tensor:
    """How strongly each place reads each token: (B, T, size, size), from a `Trace` with maps.

    As DAAM does it (Tang et al., 2022): each head's map is enlarged (bicubic, at least 0), then all
    are summed over heads, layers and timesteps. For square pictures; every token, also those of the
    prompt's beginning and end.
    part: "cond" or "uncond", see `Trace.of`. heads, times: only these (default: all).
    ValueError if no such map was kept.
    """
    heat = None
    for name in kept.kept:
        if not matches(name, names):
            continue
        for t, weights in kept.of(name, part).items():
            if times is None or t in times:
                enlarged = _enlarged(weights[:, heads], size)
                heat = enlarged if heat is None else heat + enlarged
    if heat is None:
        raise ValueError(
            f"No map was kept under {names!r} for {part!r} and these times; "
            "trace with names='*attn2*.map'."
        )
    return heat


def _enlarged(weights: torch.Tensor, size: int) -> torch.Tensor:
    """Maps (B, heads, N, T) -> (B, T, size, size), summed over the heads."""
    batch, heads, places, _ = weights.shape
    side = int(places**0.5)
    maps = weights.transpose(-1, -2).unflatten(-1, (side, side))  # (B, heads, T, side, side)
    large = F.interpolate(maps.flatten(0, 1), (size, size), mode="bicubic").clamp(min=0)
    return large.unflatten(0, (batch, heads)).sum(1)
