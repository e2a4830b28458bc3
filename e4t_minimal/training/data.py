"""The drawn pictures that the toy models learn from, as tensors, and what is true of each."""

from dataclasses import dataclass

import numpy as np
import torch

from ..helpers.reading import parse_json
from ..world import DOMAINS, EXPRESSIONS, Identity, Scene, as_dataset
from ..world.scenery import BACKGROUNDS, STYLES

# How many pictures of each kind the models learn from: {(domain, split): pictures}
MIX = {(domain, split): 9000 for domain in DOMAINS for split in ("named", "train")}
PLAIN = 0.7  # share of large photos on plain backgrounds: there, the loss is about who it is
UNKNOWN = -100  # cross-entropy's word for "do not ask"


def _questions() -> dict[str, list[str]]:
    """{question about a picture: the words it can be answered with}."""
    questions = {
        "style": list(STYLES),
        "background": list(BACKGROUNDS),
        "expression": list(EXPRESSIONS),
        "size": ["large", "small"],
        "domain": list(DOMAINS),
    }
    for name, domain in DOMAINS.items():
        for attribute, words in domain.attributes.items():
            questions[f"{name}.{attribute}"] = list(words)
    return questions


QUESTIONS = _questions()


@dataclass(frozen=True)
class Pictures:
    """n drawn pictures, each with its caption and the truth about it."""

    images: np.ndarray  # (n, 64, 64, 3) uint8
    captions: list[str]
    identities: list[Identity]
    scenes: list[Scene]

    def __len__(self) -> int:
        return len(self.captions)

    def pixels(self, indices) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] of some of them."""
        chosen = torch.from_numpy(self.images[np.asarray(indices)])
        return chosen.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def answers(self) -> dict[str, torch.Tensor]:
        """{question: number of the true word (n,)}; UNKNOWN where the picture cannot show it."""
        truths = [truth(*pair) for pair in zip(self.identities, self.scenes, strict=True)]
        answers = {}
        for question, words in QUESTIONS.items():
            numbers = {word: i for i, word in enumerate(words)}
            found = [numbers.get(one.get(question), UNKNOWN) for one in truths]
            answers[question] = torch.tensor(found)
        return answers


def truth(identity: Identity, scene: Scene) -> dict[str, str]:
    """{question: word} for everything that a picture of an identity in a scene shows."""
    known = {
        "style": scene.style,
        "expression": scene.expression,
        "size": scene.size,
        "domain": identity.domain,
    }
    if scene.shows_background:
        known["background"] = scene.background
    for attribute, word in identity.visible.items():
        known[f"{identity.domain}.{attribute}"] = word
    return known


def pictures(domain: str, split: str, count: int, seed: int = 0, plain: float = PLAIN) -> Pictures:
    """The first `count` pictures of one domain and split, see `world.as_dataset`."""
    table = as_dataset(domain, split, count, seed, plain, num_proc=2 if count > 2000 else None)
    return Pictures(
        images=np.stack([np.asarray(image) for image in table["image"]]),
        captions=list(table["caption"]),
        identities=[Identity(**parse_json(text, "a row")) for text in table["identity"]],
        scenes=[Scene(**parse_json(text, "a row")) for text in table["scene"]],
    )


def training_pictures(mix: dict | None = None, seed: int = 2) -> Pictures:
    """All that the base, the tower and the judge learn from."""
    parts = [pictures(*kind, count, seed) for kind, count in (mix or MIX).items()]
    return Pictures(
        images=np.concatenate([part.images for part in parts]),
        captions=[text for part in parts for text in part.captions],
        identities=[one for part in parts for one in part.identities],
        scenes=[scene for part in parts for scene in part.scenes],
    )
