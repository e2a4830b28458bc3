"""How one knows that it worked: a judge that has seen only drawn pictures, and scores that it gives."""

import time
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from .. import DATA
from ..base import Base, square
from ..scaling.convert import fixed
from ..model import E4T
from ..sample import sample
from ..world.scenery import BACKGROUNDS, STYLES
from ..train import conditioning_gap, personalize, prepare
from ..world import DOMAINS, EXPRESSIONS, Identity, Scene, caption, draw, identity

PROMPTS = [  # (kind, prompt with {} for the subject, what the judge should find)
    ("plain", "a photo of {}", {"style": "photo"}),
    ("plain", "a photo of {} on a blue background", {"background": "blue"}),
    ("background", "a photo of {} on the beach", {"background": "beach"}),
    ("background", "a photo of {} in the forest", {"background": "forest"}),
    ("background", "a photo of {} in space", {"background": "space"}),
    ("style", "a pencil sketch of {}", {"style": "sketch"}),
    ("style", "pixel art of {}", {"style": "pixel"}),
    ("style", "a neon drawing of {}", {"style": "neon"}),
]
QUESTIONS = {
    "domain": list(DOMAINS),
    "style": list(STYLES),
    "background": list(BACKGROUNDS),
    "expression": list(EXPRESSIONS),
    **{
        f"{name}.{attribute}": list(words)
        for name, domain in DOMAINS.items()
        for attribute, words in domain.attributes.items()
    },
}


class Judge(nn.Module):
    """A small convolutional network that answers every one of QUESTIONS about a 64x64 picture. It trains nothing that it scores."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers, c = [], 3
        for out, stride in [
            (width, 1),
            (2 * width, 2),
            (2 * width, 1),
            (4 * width, 2),
            (4 * width, 1),
            (4 * width, 2),
            (4 * width, 2),
        ]:
            layers += [nn.Conv2d(c, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            c = out
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(c * 16, 256), nn.ReLU()
        )
        self.heads = nn.ModuleDict(
            {q.replace(".", "_"): nn.Linear(256, len(words)) for q, words in QUESTIONS.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, 64, 64) in [-1, 1] -> {question: logits (B, words)}."""
        seen = self.body(pixels)
        return {q: self.heads[q.replace(".", "_")](seen) for q in QUESTIONS}

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> list[dict[str, str]]:
        """PIL pictures -> one {question: word} each."""
        pixels = (
            torch.stack([torch.from_numpy(np.array(square(x, 64))) for x in images])
            .permute(0, 3, 1, 2)
            .float()
            / 127.5
            - 1
        )
        answers = {q: logits.argmax(1).tolist() for q, logits in self(pixels).items()}
        return [
            {q: QUESTIONS[q][found[i]] for q, found in answers.items()} for i in range(len(images))
        ]

    @classmethod
    def from_pretrained(cls, folder: str | Path = DATA / "judge") -> "Judge":
        path = Path(folder) / "model.safetensors"
        if not path.exists():
            raise ValueError(
                f"No judge at {folder}: model.safetensors not found. Train one with `python -m e4t_minimal.training judge`."
            )
        judge = cls()
        judge.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
        )
        return judge.eval()


def identity_score(reading: dict, one: Identity) -> float:
    """Share of the identity's visible attributes that the judge read right, 0..1."""
    return float(np.mean([reading[f"{one.domain}.{a}"] == word for a, word in one.visible.items()]))


def prompt_score(reading: dict, wanted: dict) -> float:
    """Share of what the prompt asked for that the judge found, 0..1."""
    return float(np.mean([reading[q] == word for q, word in wanted.items()]))


def interval(values, of=lambda mean: mean, seed: int = 0) -> dict:
    """`of` the mean of one number, or one row of numbers, per identity, with its 95 % bootstrap interval over identities."""
    values = np.asarray(values, float)  # (n,) or (n, k)
    rows = np.random.default_rng(seed).integers(len(values), size=(2000, len(values)))
    low, high = np.percentile(of(values[rows].mean(1).T), [2.5, 97.5])
    return {
        "mean": round(float(of(values.mean(0))), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def diversity(pictures: list[Image.Image]) -> float:
    """How much pictures of one prompt differ, 0..1: the root mean square difference of their pixels, averaged over all pairs (our choice)."""
    flat = np.stack([np.asarray(x, float).ravel() / 255 for x in pictures])
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(flat, 2)]))


def score(judge: Judge, pictures: list[Image.Image], one: Identity) -> dict[str, float]:
    """Scores of the pictures of PROMPTS, in their order: identity in photos (a sketch shows no colours), and prompt."""
    rows = [
        (kind, identity_score(reading, one), prompt_score(reading, wanted))
        for (kind, _, wanted), reading in zip(PROMPTS, judge.read(pictures))
    ]
    mean = lambda *kinds: float(np.mean([i for k, i, _ in rows if k in kinds]))  # noqa: E731
    return {
        "identity": mean("plain", "background"),
        "identity_plain": mean("plain"),
        "identity_background": mean("background"),
        "prompt": float(np.mean([p for *_, p in rows])),
    }


