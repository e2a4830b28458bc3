"""The two phases, as generators that yield their locals: they differ only in data, learning rate, weight of the L2 term and steps."""

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .base import Base, generator, square, transparency
from .model import E4T

T_MIN = 300  # of 1,000: the lowest timestep that one picture is learned at
OUTSIDE, OTHER_BACKGROUNDS = (
    3.0,
    16,
)  # weight of what happens outside the mask, and how many backgrounds it is asked about; see `personalize`


@torch.no_grad()
def prepare(
    model: E4T,
    images: list[Image.Image],
    prompts: list[str],
    masks: list[Image.Image] | None = None,
    batch: int = 64,
    required: bool = True,
) -> dict:
    """Everything about pictures that does not change during training, computed once. required: every prompt must mention S*.

    Returns latents (n, C, h, w), view (n, ...): what the encoder sees, ids (n, T), mask (n, 1, h, w) in [0, 1] or None.
    """
    base, latents, views = model.base, [], []
    for i in range(0, len(images), batch):
        pixels = base.pixels(images[i : i + batch])
        latents.append(base.encode(pixels).to(base.dtype))
        views.append(model.encoder.view(base, pixels).to(base.dtype))
    data = {
        "latents": torch.cat(latents),
        "view": torch.cat(views),
        "ids": model.placeholder.tokenize(prompts, required),
        "mask": None,
    }
    if masks is not None:
        whole = (
            base.pixels([Image.merge("RGB", [m.convert("L")] * 3) for m in masks])[:, :1] / 2 + 0.5
        )
        data["mask"] = F.interpolate(whole, data["latents"].shape[-2:], mode="area")
        if (data["mask"].mean(dim=(1, 2, 3)) < 1e-3).any():  # the loss divides by it
            raise ValueError(
                "A mask shows nothing in the middle square, which is all that the model sees. Crop picture and mask to the subject, or give no mask."
            )
    return data


def select(data: dict, rows: torch.Tensor) -> dict:
    return {k: v if v is None else v[rows] for k, v in data.items()}


def _draw(
    model: E4T, data: dict, batch: int, seed: int, step: int, t_min: int = 0
) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """The batch of one step: rows, noise and timesteps."""
    g = generator(seed, step)
    rows = torch.randint(len(data["latents"]), (batch,), generator=g)
    return select(data, rows.to(model.base.device)), *draw_noise(
        model.base, data["latents"], batch, g, t_min
    )


def draw_noise(
    base: Base, like: torch.Tensor, batch: int, g: torch.Generator, t_min: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (batch, C, h, w) and timesteps (batch,) from t_min up, spread evenly, which makes small batches less noisy (our choice)."""
    last = base.scheduler.config.num_train_timesteps
    noise = torch.randn((batch, *like.shape[1:]), generator=g)
    t = (
        t_min + (torch.arange(batch) + torch.rand(batch, generator=g)) * (last - t_min) / batch
    ).long()
    return noise.to(like), t.to(base.device)


@torch.no_grad()
def relative_gap(base: Base, latents: torch.Tensor, loss, batch: int = 32) -> float:
    """(loss when told it is somebody else - loss when told right) / loss when told right; same noise, same timesteps, spread over all.

    loss(rows, others, noise, t) -> mean loss of `latents[rows]` when the condition is that of `others`, their neighbours or themselves."""
    n, g = len(latents), torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=g).to(latents)
    t = (
        torch.linspace(0, base.scheduler.config.num_train_timesteps - 1, n)
        .long()[torch.randperm(n, generator=g)]
        .to(latents.device)
    )
    right = wrong = 0.0
    for rows in torch.arange(n).split(batch):
        right += float(loss(rows, rows, noise[rows], t[rows])) * len(rows)
        wrong += float(loss(rows, (rows + 1) % n, noise[rows], t[rows])) * len(rows)
    return (wrong - right) / right


def conditioning_gap(model: E4T, data: dict) -> float:
    """`relative_gap` with another identity's picture behind S*. 0: S* carries nothing of the identity. One row per identity."""
    return relative_gap(
        model.base,
        data["latents"],
        lambda rows, others, noise, t: model.loss(
            select(data, rows), noise, t, {}, data["view"][others]
        )["diffusion"],
    )


def learn_dictionary(
    model: E4T,
    data: dict,
    words: torch.Tensor,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
):
    """Before E4T's own loss (our choice, not the paper's): the base has words for some concepts; from their pictures, find the words.

    words (n, D): the token embedding of each picture's name. Only the encoder learns."""
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        part, noise, t = _draw(model, data | {"words": words}, batch, seed, step)
        model.encoder.train()
        z_t, _ = model.base.noisy(part["latents"], noise, t)
        embedding, offset = model.embedding(part["view"], model.features(z_t, t))
        loss = (embedding - part["words"]).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.encoder.eval()
        yield dict(locals())


def adamw(groups: list[dict], eight_bit: bool = False) -> torch.optim.Optimizer:
    """AdamW without weight decay; eight_bit: with its two averages in 8 bits (bitsandbytes), ValueError if that is not installed."""
    if not eight_bit:
        return torch.optim.AdamW(groups, weight_decay=0.0)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "8-bit Adam needs bitsandbytes, which is not installed: `pip install bitsandbytes`, or do without."
        ) from None
    return AdamW8bit(groups, weight_decay=0.0)


