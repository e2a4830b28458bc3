"""Picture and noisy latent -> how far S* lies from the class word."""

from contextlib import contextmanager

import torch
from torch import nn

from .base import Base


class Encoder(nn.Module):
    """E(image, z_t, t): the [CLS] tokens of the vision tower's layers and the pooled features of the U-Net's encoder half.

    CLIP side as the paper says it: one linear per layer, average over the layers, LeakyReLU. How the two sides are joined is our
    choice: next to each other, through two more layers. The last layer starts at zero, so S* starts as the class word (our choice).
    """

    sees_noise = True  # it wants the U-Net's features of z_t

    def __init__(
        self,
        vision_width: int,
        vision_layers: int,
        unet_width: int,
        word_width: int,
        width: int = 256,
        s: float = 0.1,
        blocks: int | None = None,
    ):
        super().__init__()
        self.config = dict(
            vision_width=vision_width,
            vision_layers=vision_layers,
            unet_width=unet_width,
            word_width=word_width,
            width=width,
            s=s,
            blocks=blocks,
        )
        self.s = s
        self.levels = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(vision_width), nn.Linear(vision_width, width))
            for _ in range(vision_layers)
        )
        self.features = nn.Sequential(nn.LayerNorm(unet_width), nn.Linear(unet_width, width))
        self.act = nn.LeakyReLU(0.2)
        self.join = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, word_width)
        )
        nn.init.zeros_(self.join[-1].weight)
        nn.init.zeros_(self.join[-1].bias)

    def forward(self, cls_tokens: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """cls_tokens (B, L/2, vision width), unet_features (B, at least unet width) -> s * E, the offset of the embedding (B, D)."""
        unet_features = unet_features[:, -self.config["unet_width"] :]
        levels = torch.stack(
            [level(cls_tokens[:, i]) for i, level in enumerate(self.levels)]
        )  # (L/2, B, width)
        seen = self.act(levels.mean(0))
        return self.s * self.join(torch.cat([seen, self.act(self.features(unet_features))], dim=-1))

    @classmethod
    def for_base(cls, base: Base, blocks: int | None = None, **options) -> "Encoder":
        """blocks: how many of the U-Net's blocks it sees, from the mid block upwards (default: all)."""
        vision, widths = base.vision.config, feature_widths(base.unet)
        seen = sum(widths[-(blocks or len(widths)) :])
        return cls(
            vision.hidden_size,
            vision.num_hidden_layers // 2,
            seen,
            base.text_encoder.config.hidden_size,
            blocks=blocks,
            **options,
        )

    @staticmethod
    def view(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        """What this encoder wants to see of pictures (B, 3, H, W): (B, L/2, vision width)."""
        return base.cls_tokens(pixels)


class ResNetEncoder(nn.Module):
    """Not E4T's, an alternative to measure: a ResNet-18 that starts from random weights and sees the picture alone."""

    sees_noise = False

    def __init__(self, word_width: int, s: float = 0.1):
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.config, self.s = dict(word_width=word_width, s=s), s
        self.body = ResNetModel(
            ResNetConfig(
                embedding_size=64,
                hidden_sizes=[64, 128, 256, 512],
                depths=[2, 2, 2, 2],
                layer_type="basic",
            )
        )
        self.out = nn.Linear(512, word_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, pixels: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> s * E (B, D)."""
        return self.s * self.out(self.body(pixels).pooler_output.flatten(1))

    @classmethod
    def for_base(cls, base: Base, **options) -> "ResNetEncoder":
        return cls(base.text_encoder.config.hidden_size, **options)

    @staticmethod
    def view(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


class Word(nn.Module):
    """No encoder at all: one learned vector, the same for every picture, noise and timestep. What Textual Inversion learns."""

    sees_noise = False

    def __init__(self, word_width: int):
        super().__init__()
        self.config = dict(word_width=word_width)
        self.offset = nn.Parameter(torch.zeros(word_width))

    def forward(self, nothing: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """(B, 0) -> the offset (B, D)."""
        return self.offset.expand(len(nothing), -1)

    @classmethod
    def for_base(cls, base: Base) -> "Word":
        return cls(base.text_encoder.config.hidden_size)

    @staticmethod
    def view(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.new_zeros(len(pixels), 0)


ENCODERS = {"e4t": Encoder, "resnet18": ResNetEncoder, "word": Word}


class _Done(Exception):
    pass


@contextmanager
def unet_features(unet):
    """Collects, in the list it gives, the spatially averaged outputs of every down block and the mid block of each U-Net pass."""
    found = []
    blocks = [*unet.down_blocks, unet.mid_block]

    def keep(module, args, output):
        found.append(
            (output[0] if isinstance(output, tuple) else output).mean(dim=(2, 3))
        )  # (B, C)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def feature_widths(unet) -> list[int]:
    """Numbers in the features of every block: the channels of the down blocks, then of the mid block."""
    return [*unet.config.block_out_channels, unet.config.block_out_channels[-1]]


@torch.no_grad()
def encoder_half(unet, z_t: torch.Tensor, t: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Features (B, unet width) of z_t (B, C, h, w) with text (B, T, D); the pass ends at the mid block, as nothing else is needed."""

    def stop(*_):
        raise _Done

    with unet_features(unet) as found:
        hook = unet.mid_block.register_forward_hook(stop)
        try:
            unet(z_t, t, hidden)
        except _Done:
            pass
        finally:
            hook.remove()
    return torch.cat(found, dim=-1)
