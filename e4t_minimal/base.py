"""A frozen text-to-image model: tokenizer, text encoder, VAE, U-Net, schedule, vision tower.

Nothing of E4T stands here, and this is the only file that knows which base it is.

Axis letters, here and everywhere: B batch; C, H, W channels, height, width of a picture (small h, w
for latents); N tokens of a picture; D width of a word's embedding; L layers; T tokens of a prompt.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from . import DATA
from .helpers import checks
from .helpers.pictures import square
from .helpers.pipelines import PREDICTIONS, load_parts
from .helpers.runtime import check_device, quiet


@dataclass(eq=False, repr=False)
class Base:
    """The parts of a latent diffusion model, as diffusers and transformers built them."""

    name: str
    tokenizer: object
    text_encoder: torch.nn.Module
    vae: torch.nn.Module
    unet: torch.nn.Module
    scheduler: object
    vision: torch.nn.Module
    preprocessor: object
    vision_name: str | None = None  # where the vision tower came from, if not with the rest

    # Who looks inside hangs a function (name, tensor) -> tensor in here; see `inspection`.
    taps: list[Callable] = field(default_factory=list)
    running: tuple | None = None  # (part, t) of the U-Net pass that is going on; see `predict`

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def resolution(self) -> int:
        """Height and width of its pictures in pixels."""
        return self.unet.config.sample_size * _pixels_per_latent(self.vae)

    def pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """PIL pictures of any size -> (B, 3, H, W) in [-1, 1]; the middle square is kept."""
        arrays = [np.array(square(image, self.resolution)) for image in images]
        stacked = torch.stack([torch.from_numpy(array) for array in arrays])  # (B, H, W, 3)
        return stacked.permute(0, 3, 1, 2).to(self.device, self.dtype) / 127.5 - 1

    def tokenize(self, prompts: list[str] | str, tokenizer=None) -> torch.Tensor:
        """Token numbers (B, T), padded and cut; tokenizer: one with more words than the base's.

        A warning names words that are cut off. ValueError for letters that have no token.
        """
        prompts = checks.texts(prompts)
        tokenizer = tokenizer or self.tokenizer
        found = tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
        )
        checks.all_read(prompts, found, tokenizer)
        return torch.tensor(found.input_ids, device=self.device)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w), the same every time: the mean."""
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Scaled latents (B, C, h, w) -> PIL pictures; ValueError for pixels of NaN."""
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        checks.can_be_seen(pixels)
        bytes_ = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte()
        return [Image.fromarray(array) for array in bytes_.permute(0, 2, 3, 1).cpu().numpy()]

    def cls_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> [CLS] of every second layer of the tower (B, L/2, width)."""
        size = self.vision.config.image_size
        if pixels.shape[-1] != size:
            small = F.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True)
            pixels = small.to(pixels.dtype)
        mean = pixels.new_tensor(self.preprocessor.image_mean).view(3, 1, 1)
        std = pixels.new_tensor(self.preprocessor.image_std).view(3, 1, 1)
        seen = self.vision((pixels / 2 + 0.5 - mean) / std, output_hidden_states=True)
        # hidden_states: L + 1 of (B, 1 + N, width), the first of them before any layer
        return torch.stack([hidden[:, 0] for hidden in seen.hidden_states[2::2]], dim=1)

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(z_t, what the U-Net should predict of it), each (B, C, h, w), for timesteps t (B,).

        The target is what the base was trained for: the noise, v, or the latents themselves.
        """
        kind = self.scheduler.config.prediction_type
        checks.choice("target for a base that predicts", kind, PREDICTIONS)
        z_t = self.scheduler.add_noise(latents, noise, t)
        if kind == "epsilon":
            return z_t, noise
        if kind == "v_prediction":
            return z_t, self.scheduler.get_velocity(latents, noise, t)
        return z_t, latents

    def predict(
        self, z_t: torch.Tensor, t: torch.Tensor, hidden: torch.Tensor, part: str = "cond"
    ) -> torch.Tensor:
        """One pass of the U-Net: z_t (B, C, h, w), t (B,) or (), text (B, T, D) -> (B, C, h, w).

        part says what the pass is for, to whoever looks inside: "cond" with a prompt, "uncond" with
        the empty one, "features" for the encoder alone.
        """
        self.running = (part, t)
        try:
            prediction = self.unet(z_t, t, hidden).sample
        finally:
            self.running = None
        return self.tap(f"guidance.{part}", prediction)

    def tap(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Let everyone who looks inside see, or change, a tensor; go on with what is returned."""
        for function in self.taps:
            tensor = function(name, tensor)
        return tensor

    @contextmanager
    def untapped(self) -> Iterator[None]:
        """Inside, nobody looks: for what is computed beside, and is not what the model says."""
        taps, self.taps = self.taps, []
        try:
            yield
        finally:
            self.taps = taps

    def frozen(self, device: str = "cpu", resolution: int | None = None) -> "Base":
        """Itself, without gradients; ValueError if device or resolution (pixels) do not fit."""
        check_device(device)
        for part in (self.text_encoder, self.vae, self.unet, self.vision):
            part.to(device).eval().requires_grad_(False)
        if resolution is not None:
            self._set_resolution(resolution)
        return self

    def _set_resolution(self, resolution: int):
        per_latent = _pixels_per_latent(self.vae)
        step = per_latent * 2 ** (len(self.unet.config.block_out_channels) - 1)
        checks.whole(step, 4096, resolution=resolution)
        if resolution % step:
            raise ValueError(
                f"A resolution of {resolution} does not fit this base: give a multiple of {step}."
            )
        self.unet.register_to_config(sample_size=resolution // per_latent)


def _pixels_per_latent(vae) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)


def path_of(name: str | Path) -> str:
    """The folder or hub id behind a base's name."""
    return str(DATA / "toy-sd") if name == "toy" else str(name)


@quiet()
def load_base(
    name: str | Path = "toy",
    vision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
) -> Base:
    """A Stable Diffusion by name: "toy" (shipped), a local diffusers folder, or a hub id.

    vision: hub id or folder of a transformers CLIP, for a base without an `image_encoder`
    (default: ViT-H/14, as re-implementations have it).
    resolution: pixels of its pictures, if not those it was trained on.
    Raises ValueError, with what to do, when the folder is missing, or is not a whole Stable
    Diffusion that fits, or when device or resolution do not fit.
    """
    parts = load_parts(path_of(name), vision, dtype)
    return Base(name=str(name), **parts).frozen(device, resolution)
