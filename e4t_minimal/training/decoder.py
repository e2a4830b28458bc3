"""The autoencoder's decoder goes on learning, by itself, with the encoder locked.

So latents stay what they are, and nothing else gets stale: edges, eyes and mouths get sharper.
"""

import torch

from ..base import load_base
from ..world import DOMAINS
from .data import pictures, training_pictures
from .loop import Training, train
from .vae import psnr, reconstruction_loss

BATCH = 16


def fit(training: Training, lr: float = 1e-3, start: str = "toy") -> dict:
    """Train the decoder of the base `start` into the folder's model/. Returns the report."""
    torch.manual_seed(training.seed)
    device = training.device
    vae = load_base(start, device=device).vae
    learned = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    data = training_pictures()
    held = {domain: pictures(domain, "held-out", 128) for domain in DOMAINS}

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        pixels = data.pixels(indices).to(device)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()
        # a little noise: the U-Net's latents are not exactly the encoder's
        noise = torch.randn(latents.shape, generator=g).to(device)
        rebuilt = vae.decode(latents + 0.05 * latents.std() * noise).sample.float()
        return reconstruction_loss(rebuilt, pixels)

    def check():
        return {f"psnr {domain}": psnr(vae, unseen) for domain, unseen in held.items()}

    groups = [{"params": learned.parameters(), "lr": lr}]
    report = train(learned, groups, loss_of_step, training, check)
    with torch.no_grad():
        report |= {name: round(float(value), 2) for name, value in check().items()}
    vae.cpu().save_pretrained(training.folder / "model")
    return report
