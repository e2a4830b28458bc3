"""What one would do without E4T, behind its interface: the same base, picture, mask, batch, loss, sampling and judge; only what learns differs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..base import Base
from ..encoder import Word
from ..model import E4T
from ..sample import sample
from ..train import OTHER_BACKGROUNDS, OUTSIDE, T_MIN, prepare, show, tune

RARE = "x"  # DreamBooth's rare token: a word that the toy base has met in no caption


@dataclass(frozen=True)
class Method:
    """what: one line for tables. learns: {part: learning rate}, parts being encoder (or the one word in its place), offsets, unet, lora.

    factor: on these rates, what `e4t bench --search` found (docs/results/search-face.json). steps: how long the comparison runs it.
    pretrained: it starts from an E4T folder. subject: what stands for the concept in prompts. prior: it sees pictures of the class beside."""

    what: str
    learns: dict[str, float]
    factor: float = 1.0
    steps: int = 50
    pretrained: bool = False
    subject: str = "S*"
    prior: bool = False
    terms: tuple = ()  # further terms of the loss, (name, weight)


METHODS = {
    "E4T": Method(
        "encoder and folded offsets, from the domain's weights",
        {"encoder": 3e-4, "offsets": 6e-2},
        steps=15,
        pretrained=True,
        terms=(("l2", 0.1), ("outside", OUTSIDE)),
    ),
    "Textual Inversion": Method(
        "the embedding of S*, from the class word's", {"encoder": 1e-2}, 3.0, steps=100
    ),
    "DreamBooth": Method(
        "the whole U-Net, for a rare word; pictures of the class beside",
        {"unet": 1e-4},
        subject="S* {}",
        prior=True,
    ),
    "LoRA": Method(
        "rank 4 beside every attention projection, for a rare word",
        {"lora": 1e-3},
        3.0,
        subject="S* {}",
    ),
    "Textual Inversion + DreamBooth": Method(
        "both of them, S* from the class word's embedding",
        {"encoder": 1e-2, "unet": 1e-4},
        3.0,
        prior=True,
    ),
}


@contextmanager
def begin(
    method: Method, base: Base, class_word: str, folder: str | Path | None = None, seed: int = 0
) -> Iterator[E4T]:
    """The model as it is before the first step, all that learns ready; at the end the base is as it was. folder: for a pretrained method.
    seed: of LoRA's starting matrices."""
    model = (
        E4T.from_pretrained(folder, base)
        if method.pretrained
        else E4T(base, class_word, encoder=Word.for_base(base), offsets={})
    )
    if method.subject != "S*":  # S* is the rare word, beside the class word
        rare = base.tokenizer.convert_tokens_to_ids(f"{RARE}</w>")
        with torch.no_grad():
            model.encoder.offset.copy_(
                base.text_encoder.get_input_embeddings().weight[rare]
                - model.placeholder.class_embedding
            )
    before = (
        {name: p.clone() for name, p in base.unet.state_dict().items()}
        if "unet" in method.learns
        else None
    )
    try:
        if method.pretrained:
            model.fold()
        if "unet" in method.learns:
            base.unet.requires_grad_(True)
        if "lora" in method.learns:
            from peft import LoraConfig

            with torch.random.fork_rng(devices=[]):  # peft draws from torch's global generator
                torch.manual_seed(seed)
                base.unet.add_adapter(
                    LoraConfig(
                        r=4,
                        lora_alpha=4,
                        init_lora_weights="gaussian",
                        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
                    )
                )
        yield model
    finally:
        model.detach()
        if "lora" in method.learns:
            base.unet.unload_lora()
        if before:
            base.unet.load_state_dict(before)
        base.unet.zero_grad()
        base.unet.requires_grad_(False)


def learned(model: E4T, part: str) -> list[torch.nn.Parameter]:
    """The parameters of one part of what a method learns."""
    unet = model.base.unet
    return (
        model.parts()
        | {
            "unet": list(unet.parameters()),
            "lora": [p for name, p in unet.named_parameters() if "lora_" in name],
        }
    )[part]


def stored_bytes(method: Method, model: E4T) -> int:
    """What one concept takes on disk, in fp16."""
    return 2 * sum(p.numel() for part in method.learns for p in learned(model, part))


def class_pictures(
    base: Base, class_word: str, count: int = 64, seed: int = 1_000_000, steps: int = 20
) -> list[Image.Image]:
    """What the base draws for the class word alone, in `steps` denoising steps: DreamBooth's prior. Once per domain."""
    return sample(base, [f"a photo of a {class_word}"] * count, steps=steps, seed=seed)


def learn(
    method: Method,
    model: E4T,
    image: Image.Image,
    mask: Image.Image | None = None,
    prior: list[Image.Image] | None = None,
    steps: int = 100,
    batch: int = 16,
    factor: float | None = None,
    seed: int = 0,
) -> Iterator[dict]:
    """As `personalize`: teach the model one picture, and yield the locals of every step. factor: on the method's learning rates (default: its own).

    batch: rows of a step in all; with pictures of the class beside, half of the rows are theirs."""
    word = model.placeholder.class_word
    data = show(
        model,
        image,
        mask,
        f"a photo of {method.subject.format(word)}",
        OTHER_BACKGROUNDS if "outside" in dict(method.terms) else 0,
    )
    beside = (
        prepare(model, prior, [f"a photo of a {word}"] * len(prior), required=False)
        if method.prior
        else None
    )
    groups = [
        {"params": learned(model, part), "lr": lr * (method.factor if factor is None else factor)}
        for part, lr in method.learns.items()
    ]
    yield from tune(
        model,
        data,
        groups,
        steps,
        batch // 2 if method.prior else batch,
        dict(method.terms),
        seed,
        T_MIN,
        prior=beside,
    )