def look(
    model: Base | E4T,
    judge: Judge,
    one: Identity,
    image: Image.Image | None,
    subject: str,
    seed: int = 0,
    steps: int = 20,
) -> tuple[dict, list[Image.Image]]:
    """Draw PROMPTS and eight photos of the subject in `steps` denoising steps: (scores and the photos' diversity, the pictures of PROMPTS)."""
    prompts = [
        prompt.format(subject)
        for prompt in (*(prompt for _, prompt, _ in PROMPTS), *["a photo of {}"] * 8)
    ]
    pictures = sample(model, prompts, image, steps, seed=seed)
    asked, photos = pictures[: len(PROMPTS)], pictures[len(PROMPTS) :]
    return score(judge, asked, one) | {"diversity": diversity(photos)}, asked


def _summary(rows: list[dict], floor: list[dict], ceiling: list[float]) -> dict:
    """Every score's mean over people, and the normalised identity: (identity - floor) / (ceiling - floor), of the means."""
    return {key: interval([row[key] for row in rows]) for key in rows[0]} | {
        key.replace("identity", "normalised"): interval(
            [(row[key], low[key], top) for row, low, top in zip(rows, floor, ceiling)],
            of=lambda m: (m[0] - m[1]) / (m[2] - m[1]),
        )
        for key in rows[0]
        if key.startswith("identity")
    }


def floor_scores(
    base: Base,
    domain: str,
    identities: int,
    split: str = "held-out",
    seed: int = 0,
    progress=lambda text: None,
) -> list[dict]:
    """The floor, per person: scores of what the base draws for the class word alone, with the same noise as `evaluate`."""
    judge, out = Judge.from_pretrained(), []
    for i in range(identities):
        out.append(
            look(base, judge, identity(domain, split, i), None, f"a {domain}", seed + 100 * i)[0]
        )
        progress(f"a {domain}")
    return out


def evaluate(
    base: Base,
    weights: str | Path,
    domain: str,
    identities: int = 32,
    steps: tuple = (0, 5, 15),
    split: str = "held-out",
    seed: int = 0,
    progress=lambda text: None,
    fixed_embedding: bool = False,
    floor: list[dict] | None = None,
    **how,
) -> dict:
    """Everything that is known about a domain's E4T: floor, ceiling, gap, and scores and diversity per number of steps, as a JSON-able dict.

    The pictures are drawn on white, with the mask that the toy world knows. fixed_embedding: draw with one S*, see `convert.fixed`.
    floor: what `floor_scores` gave for these people, if it is known already. `how` goes to `personalize`.
    """
    judge, people = Judge.from_pretrained(), [identity(domain, split, i) for i in range(identities)]
    E4T.from_pretrained(
        weights, base
    ).detach()  # a wrong folder should be found now, not after the floor
    drawn = [draw(one, Scene()) for one in people]
    images = [image for image, _, _ in drawn]
    with torch.no_grad():
        rebuilt = base.decode(base.encode(base.pixels(images)))
    drawn_right, ceiling = (
        [identity_score(r, one) for r, one in zip(judge.read(ones), people)]
        for ones in (images, rebuilt)
    )
    report = {
        "domain": domain,
        "split": split,
        "identities": identities,
        "seed": seed,
        "fixed_embedding": fixed_embedding,
        **how,
        "judge": interval(drawn_right),
        "ceiling": interval(ceiling),
    }
    floor = floor or floor_scores(base, domain, identities, split, seed, progress)
    report["floor"] = _summary(floor, floor, ceiling)
    rows = {n: [] for n in steps}
    for i, (image, _, mask) in enumerate(drawn):
        model = E4T.from_pretrained(weights, base)
        if i == 0:
            report["gap"] = round(
                conditioning_gap(
                    model,
                    prepare(
                        model,
                        images,
                        [caption(o, Scene(), subject=model.placeholder.token) for o in people],
                    ),
                ),
                4,
            )
        loop, spent = personalize(model, image, mask, steps=max(steps), seed=seed, **how), 0.0
        for n in range(max(steps) + 1):
            if n > 0:
                start = time.perf_counter()
                next(loop)
                spent += time.perf_counter() - start
            if n in rows:
                with fixed(model, image) if fixed_embedding else nullcontext():
                    rows[n].append(
                        look(
                            model, judge, people[i], image, model.placeholder.token, seed + 100 * i
                        )[0]
                        | {"seconds": spent}
                    )
                progress(model.placeholder.token)
        model.detach()
    return report | {
        "steps": {str(n): _summary(found, floor, ceiling) for n, found in rows.items()}
    }
