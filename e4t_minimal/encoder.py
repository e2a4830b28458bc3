"""Picture and noisy latent -> how far S* lies from the class word."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from .base import Base
from .helpers import checks


@dataclass(frozen=True)
class EncoderConfig:
    """Widths of what the encoder reads and writes, and its own; stored in e4t.json."""

    vision_width: int  # of a [CLS] token
    vision_layers: int  # L/2, how many [CLS] tokens: every second layer's
    unet_width: int  # of the U-Net's pooled features
    word_width: int  # D, of a word's embedding
    width: int = 256  # of the encoder's own layers (our choice)
    s: float = 0.1  # v* = v_class + s E (the paper's value)
    blocks: int | None = None  # how many U-Net blocks it sees, mid block first; None: all

    def __post_init__(self):
        widths = {name: value for name, value in vars(self).items() if "width" in name}
        checks.whole(1, 2**16, vision_layers=self.vision_layers, **widths)
        checks.number(0, 100, s=self.s)


class Encoder(nn.Module):
    """E(image, z_t, t), from the vision tower's [CLS] tokens and the U-Net's pooled features.

    CLIP side as in the paper: one linear layer per level, average over the levels, LeakyReLU.
    Our choices: each level is normalised first; the U-Net's side; the slope 0.2; both sides are
    joined through two more layers, of which the last starts at zero: S* starts as the class word.
    """

    sees_noise = True  # it wants the U-Net's features of z_t

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.levels = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.vision_width), nn.Linear(config.vision_width, width))
            for _ in range(config.vision_layers)
        )
        self.features = nn.Sequential(
            nn.LayerNorm(config.unet_width), nn.Linear(config.unet_width, width)
        )
        self.act = nn.LeakyReLU(0.2)
        self.join = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, config.word_width)
        )
        nn.init.zeros_(self.join[-1].weight)
        nn.init.zeros_(self.join[-1].bias)

    def forward(self, image_features: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """image_features (B, L/2, vision width), unet_features (B, all blocks) -> s * E (B, D)."""
        levels = [level(image_features[:, i]) for i, level in enumerate(self.levels)]
        image_side = self.act(torch.stack(levels).mean(0))  # (B, width)
        seen = unet_features[:, -self.config.unet_width :]  # all blocks, or the deepest
        noise_side = self.act(self.features(seen))  # (B, width)
        return self.config.s * self.join(torch.cat([image_side, noise_side], dim=-1))

    @classmethod
    def for_base(cls, base: Base, **options) -> "Encoder":
        """A new encoder with the widths of a base. options: width, s, blocks of `EncoderConfig`."""
        return cls(cls.config_for(base, **options))

    @staticmethod
    def config_for(base: Base, blocks: int | None = None, **options) -> EncoderConfig:
        """What an encoder has to read and write on a base."""
        widths = feature_widths(base.unet)
        if blocks is not None:
            checks.whole(1, len(widths), blocks=blocks)
        return EncoderConfig(
            vision_width=base.vision.config.hidden_size,
            vision_layers=base.vision.config.num_hidden_layers // 2,
            unet_width=sum(widths[-blocks:] if blocks else widths),
            word_width=base.text_encoder.config.hidden_size,
            blocks=blocks,
            **options,
        )

    @staticmethod
    def image_features(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        """What this encoder wants to see of pictures (B, 3, H, W): (B, L/2, vision width)."""
        return base.cls_tokens(pixels)


# {kind, as e4t.json says it: (class, class of its config)}; other modules add others
ENCODERS = {"e4t": (Encoder, EncoderConfig)}


def feature_widths(unet) -> list[int]:
    """Numbers in the features of every block: of the down blocks, then of the mid block."""
    channels = list(unet.config.block_out_channels)
    return [*channels, channels[-1]]


@contextmanager
def collect_features(unet) -> Iterator[list[torch.Tensor]]:
    """Collects what the U-Net's passes say, in the list that it gives.

    Each entry is the output of a down block or of the mid block, averaged over space: (B, C). These
    blocks are what re-implementations take; what the paper takes is not known to us.
    """
    collected = []

    def keep(module, args, output):
        tensor = output[0] if isinstance(output, tuple) else output  # (B, C, h, w)
        collected.append(tensor.mean(dim=(2, 3)))

    hooks = [block.register_forward_hook(keep) for block in (*unet.down_blocks, unet.mid_block)]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()


class _FeaturesComplete(Exception):
    """Thrown at the mid block: nothing behind it is needed."""


@torch.no_grad()
def encoder_half(
    base: Base, z_t: torch.Tensor, t: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """The U-Net's features (B, sum of widths) of z_t (B, C, h, w) with text hidden (B, T, D).

    Where there is no guidance; `sample` takes them from its pass with the empty prompt.
    """

    def stop(module, args, output):
        raise _FeaturesComplete

    with collect_features(base.unet) as collected:
        # hooks run in the order in which they were made: the mid block is collected, then it stops
        hook = base.unet.mid_block.register_forward_hook(stop)
        try:
            base.predict(z_t, t, hidden, "features")
        except _FeaturesComplete:
            pass
        finally:
            hook.remove()
    return torch.cat(collected, dim=-1)