def backward(
    loss,
    part: dict,
    noise: torch.Tensor,
    t: torch.Tensor,
    micro: int | None = None,
    run=torch.Tensor.backward,
    around=lambda last: nullcontext(),
) -> dict:
    """Leave the gradients of a batch's loss in the parameters, `micro` rows at a time (default: all): the same gradients, less memory.

    loss(part, noise, t) -> terms, as `E4T.loss`'s. run(loss) goes backward; around(whether these are the last rows) is entered for each `micro` rows.
    Returns the terms, the scalars for the whole batch, the rest for the last rows."""
    means, parts = {}, torch.arange(len(t)).split(micro or len(t))
    for i, rows in enumerate(parts):
        with around(i + 1 == len(parts)):
            terms, share = loss(select(part, rows), noise[rows], t[rows]), len(rows) / len(t)
            run(terms["loss"] * share)
        for name, value in terms.items():
            if value.ndim == 0:
                means[name] = means.get(name, 0.0) + share * value.detach()
    return terms | means


def tune(
    model: E4T,
    data: dict,
    groups: list[dict],
    steps: int,
    batch: int,
    weights: dict[str, float],
    seed: int,
    t_min: int = 0,
    validation: dict | None = None,
    gap_every: int = 100,
    prior: dict | None = None,
    micro: int | None = None,
    eight_bit: bool = False,
):
    """The training loop on one device, of E4T's two phases and of every baseline.

    groups: AdamW's, all that learns. weights: see `E4T.loss`. prior: prepared pictures of the class, learned beside (DreamBooth).
    micro: rows at a time, see `backward`; not with "contrastive", which looks at the whole batch. In fp16 the loss is scaled, so that small gradients live."""
    if micro and "contrastive" in weights:
        raise ValueError(
            "The contrastive term compares all pictures of a batch: it cannot be computed in micro-batches. Leave out `micro`."
        )
    optimizer, learned = adamw(groups, eight_bit), [p for group in groups for p in group["params"]]
    start = (
        [p.detach().clone() for p in learned]
        if weights.get("outside") and data["mask"] is not None
        else None
    )
    scaler = torch.amp.GradScaler(
        model.base.device.type, init_scale=2.0**10, enabled=model.base.dtype == torch.float16
    )
    run = lambda loss: scaler.scale(loss).backward()  # noqa: E731
    for step in range(steps):
        part, noise, t = _draw(model, data, batch, seed, step, t_min)
        model.encoder.train()
        optimizer.zero_grad()
        terms = backward(
            lambda some, *at: model.loss(
                some | model.before(learned, start, some, *at), *at, weights
            ),
            part,
            noise,
            t,
            micro,
            run,
        )
        loss = terms["loss"]
        if prior:
            loss = (
                loss
                + backward(
                    lambda *some: model.loss(*some, {}),
                    *_draw(model, prior, batch, seed + 1, step, t_min),
                    micro,
                    run,
                )["loss"]
            )
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        scaler.step(optimizer)
        scaler.update()
        model.encoder.eval()
        gap = (
            conditioning_gap(model, validation)
            if validation and (step + 1) % gap_every == 0
            else None
        )
        yield dict(locals())


def groups(model: E4T, lr: float, offsets_lr: float) -> list[dict]:
    return [
        {"params": model.parts()["encoder"], "lr": lr},
        {"params": model.parts()["offsets"], "lr": offsets_lr},
    ]


