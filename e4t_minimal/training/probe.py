"""What a linear layer can find in the [CLS] tokens that E4T's encoder reads.

What it cannot find, the encoder's linear layers hardly can.
"""

import torch
from torch import nn
from tqdm.auto import trange

from ..base import load_base
from ..world import DOMAINS
from .data import UNKNOWN, Pictures, pictures

TRAINING_PICTURES, HELD_OUT_PICTURES = 3000, 400
STEPS = 400


def probe(base_name: str = "toy", device: str = "cpu") -> dict[str, dict[str, float]]:
    """{domain: {attribute: share of held-out pictures read right, "mean", "worst"}}.

    Logistic regression on the concatenated [CLS] tokens, from plain pictures of training identities
    to plain pictures of held-out ones.
    """
    base = load_base(base_name, device=device)
    report = {}
    for domain in DOMAINS:
        seen = pictures(domain, "train", TRAINING_PICTURES, seed=11, plain=1.0)
        unseen = pictures(domain, "held-out", HELD_OUT_PICTURES, seed=12, plain=1.0)
        features, held_features = _features(base, seen), _features(base, unseen)
        mean, std = features.mean(0), features.std(0) + 1e-6
        features, held_features = (features - mean) / std, (held_features - mean) / std
        answers, held_answers = seen.answers(), unseen.answers()
        scores = {}
        for attribute in trange(len(DOMAINS[domain].attributes), desc=f"probe, {domain}"):
            name = list(DOMAINS[domain].attributes)[attribute]
            question = f"{domain}.{name}"
            layer = _fit(features, answers[question], len(DOMAINS[domain].attributes[name]))
            known = held_answers[question] != UNKNOWN
            found = layer(held_features[known]).argmax(1) == held_answers[question][known]
            scores[name] = round(found.float().mean().item(), 3)
        worst, total = min(scores.values()), sum(scores.values())
        report[domain] = scores | {"mean": round(total / len(scores), 3), "worst": worst}
    return report


@torch.no_grad()
def _features(base, data: Pictures) -> torch.Tensor:
    """(n, L/2 * width): the [CLS] tokens next to each other."""
    found = []
    for indices in torch.arange(len(data)).split(128):
        tokens = base.cls_tokens(data.pixels(indices).to(base.device))
        found.append(tokens.flatten(1).float().cpu())
    return torch.cat(found)


def _fit(features: torch.Tensor, answers: torch.Tensor, words: int) -> nn.Linear:
    known = answers != UNKNOWN
    features, answers = features[known], answers[known]
    torch.manual_seed(0)
    layer = nn.Linear(features.shape[1], words)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(layer(features), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return layer
