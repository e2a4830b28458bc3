"""The judge, trained on drawn pictures that are blurred, shifted in colour and noisy now and then, as samples are."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..evaluation.scores import QUESTIONS, Judge
from ..world import Identity, Scene
from ..training.data import pictures, to_tensor, training_pictures
from ..training.loop import train

UNKNOWN = -100  # cross-entropy's word for "do not ask"


def answers(data: dict) -> dict[str, torch.Tensor]:
    """{question: word number (n,)}, UNKNOWN where the picture cannot show it."""
    out = {q: [] for q in QUESTIONS}
    for who, where in zip(data["identities"], data["scenes"]):
        one, scene = Identity(**who), Scene(**where)
        truth = {
            "domain": one.domain,
            "style": scene.style,
            "expression": scene.expression,
            "background": scene.background if scene.shows_background else None,
            **{f"{one.domain}.{a}": word for a, word in one.visible.items()},
        }
        for q, words in QUESTIONS.items():
            out[q].append(words.index(truth[q]) if truth.get(q) else UNKNOWN)
    return {q: torch.tensor(rows) for q, rows in out.items()}


def degrade(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Half of the pictures (B, 3, H, W) blurred, all a little off in brightness and noisy."""
    blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.lerp(
        x,
        blurred,
        torch.rand((len(x), 1, 1, 1), generator=g)
        * (torch.rand((len(x), 1, 1, 1), generator=g) < 0.5),
    )
    x = x * (0.9 + 0.2 * torch.rand((len(x), 3, 1, 1), generator=g)) + 0.05 * torch.randn(
        (len(x), 3, 1, 1), generator=g
    )
    return x + 0.1 * torch.rand((len(x), 1, 1, 1), generator=g) * torch.randn(x.shape, generator=g)


def fit(
    folder,
    steps: int = 1500,
    batch: int = 96,
    lr: float = 2e-3,
    seed: int = 0,
    resume: bool = False,
):
    torch.manual_seed(seed)
    judge, data = Judge(), training_pictures()
    truth, images = answers(data), data["images"]
    held = {
        d: pictures(d, "held-out", 400, seed=3, plain=0.6) for d in ("face", "critter", "robot")
    }
    plain = {
        d: pictures(d, "held-out", 400, seed=4, plain=1.0) for d in ("face", "critter", "robot")
    }

    def loss_of_step(g, step):
        rows = torch.randint(len(images), (batch,), generator=g)
        logits = judge(degrade(to_tensor(images[rows.numpy()]), g))
        losses = [
            F.cross_entropy(logits[q].float(), truth[q][rows])
            for q in QUESTIONS
            if (truth[q][rows] != UNKNOWN).any()
        ]
        return torch.stack(losses).mean()

    def accuracies(which):
        right, asked = {}, {}
        for rows in which.values():
            logits, true = judge(to_tensor(rows["images"])), answers(rows)
            for q in QUESTIONS:
                known = true[q] != UNKNOWN
                right[q] = (
                    right.get(q, 0) + (logits[q].argmax(1)[known] == true[q][known]).sum().item()
                )
                asked[q] = asked.get(q, 0) + known.sum().item()
        return {q: right[q] / asked[q] for q in QUESTIONS}

    def check():
        found = accuracies(plain)
        return {
            d: sum(v for q, v in found.items() if q.startswith(d))
            / sum(q.startswith(d) for q in found)
            for d in held
        } | {"worst": min(found.values())}

    report = train(
        "judge",
        judge,
        [{"params": judge.parameters(), "lr": lr}],
        loss_of_step,
        steps,
        folder,
        seed,
        resume,
        check,
        250,
        decay=0.99,
    )
    judge.eval()
    with torch.no_grad():
        report["accuracy on plain pictures"] = {
            q: round(v, 3) for q, v in accuracies(plain).items()
        }
        report["accuracy in all scenes"] = {q: round(v, 3) for q, v in accuracies(held).items()}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()},
        folder / "model" / "model.safetensors",
    )
    return report | {
        "command": f"python -m e4t_minimal.training judge --steps {steps} --seed {seed}"
    }
