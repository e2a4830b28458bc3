"""The vision tower goes on learning, by itself: what a picture shows must be in its [CLS] tokens.

The U-Net does not use the tower, so nothing else gets stale. E4T's encoder reads the [CLS] tokens
of every second layer, so every one of them is asked (the later ones with more weight).
"""

import torch
import torch.nn.functional as F

from ..base import load_base
from ..world import DOMAINS
from .captions import Readers
from .data import pictures, training_pictures
from .loop import Training, train

BATCH = 128
LEVEL_WEIGHTS = (0.2, 0.5, 1.0)  # of the [CLS] tokens of layers 2, 4, 6


def augment(pixels: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Pictures (B, 3, H, W), each a little larger or smaller, shifted, brighter or noisy."""
    count = len(pixels)
    change = 0.12 * (2 * torch.rand((3, count), generator=g) - 1)
    move = torch.zeros(count, 2, 3)
    move[:, 0, 0] = move[:, 1, 1] = 1 + change[0]
    move[:, 0, 2], move[:, 1, 2] = change[1], change[2]
    grid = F.affine_grid(move, pixels.shape, align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    brightness = 0.95 + 0.1 * torch.rand((count, 1, 1, 1), generator=g)
    return moved * brightness + 0.03 * torch.randn(pixels.shape, generator=g)


def fit(training: Training, lr: float = 5e-4, start: str = "toy") -> dict:
    """Train the tower of the base `start` into the folder's model/. Returns the report."""
    torch.manual_seed(training.seed)
    device = training.device
    base = load_base(start, device=device)
    tower = base.vision.requires_grad_(True)
    width = tower.config.hidden_size
    readers = torch.nn.ModuleList(Readers(width) for _ in LEVEL_WEIGHTS).to(device)
    data = training_pictures()
    answers = data.answers()
    held = {domain: pictures(domain, "held-out", 500, seed=5, plain=1.0) for domain in DOMAINS}

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        wanted = {question: found[indices].to(device) for question, found in answers.items()}
        levels = base.cls_tokens(augment(data.pixels(indices), g).to(device)).unbind(1)
        losses = [reader.loss(level, wanted) for reader, level in zip(readers, levels, strict=True)]
        return sum(weight * loss for weight, loss in zip(LEVEL_WEIGHTS, losses, strict=True))

    def check():
        numbers = {}
        for domain, unseen in held.items():
            last = base.cls_tokens(unseen.pixels(range(len(unseen))).to(device))[:, -1]
            shares = readers[-1].accuracies(last.cpu(), unseen.answers())
            of_domain = [share for name, share in shares.items() if name.startswith(domain)]
            numbers[f"{domain}, mean"] = sum(of_domain) / len(of_domain)
            numbers[f"{domain}, worst"] = min(of_domain)
        return numbers

    groups = [
        {"params": tower.parameters(), "lr": lr},
        {"params": readers.parameters(), "lr": 4 * lr},
    ]
    model = torch.nn.ModuleDict({"tower": tower, "readers": readers})
    report = train(model, groups, loss_of_step, training, check)
    tower.half().cpu().save_pretrained(training.folder / "model")
    return report
