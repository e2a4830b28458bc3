"""The two phases: one loop. Phase 2 has one picture and folded offsets. It learns at high noise
only, inside a mask, and holds what lies outside: see `PERSONALIZATION`.

Every training is a generator: nothing happens until you loop over it (`for step in pretrain(...)`).
It yields a `Step` after each optimizer step, so that you decide what to print, draw or stop.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image

from .base import Base
from .helpers import checks
from .helpers.optimizers import adamw, step_scaled
from .helpers.pictures import as_mask, mask_of, on_backgrounds, standardize
from .helpers.runtime import generator
from .model import E4T, Batch
from .regularizers import TERMS


@dataclass(frozen=True)
class Schedule:
    """How one phase trains."""

    steps: int
    batch: int  # pictures of a step; in phase 2 the same picture under so many noises
    lr: float  # AdamW's learning rate for the encoder
    offsets_lr: float  # and for the weight offsets
    weights: dict[str, float]  # {term of the loss: weight}, see `E4T.loss`
    t_min: int = 0  # the lowest timestep (of 1,000) that is learned at
    backgrounds: int = 0  # before how many others the subject is put, see `prepare_concept`
    seed: int = 0
    micro: int | None = None  # pictures at a time: same gradients, less memory; None: all at once
    eight_bit: bool = False  # AdamW's averages in 8 bits (needs bitsandbytes)

    def __post_init__(self):
        checks.whole(0, checks.MANY, steps=self.steps)
        micro = self.batch if self.micro is None else self.micro
        checks.whole(1, 2**16, batch=self.batch, micro=micro)
        checks.number(0, 1, lr=self.lr, offsets_lr=self.offsets_lr)
        checks.number(0, 1e6, **self.weights)
        object.__setattr__(self, "weights", dict(self.weights))  # shared with no other schedule
        checks.whole(0, 999, t_min=self.t_min, backgrounds=self.backgrounds)
        checks.seed(self.seed)

    def replace(self, **changes) -> "Schedule":
        return replace(self, **changes)


# Phase 1, as public re-implementations have it for Stable Diffusion (there for 30,000 steps and
# more). What the toy is trained with stands in `training.e4t`.
PRETRAINING = Schedule(steps=1000, batch=16, lr=1.6e-5, offsets_lr=1.6e-5, weights={"l2": 0.01})

# Phase 2. Our choices: rates found on the toy; high noise only (at less, the picture itself shows
# who it is); and the term "outside", which holds what the mask leaves out, with its backgrounds.
PERSONALIZATION = Schedule(
    steps=15,
    batch=16,
    lr=3e-4,
    offsets_lr=6e-2,
    weights={"l2": 0.1, "outside": 3.0},
    t_min=300,
    backgrounds=16,
)


@dataclass(frozen=True)
class Step:
    """What one optimizer step says of itself."""

    index: int  # 0 for the first
    losses: dict[str, float]  # {"diffusion", every term, "total"}


def pretrain(model: E4T, data: Batch, schedule: Schedule = PRETRAINING) -> Iterator[Step]:
    """Phase 1, on many pictures of one domain: encoder and offsets learn, the base is frozen."""
    yield from fit(model, data, schedule, parameter_groups(model, schedule))


def personalize(
    model: E4T,
    picture: Image.Image,
    schedule: Schedule = PERSONALIZATION,
    mask: Image.Image | None = None,
    prompt: str | None = None,
) -> Iterator[Step]:
    """Phase 2, on ONE picture: encoder and (folded) offsets go on learning together.

    mask: where the subject is ("L", white; the paper has one for faces); default: the picture's
    transparency; with neither, all of the picture is learned and nothing held.
    prompt: default "a photo of S*". Changes the model, and sets `model.picture`.
    """
    # without the outside term the other backgrounds have no purpose
    backgrounds = schedule.backgrounds if schedule.weights.get("outside") else 0
    data = prepare_concept(model, picture, mask, prompt, backgrounds)
    model.fold()
    yield from fit(model, data, schedule, parameter_groups(model, schedule))


def fit(
    model: E4T,
    data: Batch,
    schedule: Schedule,
    groups: list[dict],
    prior: Batch | None = None,
    state=None,
) -> Iterator[Step]:
    """The training loop on one device, of both phases and of every baseline.

    groups: AdamW's parameter groups, all that learns. prior: pictures of the class, learned beside
    (DreamBooth). In fp16 the loss is scaled, so that small gradients live. ValueError, with what
    learns as it was a step before, when loss or gradients are no longer finite.
    state: who keeps it on disk; load(optimizer) -> steps done, save(optimizer, steps done).
    """
    checks.whole_batch(TERMS, schedule)
    optimizer = adamw(groups, schedule.eight_bit)
    learned = [p for group in groups for p in group["params"]]
    loss = loss_function(model, schedule, learned)
    beside = schedule.replace(weights={}, seed=(schedule.seed + 1) % checks.SEED)
    loss_of_prior = loss_function(model, beside, [])
    half = model.base.dtype == torch.float16
    scaler = torch.amp.GradScaler(model.base.device.type, init_scale=2.0**10, enabled=half)

    def backward(value: torch.Tensor):
        scaler.scale(value).backward()

    first = state.load(optimizer) if state else 0
    for index in range(first, schedule.steps):
        model.encoder.train()
        optimizer.zero_grad()
        drawn = draw_batch(model, data, schedule, index)
        losses = accumulate(loss, *drawn, schedule.micro, backward)
        if prior is not None:
            drawn = draw_batch(model, prior, beside, index)
            losses["total"] += accumulate(loss_of_prior, *drawn, beside.micro, backward)["total"]
        model.encoder.eval()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(learned, 1.0)
        # in fp16, infinite gradients tell the scaler to leave the step out
        checks.still_finite(index, loss=losses["total"], gradients=0.0 if half else norm.item())
        step_scaled(scaler, optimizer, index)
        yield Step(index, losses)
        if state:  # after the caller's line in a log, so that none is missing when it goes on
            state.save(optimizer, index + 1)


def parameter_groups(model: E4T, schedule: Schedule) -> list[dict]:
    """AdamW's groups for encoder and offsets, each with its own learning rate."""
    parts = model.parts()
    return [
        {"params": parts["encoder"], "lr": schedule.lr},
        {"params": parts["offsets"], "lr": schedule.offsets_lr},
    ]


