"""S* that does not change with the noise: one embedding instead of an encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn

from ..base import Base
from ..encoder import ENCODERS
from ..helpers import checks
from ..model import E4T
from ..sample import start_noise


@dataclass(frozen=True)
class FixedEmbeddingConfig:
    """The width D of a word's embedding."""

    word_width: int

    def __post_init__(self):
        checks.whole(1, 2**16, word_width=self.word_width)


class FixedEmbedding(nn.Module):
    """No encoder at all: one learned offset, the same for every picture, noise and timestep.

    What Textual Inversion learns.
    """

    sees_noise = False

    def __init__(self, config: FixedEmbeddingConfig):
        super().__init__()
        self.config = config
        self.offset = nn.Parameter(torch.zeros(config.word_width))

    def forward(self, image_features: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """image_features (B, 0) -> the offset, B times (B, D)."""
        return self.offset.expand(len(image_features), -1)

    @classmethod
    def for_base(cls, base: Base) -> "FixedEmbedding":
        return cls(cls.config_for(base))

    @staticmethod
    def config_for(base: Base) -> FixedEmbeddingConfig:
        return FixedEmbeddingConfig(base.text_encoder.config.hidden_size)

    @staticmethod
    def image_features(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        """Nothing: (B, 0)."""
        return pixels.new_zeros(len(pixels), 0)


ENCODERS["word"] = (FixedEmbedding, FixedEmbeddingConfig)


@torch.no_grad()
def fixed_word(
    model: E4T, image: Image.Image | None = None, looks: int = 16, seed: int = 0
) -> torch.Tensor:
    """One v* (D,) for tools that cannot predict it anew at every step.

    The mean of v* over `looks` noisy versions of the picture, t spread evenly.
    """
    checks.whole(1, 1000, looks=looks)
    image = image or model.picture
    if image is None:
        raise ValueError(
            "There is no picture of the concept: give one, or export a concept that "
            "`e4t personalize` saved."
        )
    base, pixels = model.base, model.base.pixels([image])
    latents, image_features = base.encode(pixels), model.image_features(pixels)
    t = torch.linspace(0, base.scheduler.config.num_train_timesteps - 1, looks).long()
    words = []
    for one, noise in zip(t.to(base.device), start_noise(base, looks, seed), strict=True):
        z_t, _ = base.add_noise(latents, noise[None], one[None])
        v, _ = model.embedding(image_features, model.unet_features(z_t, one[None]))
        words.append(v)
    return torch.cat(words).mean(0)


@contextmanager
def fixed(model: E4T, image: Image.Image | None = None) -> Iterator[None]:
    """Inside, S* is `fixed_word` at every step: to see what predicting it anew is worth."""
    encoder, word = model.encoder, FixedEmbedding.for_base(model.base).to(model.base.device)
    with torch.no_grad():
        word.offset.copy_(fixed_word(model, image) - model.placeholder.class_embedding)
    model.encoder = word
    try:
        yield
    finally:
        model.encoder = encoder
