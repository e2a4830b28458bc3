"""Where on the picture it is decided who somebody is: weights for the U-Net's loss.

Most of a picture's error is background, shared by everybody. What makes an identity, such as a
robot's antenna, is a few latents. Our choice; nothing of E4T.
"""

import torch

from ..world import DOMAINS
from ..world.scenery import PLAIN
from .data import Pictures

SHARE = 0.6  # of a weight that depends on the place; the rest is the same everywhere
LARGEST = 6.0  # of a place, beside the mean of 1


def importance(data: Pictures, latents: torch.Tensor) -> torch.Tensor:
    """Weights (n, h, w) with mean 1 for pictures with latents (n, C, h, w).

    A place counts as much as an attribute's words differ there, every attribute (and the
    expression) counting alike. Small pictures, whose subject is elsewhere, are weighted evenly.
    """
    weights = torch.ones(len(data), *latents.shape[-2:])
    for domain in dict.fromkeys(one.domain for one in data.identities):
        own = [i for i, one in enumerate(data.identities) if one.domain == domain]
        large = torch.tensor([i for i in own if data.scenes[i].size == "large"])
        plain = torch.tensor([i for i in large.tolist() if _is_plain(data.scenes[i])])
        place = _where_words_differ(data, plain, latents[plain].float(), domain)
        weight = 1 - SHARE + SHARE * place.clamp(max=LARGEST)
        weights[large] = weight / weight.mean()
    return weights


def _is_plain(scene) -> bool:
    return scene.style == "photo" and scene.background in PLAIN


def _where_words_differ(
    data: Pictures, indices: torch.Tensor, latents: torch.Tensor, domain: str
) -> torch.Tensor:
    """(h, w) with mean 1: variance between the words' mean pictures, averaged over attributes."""
    questions = ["expression", *(f"{domain}.{name}" for name in DOMAINS[domain].attributes)]
    answers = data.answers()
    places = []
    for question in questions:
        words = answers[question][indices]
        known = words >= 0
        mean = latents[known].mean(0)
        between = torch.zeros(latents.shape[-2:])
        for word in words[known].unique():
            mine = words == word
            difference = latents[mine].mean(0) - mean  # (C, h, w)
            between += mine.sum() * difference.square().sum(0)
        places.append(between / between.mean())
    return torch.stack(places).mean(0)
