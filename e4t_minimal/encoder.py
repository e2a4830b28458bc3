"""Picture and noisy latent -> how far S* lies from the class word."""
from contextlib import contextmanager

import torch
from torch import nn


class Encoder(nn.Module):
    """E(image, z_t, t): the [CLS] tokens of the vision tower's layers and the pooled features of the U-Net's encoder half.

    CLIP side as the paper says it: one linear per layer, average over the layers, LeakyReLU. How the two sides are joined is our
    choice: next to each other, through two more layers. The last layer starts at zero, so S* starts as the class word (our choice).
    """

    def __init__(self, vision_width: int, vision_layers: int, unet_width: int, word_width: int, width: int = 256, s: float = 0.1):
        super().__init__()
        self.config = dict(vision_width=vision_width, vision_layers=vision_layers, unet_width=unet_width, word_width=word_width, width=width, s=s)
        self.s = s
        self.levels = nn.ModuleList(nn.Sequential(nn.LayerNorm(vision_width), nn.Linear(vision_width, width)) for _ in range(vision_layers))
        self.features = nn.Sequential(nn.LayerNorm(unet_width), nn.Linear(unet_width, width))
        self.act = nn.LeakyReLU(0.2)
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, word_width))
        nn.init.zeros_(self.join[-1].weight)
        nn.init.zeros_(self.join[-1].bias)

    def forward(self, cls_tokens: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """cls_tokens (B, L/2, vision width), unet_features (B, unet width) -> s * E, the offset of the embedding (B, D)."""
        levels = torch.stack([level(cls_tokens[:, i]) for i, level in enumerate(self.levels)])  # (L/2, B, width)
        seen = self.act(levels.mean(0))
        return self.s * self.join(torch.cat([seen, self.act(self.features(unet_features))], dim=-1))


class _Done(Exception):
    pass


@contextmanager
def unet_features(unet):
    """Collects, in the list it gives, the spatially averaged outputs of every down block and the mid block of each U-Net pass."""
    found = []
    blocks = [*unet.down_blocks, unet.mid_block]

    def keep(module, args, output):
        found.append((output[0] if isinstance(output, tuple) else output).mean(dim=(2, 3)))  # (B, C)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def feature_width(unet) -> int:
    """Numbers in the joined features: the channels of all down blocks and of the mid block."""
    return sum(unet.config.block_out_channels) + unet.config.block_out_channels[-1]


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