def loss_function(model: E4T, schedule: Schedule, learned: list[torch.nn.Parameter]) -> Callable:
    """loss(batch, noise, t) -> {name: scalar}, as `E4T.loss` gives it.

    For a term that needs it, a batch with a mask first gets the model's initial prediction.
    """
    terms = [TERMS.get(name) for name, weight in schedule.weights.items() if weight]
    needs_initial = any(getattr(term, "needs_initial", False) for term in terms)
    start = [p.detach().clone() for p in learned] if needs_initial else []

    def loss(batch: Batch, noise: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
        if needs_initial and batch.mask is not None:
            with torch.no_grad(), initial_values(learned, start), model.base.untapped():
                initial = model.predict(batch, noise, t).noise_prediction
            batch = batch.replace(initial=initial)
        return model.loss(batch, noise, t, schedule.weights)

    return loss


@contextmanager
def initial_values(
    parameters: list[torch.nn.Parameter], start: list[torch.Tensor]
) -> Iterator[None]:
    """Inside, the parameters are what they were at the `start`; afterwards as they are now."""
    now = [p.data for p in parameters]
    for p, value in zip(parameters, start, strict=True):
        p.data = value
    try:
        yield
    finally:
        for p, value in zip(parameters, now, strict=True):
            p.data = value


def accumulate(
    loss: Callable,
    batch: Batch,
    noise: torch.Tensor,
    t: torch.Tensor,
    micro: int | None = None,
    backward: Callable = torch.Tensor.backward,
    around: Callable = nullcontext,
) -> dict[str, float]:
    """Leave the gradients of a batch's loss in the parameters, `micro` pictures at a time.

    The same gradients with less memory. loss(batch, noise, t) -> {name: scalar} with a "total".
    around(): a context for all micro-batches but the last. Returns the losses of the whole batch.
    """
    means: dict[str, float] = {}
    parts = torch.arange(len(t)).split(micro or len(t))
    for number, indices in enumerate(parts, start=1):
        share = len(indices) / len(t)
        with nullcontext() if number == len(parts) else around():
            losses = loss(batch[indices], noise[indices], t[indices])
            backward(losses["total"] * share)
        for name, value in losses.items():
            means[name] = means.get(name, 0.0) + share * value.item()
    return means


def draw_batch(
    model: E4T, data: Batch, schedule: Schedule, index: int
) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Batch, noise (B, C, h, w) and timesteps (B,) of one step: a function of seed and index."""
    g = generator(schedule.seed, index)
    indices = torch.randint(len(data), (schedule.batch,), generator=g)
    noise, t = draw_noise(model.base, data.latents, schedule.batch, g, schedule.t_min)
    return data[indices.to(model.base.device)], noise, t


def draw_noise(
    base: Base, like: torch.Tensor, batch: int, g: torch.Generator, t_min: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (batch, C, h, w) and timesteps (batch,) from t_min up, spread evenly (our choice)."""
    end = base.scheduler.config.num_train_timesteps
    checks.whole(0, end - 1, t_min=t_min)
    noise = torch.randn((batch, *like.shape[1:]), generator=g)
    # one in each of `batch` equal parts, which makes small batches less noisy
    places = torch.arange(batch) + torch.rand(batch, generator=g)
    t = (t_min + places * (end - t_min) / batch).long()
    t = t.clamp(max=end - 1)  # in fp32, the end of the last part may be rounded up
    return noise.to(like), t.to(base.device)


@torch.no_grad()
def prepare(
    model: E4T,
    images: list[Image.Image],
    prompts: list[str],
    masks: list[Image.Image] | None = None,
    required: bool = True,
    at_once: int = 64,
) -> Batch:
    """Everything about pictures that does not change during training, computed once.

    required: every prompt must mention S*. at_once: pictures that go through the networks together.
    ValueError if there are not as many of each, or if a mask shows nothing of its picture.
    """
    prompts = checks.texts(prompts)
    checks.as_many(pictures=images, prompts=prompts, masks=masks)
    base = model.base
    latents, image_features = [], []
    for start in range(0, len(images), at_once):
        pixels = base.pixels(images[start : start + at_once])
        latents.append(base.encode(pixels).to(base.dtype))
        image_features.append(model.image_features(pixels).to(base.dtype))
    data = Batch(
        latents=torch.cat(latents),
        image_features=torch.cat(image_features),
        ids=model.placeholder.tokenize(prompts, required),
    )
    if masks is None:
        return data
    return data.replace(mask=_latent_masks(base, masks, data.latents.shape[-2:]))


def _latent_masks(base: Base, masks: list[Image.Image], size: tuple[int, int]) -> torch.Tensor:
    """Masks as PIL pictures -> (B, 1, h, w) in [0, 1]."""
    colored = [Image.merge("RGB", [as_mask(mask)] * 3) for mask in masks]
    whole = base.pixels(colored)[:, :1] / 2 + 0.5  # (B, 1, H, W)
    small = F.interpolate(whole, size, mode="area")
    if (small.mean(dim=(1, 2, 3)) < 1e-3).any():  # the loss divides by it
        raise ValueError(
            "A mask shows nothing in the middle square, which is all that the model sees. "
            "Crop picture and mask to the subject, or give no mask."
        )
    return small


def prepare_concept(
    model: E4T,
    image: Image.Image,
    mask: Image.Image | None = None,
    prompt: str | None = None,
    backgrounds: int = 0,
) -> Batch:
    """Make `image` the model's picture, and prepare it with its mask as a training set.

    backgrounds: with a mask, the subject before so many other backgrounds; the encoder goes on
    seeing the picture itself. ValueError if mask and picture are of different sizes.
    """
    image, _ = standardize(image)
    mask = mask_of(image, mask)
    prompt = prompt or f"a photo of {model.placeholder.token}"
    data = prepare(model, [image], [prompt], [mask] if mask else None)
    model.picture = image
    if not mask or not backgrounds:
        return data
    others = on_backgrounds(image, mask, backgrounds, model.base.resolution)
    with torch.no_grad():  # one by one: memory as for one picture
        latents = [model.base.encode(model.base.pixels([other])) for other in others]
    repeated = data[torch.zeros(backgrounds, dtype=torch.long, device=data.ids.device)]
    return repeated.replace(latents=torch.cat(latents).to(model.base.dtype))