def pretrain(
    model: E4T,
    data: dict,
    steps: int = 1000,
    batch: int = 24,
    lr: float = 3e-5,
    offsets_lr: float = 1e-3,
    l2: float = 0.01,
    seed: int = 0,
    validation: dict | None = None,
    gap_every: int = 100,
    micro: int | None = None,
    eight_bit: bool = False,
    **weights: float,
):
    """Phase 1, on many pictures of one domain: encoder and offsets learn, the base is frozen. Yields the locals of every step;
    among them, every `gap_every` steps, `gap`: the conditioning gap on `validation`, a prepared set of other identities.

    weights: further terms of the loss by name (contrastive, sparsity, cosine; see `E4T.loss`). micro, eight_bit: to save memory, see `tune`."""
    yield from tune(
        model,
        data,
        groups(model, lr, offsets_lr),
        steps,
        batch,
        {"l2": l2} | weights,
        seed,
        0,
        validation,
        gap_every,
        None,
        micro,
        eight_bit,
    )


def personalize(
    model: E4T,
    image: Image.Image,
    mask: Image.Image | None = None,
    prompt: str | None = None,
    steps: int = 15,
    batch: int = 16,
    lr: float = 3e-4,
    offsets_lr: float = 6e-2,
    l2: float = 0.1,
    outside: float = OUTSIDE,
    seed: int = 0,
    t_min: int = T_MIN,
    validation: dict | None = None,
    gap_every: int = 5,
    micro: int | None = None,
    eight_bit: bool = False,
):
    """Phase 2, on ONE picture: the same loss under `batch` noises a step; encoder and (folded) offsets go on learning together.

    t_min: the lowest timestep (of 1,000) to learn at. Who it is, is decided at high noise; below, one picture teaches only itself (our choice).
    outside: weight of `outside_change`, where a mask says what the loss does not look at (our choice; 0 to do without); the subject is then put before
    OTHER_BACKGROUNDS random ones.
    mask: where the subject is ("L", white = subject; the paper uses one for faces); default: the picture's transparency, if it has any.
    micro, eight_bit: to save memory, see `tune`.
    The model is changed in place and `model.picture` is set. Yields the locals of every step, `gap` among them as in `pretrain`."""
    model.fold()
    data = show(model, image, mask, prompt, OTHER_BACKGROUNDS if outside else 0)
    yield from tune(
        model,
        data,
        groups(model, lr, offsets_lr),
        steps,
        batch,
        {"l2": l2, "outside": outside},
        seed,
        t_min,
        validation,
        gap_every,
        None,
        micro,
        eight_bit,
    )


def show(
    model: E4T,
    image: Image.Image,
    mask: Image.Image | None = None,
    prompt: str | None = None,
    backgrounds: int = 0,
) -> dict:
    """Make `image` the model's picture, and prepare it with its mask as a training set of one; backgrounds: of so many, see `on_backgrounds`, if there is a mask."""
    if mask and mask.size != image.size:
        raise ValueError(
            f"The mask is {mask.width} x {mask.height}, its picture {image.width} x {image.height}: both must be of one size, since both are cropped alike."
        )
    mask, prompt = mask or transparency(image), prompt or f"a photo of {model.placeholder.token}"
    data = prepare(model, [image], [prompt], [mask] if mask else None)
    model.picture = image
    if mask and backgrounds:
        others = prepare(
            model,
            on_backgrounds(image, mask, backgrounds, model.base.resolution),
            [prompt] * backgrounds,
            batch=1,
        )  # one by one: memory as for one
        data = {k: v.expand(backgrounds, *v.shape[1:]) for k, v in data.items()} | {
            "latents": others["latents"]
        }  # the encoder goes on seeing the picture itself
    return data


def on_backgrounds(
    image: Image.Image, mask: Image.Image, count: int, size: int, seed: int = 0
) -> list[Image.Image]:
    """The subject before `count` other backgrounds (our choice), size x size: 1, 4, 16 or 64 random colours that run into each other."""
    rng, subject, where = (
        np.random.default_rng(seed),
        square(image, size),
        square(mask, size).convert("L"),
    )
    colors = (
        Image.fromarray(rng.integers(0, 256, (2 ** (i % 4), 2 ** (i % 4), 3), dtype=np.uint8))
        for i in range(count)
    )
    return [
        Image.composite(subject, background.resize((size, size), Image.Resampling.BICUBIC), where)
        for background in colors
    ]
