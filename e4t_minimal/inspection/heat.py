"""Where in the picture each token of the prompt is read, from the cross-attention maps of a run."""

import torch
import torch.nn.functional as F

from ..model import E4T
from .names import base_of, matches, side_of_places


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

    size: height in pixels; the width is the picture's, of the same shape (size x size if square).

    As DAAM does it (Tang et al., 2022): each head's map is enlarged (bicubic, at least 0), then all
    are summed over heads, layers and all steps of the last drawing. Every token, also those of the
    prompt's beginning and end.
    part: "cond" or "uncond", see `Trace.of`. heads, times: only these (default: all).
    ValueError if no such map was kept.
    """
    heat = None
    for name in kept.kept:
        if not matches(name, names):
            continue
        for t, weights in kept.last_drawing(name, part):
            if times is None or t in times:
                enlarged = _enlarged(weights[:, heads], size, kept.latents)
                heat = enlarged if heat is None else heat + enlarged
    if heat is None:
        raise ValueError(
            f"No map was kept under {names!r} for {part!r} and these times; "
            "trace with names='*attn2*.map'."
        )
    return heat


def _enlarged(weights: torch.Tensor, size: int, latents: tuple[int, int]) -> torch.Tensor:
    """Maps (B, heads, N, T) -> (B, T, size, width), summed over the heads."""
    batch, heads, places, _ = weights.shape
    side = side_of_places(places, latents)
    maps = weights.transpose(-1, -2).unflatten(-1, side)  # (B, heads, T, *side)
    wanted = (size, round(size * latents[1] / latents[0]))
    large = F.interpolate(maps.flatten(0, 1), wanted, mode="bicubic").clamp(min=0)
    return large.unflatten(0, (batch, heads)).sum(1)
