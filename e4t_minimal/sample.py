"""Prompts (and a picture) -> pictures. S* is predicted again at every denoising step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.utils import parametrize

from .base import Base
from .encoder import collect_features
from .helpers import checks
from .helpers.hooking import ONE_AT_A_TIME
from .helpers.pipelines import generators, set_scheduler
from .model import E4T
from .placeholder import TOKEN

DRAWN_AT_ONCE = 32  # pictures


@dataclass(frozen=True, eq=False)
class SampleStep:
    """One denoising step of B pictures."""

    index: int  # 0 for the first
    t: int  # the timestep that it started from
    latents: torch.Tensor  # (B, C, h, w), after the step
    unconditional: torch.Tensor  # (B, C, h, w): what the U-Net says to the empty prompt
    conditional: torch.Tensor  # (B, C, h, w): and to the prompt
    prediction: torch.Tensor  # (B, C, h, w): both, guided
    embedding: torch.Tensor | None = None  # (B, D): v*; None if no prompt has S*
    offset: torch.Tensor | None = None  # (B, D): s E


def start_noise(base: Base, count: int, seed: int) -> torch.Tensor:
    """(count, C, h, w): picture i starts from seed + i, so it does not depend on the others."""
    seed = checks.seed(seed)
    size = base.unet.config.sample_size
    shape = (1, base.unet.config.in_channels, size, size)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    noises = [torch.randn(shape, generator=g) for g in generators]
    return torch.cat(noises).to(base.device, base.dtype)


@torch.no_grad()
def sample_steps(
    model: Base | E4T,
    prompts: list[str] | str,
    image: Image.Image | None = None,
    steps: int = 10,
    guidance: float = 4.0,
    seed: int = 0,
    scheduler=None,
) -> Iterator[SampleStep]:
    """Denoise one latent per prompt with classifier-free guidance; yields every step.

    With an `E4T`, S* in the prompts is `image` (default: the picture it was personalized on). The
    encoder's U-Net features are those of guidance's own unconditional pass, so a step costs two
    U-Net passes, as in plain Stable Diffusion.
    steps: the toy's judge sees no difference to 20 (docs/training-log.md); real bases want 20-50.
    scheduler: one of diffusers', made `from_config(base.scheduler.config)`; a copy of it is used.
    """
    e4t = model if isinstance(model, E4T) else None
    base = e4t.base if e4t else model
    prompts = checks.texts(prompts)
    checks.number(0, 100, guidance=guidance)
    scheduler = set_scheduler(base, scheduler or base.scheduler, steps)
    embedding = offset = None
    with ONE_AT_A_TIME:
        ids = _tokenize(model, prompts)  # (1 + B, T)
        empty = base.text_encoder(ids[:1]).last_hidden_state.expand(len(prompts), -1, -1)
        image_features = _image_features(e4t, ids[1:], image) if e4t else None
        if image_features is None:  # no S*: the prompts say the same at every step
            hidden = base.text_encoder(ids[1:]).last_hidden_state  # (B, T, D)
    latents = start_noise(base, len(prompts), seed) * scheduler.init_noise_sigma
    randomness = generators(scheduler, len(prompts), seed)
    for index, t in enumerate(scheduler.timesteps):
        latents = base.tap(f"latent[{int(t)}]", latents)
        z_t = scheduler.scale_model_input(latents, t)
        # both passes see the same W (1 + Delta): compute it once
        with ONE_AT_A_TIME, parametrize.cached():
            if e4t:
                e4t.check_attached()
            with collect_features(base.unet) as features:
                unconditional = base.predict(z_t, t, empty, "uncond")
            if image_features is not None:
                embedding, offset = e4t.embedding(image_features, torch.cat(features, dim=-1))
                hidden = e4t.placeholder.encode(ids[1:], embedding)
            conditional = base.predict(z_t, t, hidden, "cond")
        prediction = unconditional + guidance * (conditional - unconditional)
        prediction = base.tap("guidance.prediction", prediction)
        latents = scheduler.step(prediction, t, latents, **randomness).prev_sample
        if index + 1 == len(scheduler.timesteps):
            latents = base.tap("latent[end]", latents)
        yield SampleStep(
            index, int(t), latents, unconditional, conditional, prediction, embedding, offset
        )


def _tokenize(model: Base | E4T, prompts: list[str]) -> torch.Tensor:
    """Token numbers (1 + B, T) of the empty prompt and of those given."""
    if isinstance(model, E4T):
        model.check_attached()
        return model.placeholder.tokenize(["", *prompts], required=False)
    for prompt in prompts:
        if TOKEN in prompt:
            raise ValueError(
                f"A base alone does not know {TOKEN}, which stands in {prompt!r}; give an E4T."
            )
    return model.tokenize(["", *prompts])


def _image_features(e4t: E4T, ids: torch.Tensor, image: Image.Image | None):
    """(B, ...) of the concept's picture; None if S* is not among the prompts' tokens (B, T)."""
    if not (ids == e4t.placeholder.id).any():
        return None
    image = image or e4t.picture
    if image is None:
        raise ValueError(
            f"The prompt mentions {e4t.placeholder.token}, but there is no picture of it: "
            "give `image`, or personalize first."
        )
    return e4t.image_features(e4t.base.pixels([image])).repeat_interleave(len(ids), 0)


@torch.no_grad()
def sample(
    model: Base | E4T,
    prompts: list[str] | str,
    image: Image.Image | None = None,
    steps: int = 10,
    guidance: float = 4.0,
    seed: int = 0,
    scheduler=None,
) -> list[Image.Image]:
    """One PIL picture per prompt; arguments as of `sample_steps`."""
    prompts = checks.texts(prompts)
    base = model.base if isinstance(model, E4T) else model
    pictures = []
    for start in range(0, len(prompts), DRAWN_AT_ONCE):
        chunk = prompts[start : start + DRAWN_AT_ONCE]
        for step in sample_steps(model, chunk, image, steps, guidance, seed + start, scheduler):
            latents = step.latents
        pictures += base.decode(latents)
    return pictures
