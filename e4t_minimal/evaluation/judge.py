"""A small network that reads every attribute and every scene from a picture.

It has seen only pictures that rules have drawn, and trains nothing that it scores.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from .. import DATA
from ..helpers.pictures import square
from ..helpers.reading import check_alike, read_tensors
from ..world import DOMAINS, EXPRESSIONS, Identity
from ..world.scenery import BACKGROUNDS, STYLES

SIZE = 64  # pixels, height and width of what it reads


def _questions() -> dict[str, list[str]]:
    """{question: the words it can be answered with}."""
    questions = {
        "domain": list(DOMAINS),
        "style": list(STYLES),
        "background": list(BACKGROUNDS),
        "expression": list(EXPRESSIONS),
    }
    for name, domain in DOMAINS.items():
        for attribute, words in domain.attributes.items():
            questions[f"{name}.{attribute}"] = list(words)
    return questions


QUESTIONS = _questions()


class Judge(nn.Module):
    """A convolutional network that answers every one of QUESTIONS about a 64 x 64 picture."""

    def __init__(self, width: int = 32):
        super().__init__()
        convolutions = [  # (channels, stride)
            (width, 1),
            (2 * width, 2),
            (2 * width, 1),
            (4 * width, 2),
            (4 * width, 1),
            (4 * width, 2),
            (4 * width, 2),
        ]
        layers = []
        channels = 3
        for out, stride in convolutions:
            layers.append(nn.Conv2d(channels, out, 3, stride, padding=1))
            layers += [nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers += [nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels * 4 * 4, 256), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {_head(question): nn.Linear(256, len(words)) for question, words in QUESTIONS.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, 64, 64) in [-1, 1] -> {question: logits (B, words)}."""
        features = self.body(pixels)  # (B, 256)
        return {question: self.heads[_head(question)](features) for question in QUESTIONS}

    @torch.no_grad()
    def read(self, images: list[Image.Image]) -> list[dict[str, str]]:
        """PIL pictures of any size -> one {question: word} for each."""
        arrays = [torch.from_numpy(np.array(square(image, SIZE))) for image in images]
        pixels = torch.stack(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1  # (B, 3, 64, 64)
        readings = [{} for _ in images]
        for question, logits in self(pixels).items():
            for reading, number in zip(readings, logits.argmax(1).tolist(), strict=True):
                reading[question] = QUESTIONS[question][number]
        return readings

    def identify(self, image: Image.Image, domain: str) -> Identity:
        """Who a picture shows, taken for one of the domain."""
        reading = self.read([image])[0]
        attributes = {name: reading[f"{domain}.{name}"] for name in DOMAINS[domain].attributes}
        return Identity(domain, attributes)

    @classmethod
    def from_pretrained(cls, folder: str | Path = DATA / "judge") -> "Judge":
        """The shipped judge, or one trained by hand; ValueError if there is none in the folder."""
        path = Path(folder) / "model.safetensors"
        if not path.exists():
            raise ValueError(
                f"No judge at {folder}: model.safetensors not found. "
                "Train one with `python -m e4t_minimal.training judge`."
            )
        judge = cls().half()  # as it is stored; counters of batches stay whole numbers
        stored = read_tensors(path)
        check_alike(str(path), stored, judge.state_dict())
        judge.load_state_dict(stored)
        return judge.float().eval()


def _head(question: str) -> str:
    return question.replace(".", "_")  # a module's name has no dot
