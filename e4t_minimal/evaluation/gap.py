"""How much a model hears: the loss when it is told wrong, beside the loss when it is told right."""

from collections.abc import Callable

import torch

from ..base import Base
from ..model import E4T, Batch


@torch.no_grad()
def relative_gap(base: Base, latents: torch.Tensor, loss: Callable, batch: int = 32) -> float:
    """(loss when told wrong - loss when told right) / loss when told right.

    Same noise, same timesteps, spread over all. loss(indices, others, noise, t) -> the mean loss of
    `latents[indices]` when the condition is that of `others`: themselves, or their neighbours.
    """
    count, g = len(latents), torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=g).to(latents)
    t = torch.linspace(0, base.scheduler.config.num_train_timesteps - 1, count).long()
    t = t[torch.randperm(count, generator=g)].to(latents.device)
    right = wrong = 0.0
    for indices in torch.arange(count).split(batch):
        neighbours = (indices + 1) % count
        noisy = (noise[indices], t[indices])
        right += float(loss(indices, indices, *noisy)) * len(indices)
        wrong += float(loss(indices, neighbours, *noisy)) * len(indices)
    return (wrong - right) / right


def conditioning_gap(model: E4T, data: Batch) -> float:
    """`relative_gap` with another identity's picture behind S*; `data`: one picture an identity.

    0: S* carries nothing of the identity.
    """

    def loss(indices, others, noise, t):
        features_of_others = data.image_features[others]
        return model.loss(data[indices], noise, t, {}, features_of_others)["diffusion"]

    return relative_gap(model.base, data.latents, loss)
