"""AdamW, with its two averages in 32 bits or in 8."""

import torch

from .checks import warn_of_overflow


def adamw(groups: list[dict], eight_bit: bool = False) -> torch.optim.Optimizer:
    """AdamW without weight decay; eight_bit: with its two averages in 8 bits (bitsandbytes)."""
    if not eight_bit:
        return torch.optim.AdamW(groups, weight_decay=0.0)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "8-bit Adam needs bitsandbytes, which is not installed: `pip install bitsandbytes`, "
            "or do without."
        ) from None
    return AdamW8bit(groups, weight_decay=0.0)


def step_scaled(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, index: int):
    """Take step `index`; if its scaled gradients are infinite it is left out, with a warning."""
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    if scaler.get_scale() < scale:
        warn_of_overflow(index)
