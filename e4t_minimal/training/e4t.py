"""E4T's phase 1 on one domain of the toy world: first the dictionary, then the paper's loss."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..base import load_base
from ..encoder import ENCODERS
from ..evaluation.gap import conditioning_gap
from ..helpers import checks
from ..helpers.runtime import check_device
from ..helpers.stored import check_target
from ..model import E4T, Batch
from ..offsets import OFFSETS, new_offsets
from ..train import PRETRAINING, parameter_groups, prepare
from ..train import fit as fit_phase
from ..world import DOMAINS, Scene, caption, draw, identity
from ..world.random_numbers import rng_of
from .data import Pictures, pictures
from .dictionary import DICTIONARY, fit_dictionary
from .hardware import autocast, bf16_is_faster, choose_attention, set_attention
from .progress import Progress, read_rows
from .tokenizer import name_tokens

VALIDATION_PEOPLE = 96
# pictures that the dictionary learns from, and the paper's loss in a short training
CELEBRITIES, STRANGERS = 8000, 6000

# Phase 1 on the toy: rates and pull were searched on validation faces, see docs/training-log.md.
TOY_PRETRAINING = PRETRAINING.replace(batch=24, lr=1e-4, offsets_lr=1e-4, weights={"l2": 0.001})


@dataclass(frozen=True)
class Recipe:
    """What is trained. All but domain, steps and seed is there for `ablations`."""

    domain: str = "face"
    steps: int = 3000  # of the paper's loss
    dictionary_steps: int = 1000
    seed: int = 0
    encoder: str = "e4t"  # one of ENCODERS
    offsets: str = "multiplicative"  # one of OFFSETS, or "none"
    blocks: int | None = None  # of the paper's encoder, see `EncoderConfig`
    s: float | None = None  # likewise
    lr: float = TOY_PRETRAINING.lr  # of the encoder in the paper's loss
    offsets_lr: float = TOY_PRETRAINING.offsets_lr  # likewise, of the offsets
    weights: dict[str, float] = field(default_factory=dict)  # other terms, or weights of terms

    def __post_init__(self):
        checks.choice("domain", self.domain, DOMAINS)
        checks.choice("encoder", self.encoder, ENCODERS)
        checks.choice("kind of offsets", self.offsets, ("none", *OFFSETS))
        checks.whole(0, checks.MANY, steps=self.steps, dictionary_steps=self.dictionary_steps)
        checks.number(0, 1, lr=self.lr, offsets_lr=self.offsets_lr)
        checks.number(0, 1e6, **self.weights)
        checks.seed(self.seed)

    @property
    def command(self) -> str:
        """What trains this again, together with the other choices in e4t.json."""
        return (
            f"python -m e4t_minimal.training e4t --domain {self.domain} --steps {self.steps} "
            f"--dictionary-steps {self.dictionary_steps} --seed {self.seed}"
        )

    @property
    def choices(self) -> dict:
        """What differs from the usual recipe, beside what the command says."""
        usual, said = Recipe(), {"domain", "steps", "dictionary_steps", "seed"}
        given = asdict(self).items()
        return {k: v for k, v in given if k not in said and v != getattr(usual, k)}

    @property
    def encoder_options(self) -> dict:
        given = {"blocks": self.blocks, "s": self.s}
        return {name: value for name, value in given.items() if value is not None}


def fit(
    folder: Path,
    domain: str = "face",
    resume: bool = False,
    device: str = "cpu",
    dictionary: Path | None = None,
    **choices,
) -> dict:
    """Train a domain's E4T into the folder: dictionary/, model/, log.jsonl. Returns the report.

    resume: go on from the folder's state, if there is one. dictionary: the folder of another
    training, whose dictionary takes the place of this one's. choices: see `Recipe`.
    """
    recipe = Recipe(domain, **choices)
    check_device(device)
    check_target(folder / "model")
    progress = Progress(folder, asdict(recipe), resume)
    torch.manual_seed(recipe.seed)
    base = load_base("toy", device=device)
    of_class, _ = ENCODERS[recipe.encoder]
    encoder = of_class.for_base(base, **recipe.encoder_options)
    offsets = new_offsets(base.unet, recipe.offsets)
    if dictionary:
        encoder = E4T.from_pretrained(dictionary / "dictionary", base).encoder
    model = E4T(base, domain, encoder=encoder, offsets=offsets)
    if progress.facts:
        set_attention(base.unet, progress.facts.attention)
    else:
        rows = read_rows(dictionary / "log.jsonl") if dictionary else []
        before = [row for row in rows if row["phase"] != "pretrain"]
        progress.begin(choose_attention(base.unet, device), bf16_is_faster(device), before)
    progress.rewrite_log()
    validation = _validation(model, domain)
    with autocast(device, progress.facts.half):
        if not dictionary and not progress.has_passed("dictionary"):
            if not progress.rows:
                progress.write("start", 0, gap=conditioning_gap(model, validation))
            _learn_dictionary(model, recipe, validation, progress)
            # so that `e4t evaluate --weights` can tell what the paper's loss adds
            model.save_pretrained(folder / "dictionary")
        _pretrain(model, recipe, validation, progress)
    made = {"command": recipe.command, "seed": recipe.seed, "seconds": progress.seconds}
    if recipe.choices:
        made["choices"] = recipe.choices
    model.save_pretrained(folder / "model", **made)
    return made | {"rows": progress.rows}


def _learn_dictionary(model: E4T, recipe: Recipe, validation: Batch, progress: Progress):
    if not recipe.dictionary_steps:
        return
    celebrities = pictures(recipe.domain, "named", CELEBRITIES, seed=1, plain=0.8)
    data, words = in_scenes(model, celebrities, seed=1), words_of(model, celebrities)
    schedule = DICTIONARY.replace(steps=recipe.dictionary_steps, seed=recipe.seed)
    state = progress.of("dictionary", model, schedule.steps)
    loop = fit_dictionary(model, data, words, schedule, state)
    for step in tqdm(loop, total=schedule.steps, desc="dictionary", mininterval=10):
        if (step.index + 1) % 250 == 0:
            gap = conditioning_gap(model, validation)
            progress.write("dictionary", step.index + 1, gap=gap, loss=step.losses["total"])


def _pretrain(model: E4T, recipe: Recipe, validation: Batch, progress: Progress):
    count = max(STRANGERS, 4 * recipe.steps)  # so many that it meets each six times at most
    strangers = pictures(recipe.domain, "train", count, seed=1, plain=0.5)
    schedule = TOY_PRETRAINING.replace(
        steps=recipe.steps,
        lr=recipe.lr,
        offsets_lr=recipe.offsets_lr,
        weights=TOY_PRETRAINING.weights | recipe.weights,
        seed=recipe.seed,
    )
    state = progress.of("pretrain", model, schedule.steps)
    data, groups = in_scenes(model, strangers, seed=1), parameter_groups(model, schedule)
    # as `train.pretrain`, and it can be stopped
    loop = fit_phase(model, data, schedule, groups, state=state)
    for step in tqdm(loop, total=schedule.steps, desc="pretrain", mininterval=10):
        if (step.index + 1) % 100 == 0:
            gap = conditioning_gap(model, validation)
            losses = {"loss": step.losses["total"], "l2": step.losses["l2"]}
            progress.write("pretrain", step.index + 1, gap=gap, **losses)


def in_scenes(model: E4T, data: Pictures, seed: int) -> Batch:
    """Prepared pictures whose captions call the subject S* and name the scene.

    What the caption says, S* need not explain.
    """
    token = model.placeholder.token
    prompts = [
        caption(*pair, rng_of("prompt", seed, i), token)
        for i, pair in enumerate(zip(data.identities, data.scenes, strict=True))
    ]
    return prepare(model, [Image.fromarray(image) for image in data.images], prompts)


def words_of(model: E4T, data: Pictures) -> torch.Tensor:
    """(n, D): the token embeddings of the names, also where the caption did not say the name."""
    tokens = name_tokens(model.placeholder.tokenizer, [one.name for one in data.identities])
    return model.base.text_encoder.get_input_embeddings().weight[torch.tensor(tokens)]


def _validation(model: E4T, domain: str) -> Batch:
    """People in the same plain scene: the gap is about who they are, and nothing else."""
    people = [identity(domain, "validation", i) for i in range(VALIDATION_PEOPLE)]
    images = [draw(one, Scene())[0] for one in people]
    token = model.placeholder.token
    return prepare(model, images, [caption(one, Scene(), subject=token) for one in people])
