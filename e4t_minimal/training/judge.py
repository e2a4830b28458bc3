"""The judge, trained on drawn pictures, blurred and off in colour now and then as samples are."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..evaluation.judge import QUESTIONS, Judge
from ..helpers.files import replacing
from ..world import DOMAINS
from .data import UNKNOWN, Pictures, pictures, training_pictures
from .loop import Training, train

BATCH = 96


def degrade(pixels: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Half of the pictures (B, 3, H, W) blurred, all a little off in brightness, and noisy."""

    def one_each(*size: int) -> torch.Tensor:
        return torch.rand((len(pixels), *size, 1, 1), generator=g)

    blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    amount = one_each(1) * (one_each(1) < 0.5)
    pixels = torch.lerp(pixels, blurred, amount)
    pixels = pixels * (0.9 + 0.2 * one_each(3))
    pixels = pixels + 0.05 * torch.randn((len(pixels), 3, 1, 1), generator=g)
    return pixels + 0.1 * one_each(1) * torch.randn(pixels.shape, generator=g)


def accuracies(judge: Judge, sets: list[Pictures]) -> dict[str, float]:
    """{question: share of right answers}, over all pictures that can answer it."""
    right = dict.fromkeys(QUESTIONS, 0)
    asked = dict.fromkeys(QUESTIONS, 0)
    for data in sets:
        logits, answers = judge(data.pixels(range(len(data)))), data.answers()
        for question in QUESTIONS:
            known = answers[question] != UNKNOWN
            hits = logits[question].argmax(1)[known] == answers[question][known]
            right[question] += hits.sum().item()
            asked[question] += known.sum().item()
    return {question: right[question] / asked[question] for question in QUESTIONS}


def fit(training: Training, lr: float = 2e-3) -> dict:
    """Train the judge into the folder's model/. Returns the report."""
    torch.manual_seed(training.seed)
    judge, data = Judge(), training_pictures()
    answers = data.answers()
    in_scenes = [pictures(domain, "held-out", 400, seed=3, plain=0.6) for domain in DOMAINS]
    on_plain = [pictures(domain, "held-out", 400, seed=4, plain=1.0) for domain in DOMAINS]

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        logits = judge(degrade(data.pixels(indices), g))
        losses = []
        for question in QUESTIONS:
            wanted = answers[question][indices]
            if (wanted != UNKNOWN).any():
                losses.append(F.cross_entropy(logits[question].float(), wanted))
        return torch.stack(losses).mean()

    def check():
        found = accuracies(judge, on_plain)
        numbers = {"worst": min(found.values())}
        for domain in DOMAINS:
            of_domain = [share for name, share in found.items() if name.startswith(domain)]
            numbers[domain] = sum(of_domain) / len(of_domain)
        return numbers

    groups = [{"params": judge.parameters(), "lr": lr}]
    report = train(judge, groups, loss_of_step, training.replace(decay=0.99), check)
    with torch.no_grad():
        for title, sets in (("on plain pictures", on_plain), ("in all scenes", in_scenes)):
            found = accuracies(judge, sets)
            report[f"accuracy {title}"] = {name: round(share, 3) for name, share in found.items()}
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in judge.state_dict().items()
    }
    with replacing(training.folder / "model" / "model.safetensors") as new:
        save_file(weights, new)
    return report
