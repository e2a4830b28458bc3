"""What one would do without E4T, behind one interface.

All methods have the same base, picture, mask, size of batch, diffusion loss, timesteps, sampling
and judge. They differ in what learns (`Method.learns`), at which rate and for how many steps. And
E4T alone has two more terms of the loss: L2 on the length of S*'s offset, and the term that holds
what lies outside the mask, for which its subject is put before 16 other backgrounds. The second can
be given to every method: `method.replace(holds_background=True)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from ..base import Base
from ..model import E4T
from ..sample import sample
from ..scaling.fixed import FixedEmbedding
from ..train import PERSONALIZATION, Schedule, Step, fit, prepare, prepare_concept

RARE = "x"  # DreamBooth's rare token: a word that the toy base has met in no caption
LORA_RANK = 4


@dataclass(frozen=True)
class Method:
    """One way to learn a concept from a picture.

    The rates are those of `learns` times `factor`; see docs/results/search-face.json.
    """

    what: str  # one line for tables
    # {"encoder" (or the one vector in its place), "offsets", "unet" or "lora": its rate}
    learns: dict[str, float]
    factor: float = 1.0  # on the rates: what `e4t bench --search` found
    steps: int = 50  # how long the comparison runs it
    pretrained: bool = False  # it starts from an E4T folder
    subject: str = "S*"  # what stands for the concept in prompts; {} is the class word
    prior: bool = False  # it sees pictures of the class beside
    terms: dict[str, float] = field(default_factory=dict)  # {further term of the loss: weight}
    holds_background: bool = False  # it has the term "outside", before other backgrounds
    source: str = ""  # "path.py:Class" of a method that is somebody's own; see `own`
    sha256: str = ""  # of that file

    def replace(self, **changes) -> "Method":
        return replace(self, **changes)

    @property
    def schedule(self) -> Schedule:
        """PERSONALIZATION, with the steps and the terms of the loss that are the method's."""
        if not self.holds_background:
            return PERSONALIZATION.replace(steps=self.steps, weights=self.terms, backgrounds=0)
        outside = {"outside": PERSONALIZATION.weights["outside"]}
        return PERSONALIZATION.replace(steps=self.steps, weights=self.terms | outside)


METHODS = {
    "E4T": Method(
        "encoder and folded offsets, from the domain's weights",
        {"encoder": PERSONALIZATION.lr, "offsets": PERSONALIZATION.offsets_lr},
        steps=15,
        pretrained=True,
        terms={"l2": PERSONALIZATION.weights["l2"]},
        holds_background=True,
    ),
    "Textual Inversion": Method(
        "the embedding of S*, from the class word's",
        {"encoder": 1e-2},
        factor=3.0,
        steps=100,
    ),
    "DreamBooth": Method(
        "the whole U-Net, for a rare word; pictures of the class beside",
        {"unet": 1e-4},
        factor=3.0,
        subject="S* {}",
        prior=True,
    ),
    "LoRA": Method(
        "rank 4 beside every attention projection, for a rare word",
        {"lora": 1e-3},
        factor=3.0,
        subject="S* {}",
    ),
    "Textual Inversion + DreamBooth": Method(
        "both of them, S* from the class word's embedding",
        {"encoder": 1e-2, "unet": 1e-4},
        prior=True,
    ),
}


@contextmanager
def model_for(
    method: Method, base: Base, class_word: str, folder: str | Path | None = None, seed: int = 0
) -> Iterator[E4T]:
    """The model as it is before a method's first step; at the end the base is as it was.

    folder: the E4T of a pretrained method. seed: of LoRA's starting matrices.
    """
    if method.pretrained:
        if folder is None:
            raise ValueError("This method starts from pretrained weights: give their `folder`.")
        model = E4T.from_pretrained(folder, base)
    else:
        model = E4T(base, class_word, encoder=FixedEmbedding.for_base(base), offsets={})
    try:
        model.fold()
        model.encoder.requires_grad_("encoder" in method.learns)  # no gradient for nothing
        if method.subject != "S*":
            _start_at_rare_word(model)
        with _whole_unet(base, method), _lora(base, method, seed):
            yield model
    finally:
        model.detach()


@torch.no_grad()
def _start_at_rare_word(model: E4T):
    """Make S* the rare word, which stands beside the class word."""
    base = model.base
    rare = base.tokenizer.convert_tokens_to_ids(f"{RARE}</w>")
    embedding = base.text_encoder.get_input_embeddings().weight[rare]
    model.encoder.offset.copy_(embedding - model.placeholder.class_embedding)


@contextmanager
def _whole_unet(base: Base, method: Method) -> Iterator[None]:
    """Inside, the U-Net itself may learn, if the method wants it; afterwards it is as it was."""
    if "unet" not in method.learns:
        yield
        return
    start = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    base.unet.requires_grad_(True)
    try:
        yield
    finally:
        base.unet.load_state_dict(start)
        base.unet.zero_grad()
        base.unet.requires_grad_(False)


@contextmanager
def _lora(base: Base, method: Method, seed: int) -> Iterator[None]:
    """Inside, the attention has LoRA matrices, if the method wants them."""
    if "lora" not in method.learns:
        yield
        return
    from peft import LoraConfig

    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_RANK,
        init_lora_weights="gaussian",
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from torch's global generator
        torch.manual_seed(seed)
        base.unet.add_adapter(config)
    try:
        yield
    finally:
        base.unet.unload_lora()


def parameters_of(model: E4T, part: str) -> list[torch.nn.Parameter]:
    """One part of what a method learns: "encoder", "offsets", "unet" or "lora"."""
    unet = model.base.unet
    if part == "unet":
        return list(unet.parameters())
    if part == "lora":
        return [p for name, p in unet.named_parameters() if "lora_" in name]
    return model.parts()[part]


def stored_bytes(method: Method, model: E4T) -> int:
    """What one concept takes, two bytes a number (E4T's own files keep the offsets in fp32)."""
    parameters = [p for part in method.learns for p in parameters_of(model, part)]
    return 2 * sum(p.numel() for p in parameters)


def class_pictures(
    base: Base, class_word: str, count: int = 64, seed: int = 1_000_000, steps: int = 10
) -> list[Image.Image]:
    """DreamBooth's prior, once for a domain: what the base draws for the class word alone."""
    return sample(base, [f"a photo of a {class_word}"] * count, steps=steps, seed=seed)


def personalize_with(
    method: Method,
    model: E4T,
    image: Image.Image,
    mask: Image.Image | None = None,
    prior: list[Image.Image] | None = None,
    schedule: Schedule | None = None,
) -> Iterator[Step]:
    """As `personalize`, with any method: teach the model one picture.

    prior: pictures of the class, for a method that wants them; half of a step's batch is then
    theirs. schedule: default `method.schedule`. The learning rates are always the method's own.
    """
    schedule = schedule or method.schedule
    class_word = model.placeholder.class_word
    prompt = f"a photo of {method.subject.format(class_word)}"
    data = prepare_concept(model, image, mask, prompt, schedule.backgrounds)
    beside = None
    if method.prior:
        if not prior:
            raise ValueError(
                "This method learns pictures of the class beside: give them as `prior`, such as "
                "`class_pictures(base, class_word)`."
            )
        prompts = [f"a photo of a {class_word}"] * len(prior)
        beside = prepare(model, prior, prompts, required=False)
        schedule = schedule.replace(batch=schedule.batch // 2)
    groups = [
        {"params": parameters_of(model, part), "lr": rate * method.factor}
        for part, rate in method.learns.items()
    ]
    yield from fit(model, data, schedule, groups, prior=beside)
