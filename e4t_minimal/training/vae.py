"""The autoencoder: pictures (3, 64, 64) to latents (8, 16, 16) and back.

All convolutions, so it can learn from quarters of pictures.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ..world import DOMAINS
from .data import Pictures, pictures, training_pictures
from .loop import Training, train

BATCH = 48
WHOLE = 0.1  # share of the steps, at the end, that see whole pictures


def build() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def psnr(model: AutoencoderKL, data: Pictures) -> torch.Tensor:
    """Mean peak signal-to-noise ratio of reconstructions in dB."""
    found = []
    for indices in torch.arange(len(data)).split(64):
        pixels = data.pixels(indices).to(model.device)
        latents = model.encode(pixels).latent_dist.mode()
        rebuilt = model.decode(latents).sample.float().clamp(-1, 1)
        error = (pixels - rebuilt).square().mean((1, 2, 3))
        found.append(10 * torch.log10(4 / error))
    return torch.cat(found).mean()


def reconstruction_loss(rebuilt: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + L1 of differences between neighbours, which keeps edges sharp -> scalar."""
    sharp = sum(F.l1_loss(rebuilt.diff(dim=dim), pixels.diff(dim=dim)) for dim in (-1, -2))
    return F.l1_loss(rebuilt, pixels) + 2 * F.mse_loss(rebuilt, pixels) + sharp


def quarter(pixels: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """(B, 3, 64, 64) -> the same random quarter of each (B, 3, 32, 32)."""
    top, left = torch.randint(33, (2,), generator=g).tolist()
    return pixels[:, :, top : top + 32, left : left + 32]


def fit(training: Training, lr: float = 2e-3) -> dict:
    """Train the autoencoder into the folder's model/. Returns the report."""
    torch.manual_seed(training.seed)
    device = training.device
    model, data = build().to(device), training_pictures()
    held = {domain: pictures(domain, "held-out", 128) for domain in DOMAINS}

    def loss_of_step(g, step):
        whole = step >= (1 - WHOLE) * training.steps
        count = BATCH // 3 if whole else BATCH
        pixels = data.pixels(torch.randint(len(data), (count,), generator=g))
        pixels = (pixels if whole else quarter(pixels, g)).to(device)
        latent = model.encode(pixels).latent_dist
        noise = torch.randn(latent.mean.shape, generator=g).to(device)
        rebuilt = model.decode(latent.mean + latent.std * noise).sample.float()
        to_normal = latent.mean.float().square() + latent.var.float() - 1 - latent.logvar.float()
        return reconstruction_loss(rebuilt, pixels) + 1e-4 * 0.5 * to_normal.mean()

    def check():
        return {f"psnr {domain}": psnr(model, data) for domain, data in held.items()}

    groups = [{"params": model.parameters(), "lr": lr}]
    report = train(model, groups, loss_of_step, training, check)
    with torch.no_grad():
        report |= {name: round(float(value), 2) for name, value in check().items()}
        model.register_to_config(scaling_factor=_scaling_factor(model, held))
    model.cpu().save_pretrained(training.folder / "model")
    return report


def _scaling_factor(model: AutoencoderKL, held: dict[str, Pictures]) -> float:
    """What brings latents to about unit variance, as Stable Diffusion's are."""
    means = []
    for data in held.values():
        pixels = data.pixels(range(len(data))).to(model.device)
        means.append(model.encode(pixels).latent_dist.mean.flatten())
    return round(1 / float(torch.cat(means).std()), 4)
