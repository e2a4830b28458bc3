"""A frozen text-to-image model: tokenizer, text encoder, VAE, U-Net, noise schedule, CLIP vision tower. Nothing of E4T.

The only file that knows which base model it is. Axis letters here and everywhere: B batch, C H W channels, height, width
(small h, w for latents), N tokens of a picture, D width of a word, L layers, T tokens of a prompt.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from . import DATA

VISION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # for bases that bring no vision tower


@dataclass
class Base:
    """The parts of a latent diffusion model, as diffusers and transformers built them, unmodified and frozen."""

    name: str
    tokenizer: object
    text_encoder: torch.nn.Module
    vae: torch.nn.Module
    unet: torch.nn.Module
    scheduler: object
    vision: torch.nn.Module
    preprocessor: object
    tower: str | None = None  # where the vision tower came from, if not with the rest

    @property
    def device(self):
        return self.unet.device

    @property
    def dtype(self):
        return self.unet.dtype

    @property
    def resolution(self) -> int:
        """Height and width of its pictures in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def frozen(self, device: str = "cpu", resolution: int | None = None) -> "Base":
        """Itself, on the device, without gradients, and drawing at `resolution` pixels if that is given. ValueError if there is no such device."""
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(
                f"The device {device!r} cannot be used here ({str(error).splitlines()[0][:120]}). Choose another of cpu, cuda, mps."
            ) from None
        for part in (self.text_encoder, self.vae, self.unet, self.vision):
            (
                part if part.device == torch.device(device) else part.to(device)
            ).eval().requires_grad_(False)
        if resolution:
            down = 2 ** (len(self.vae.config.block_out_channels) - 1)
            step = down * 2 ** (len(self.unet.config.block_out_channels) - 1)
            if resolution < step or resolution % step:
                raise ValueError(
                    f"A resolution of {resolution} does not fit this base: give a multiple of {step}."
                )
            self.unet.register_to_config(sample_size=resolution // down)
        return self

    def pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """PIL pictures of any size and mode -> (B, 3, H, W) in [-1, 1], square: the middle is kept."""
        return (
            torch.stack([torch.from_numpy(np.array(square(x, self.resolution))) for x in images])
            .permute(0, 3, 1, 2)
            .to(self.device, self.dtype)
            / 127.5
            - 1
        )

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w); the mean of the posterior, so that it is the same every time."""
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Scaled latents (B, C, h, w) -> PIL pictures."""
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        array = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        return [Image.fromarray(x) for x in array.cpu().numpy()]

    def cls_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> the [CLS] tokens of every second layer of the vision tower, (B, L/2, the tower's width)."""
        p, size = self.preprocessor, self.vision.config.image_size
        mean, std = (
            torch.tensor(v, device=pixels.device, dtype=pixels.dtype).view(3, 1, 1)
            for v in (p.image_mean, p.image_std)
        )
        x = (
            pixels
            if pixels.shape[-1] == size
            else F.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True).to(
                pixels.dtype
            )
        )
        hidden = self.vision(
            (x / 2 + 0.5 - mean) / std, output_hidden_states=True
        ).hidden_states  # L + 1 of (B, 1 + N, width)
        return torch.stack([h[:, 0] for h in hidden[2::2]], dim=1)

    def noisy(
        self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(z_t, what the U-Net should predict) for timesteps t (B,): the noise, or v, as the base was trained."""
        target = (
            self.scheduler.get_velocity(latents, noise, t)
            if self.scheduler.config.prediction_type == "v_prediction"
            else noise
        )
        return self.scheduler.add_noise(latents, noise, t), target


def generator(seed: int, step: int) -> torch.Generator:
    """Every step draws from a generator of its own: a run that goes on after a stop sees the numbers that one without a stop sees."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def path_of(name: str | Path) -> str:
    """The folder or hub id behind a base's name."""
    return str(DATA / "toy-sd") if name == "toy" else str(name)


def transparency(image: Image.Image) -> Image.Image | None:
    """Where the picture shows something ("L", white = subject), if it says so itself; ValueError if it shows nothing."""
    alpha = image.convert("RGBA").getchannel("A")
    low, high = alpha.getextrema()
    if high < 128:
        raise ValueError(
            "The picture is transparent everywhere: there is nothing to learn. Give a picture that shows its subject."
        )
    return alpha if low < 128 else None


def square(image: Image.Image, size: int, mode: str = "RGB") -> Image.Image:
    """The middle square as RGB, size x size; what is transparent becomes white, or stays so with mode "RGBA"."""
    image = image.convert("RGBA")
    if mode != "RGBA":
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image)
        image = paper.convert("RGB")
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


@contextmanager
def quiet():
    """Loading without the libraries' bars and notices."""
    from transformers.utils import logging as one

    before = one.get_verbosity()
    one.set_verbosity_error()
    from diffusers.utils import logging as two  # only now: its import has notices too

    one.disable_progress_bar(), two.disable_progress_bar()
    try:
        yield
    finally:
        one.set_verbosity(before), one.enable_progress_bar(), two.enable_progress_bar()


@quiet()
def load_base(
    name: str | Path = "toy",
    vision: str = VISION,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
) -> Base:
    """A Stable Diffusion by name: "toy" (shipped with this project), a local diffusers folder, or a hub id.

    vision: hub id or folder of a transformers CLIP, used when the base brings no `image_encoder` of its own.
    resolution: pixels of its pictures, if not those it was trained on.
    Raises ValueError with what to do when the folder is missing or is not a Stable Diffusion pipeline, or the resolution does not fit.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    path = path_of(name)
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            path, dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
    except Exception as error:
        raise ValueError(
            f"No Stable Diffusion at {path!r} ({str(error).splitlines()[0][:200]}). "
            'Give "toy", a folder saved by diffusers, or the id of a model on the hub.'
        ) from error
    tower, preprocessor, where = pipe.image_encoder, pipe.feature_extractor, None
    if tower is None:
        where = vision
        try:
            tower, preprocessor = (
                CLIPVisionModelWithProjection.from_pretrained(vision, dtype=dtype),
                AutoImageProcessor.from_pretrained(vision),
            )
        except OSError as error:
            raise ValueError(
                f"{path!r} brings no image_encoder, and there is no CLIP at {vision!r}. Give `vision`, a folder or hub id of a CLIP."
            ) from error
    scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False
    )  # latents are not pixels: some schedulers leave this to DDIM's default
    return Base(
        str(name),
        pipe.tokenizer,
        pipe.text_encoder,
        pipe.vae,
        pipe.unet,
        scheduler,
        tower,
        preprocessor,
        where,
    ).frozen(device, resolution)
