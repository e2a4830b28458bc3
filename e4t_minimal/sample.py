"""Prompts (and a picture) -> pictures. S* is predicted again at every denoising step."""

import torch
from PIL import Image
from torch.nn.utils import parametrize

from .base import Base
from .encoder import unet_features
from .model import E4T


def start_noise(base: Base, count: int, seed: int) -> torch.Tensor:
    """(count, C, h, w): picture i starts from a generator seeded with seed + i, so it does not depend on the others."""
    shape = (
        1,
        base.unet.config.in_channels,
        base.unet.config.sample_size,
        base.unet.config.sample_size,
    )
    return torch.cat(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(seed + i))
            for i in range(count)
        ]
    ).to(base.device, base.dtype)


@torch.no_grad()
def sample_steps(
    model: Base | E4T,
    prompts: list[str] | str,
    image: Image.Image | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 0,
):
    """Denoise one latent per prompt with classifier-free guidance; yields the locals of every step (`latents` is what it made).

    With an `E4T`, S* in the prompts is `image` (default: the picture it was personalized on). The encoder's U-Net features are those
    of guidance's own unconditional pass, so a step costs two U-Net passes, as in plain Stable Diffusion.
    """
    e4t = model if isinstance(model, E4T) else None
    base, prompts = (
        e4t.base if e4t else model,
        [prompts] if isinstance(prompts, str) else list(prompts),
    )
    tokenizer = e4t.placeholder.tokenizer if e4t else base.tokenizer
    ids = tokenizer(
        ["", *prompts],
        padding="max_length",
        truncation=True,
        max_length=base.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids.to(base.device)
    concept = [p for p in prompts if e4t.placeholder.token in p] if e4t else []
    if concept:
        image = image or e4t.picture
        if image is None:
            raise ValueError(
                f"The prompt mentions {e4t.placeholder.token}, but there is no picture of it: give `image`, or personalize first."
            )
        e4t.placeholder.tokenize(concept)  # refuses a prompt in which S* is cut off
        view = e4t.encoder.view(base, base.pixels([image])).repeat_interleave(
            len(prompts), 0
        )  # (B, ...)
    hidden = base.text_encoder(ids[:1]).last_hidden_state.expand(len(prompts), -1, -1)
    conditional = None if concept else base.text_encoder(ids[1:]).last_hidden_state
    base.scheduler.set_timesteps(steps, device=base.device)
    latents = start_noise(base, len(prompts), seed) * base.scheduler.init_noise_sigma
    for step, t in enumerate(base.scheduler.timesteps):
        with parametrize.cached():  # both passes see the same W (1 + Delta): compute it once
            with unet_features(base.unet) as found:
                unconditional = base.unet(latents, t, hidden).sample
            if concept:
                embedding, offset = e4t.embedding(view, torch.cat(found, dim=-1))
                conditional = e4t.placeholder.encode(ids[1:], embedding)
            wanted = base.unet(latents, t, conditional).sample
        prediction = unconditional + guidance * (wanted - unconditional)
        latents = base.scheduler.step(prediction, t, latents).prev_sample
        yield dict(locals())


@torch.no_grad()
def sample(
    model: Base | E4T,
    prompts: list[str] | str,
    image: Image.Image | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 0,
    batch: int = 32,
) -> list[Image.Image]:
    """One PIL picture per prompt; see `sample_steps`. The same seed gives the same pictures on the same machine."""
    prompts, out = [prompts] if isinstance(prompts, str) else list(prompts), []
    for i in range(0, len(prompts), batch):
        for state in sample_steps(model, prompts[i : i + batch], image, steps, guidance, seed + i):
            pass
        out += (model.base if isinstance(model, E4T) else model).decode(state["latents"])
    return out
