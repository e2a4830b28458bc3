"""The autoencoder: pictures (3, 64, 64) to latents (8, 16, 16) and back. All convolutions, so it can learn from quarters of pictures."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ..training.data import pictures, to_tensor, training_pictures
from ..training.loop import train


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


def psnr(model, images, batch: int = 64) -> torch.Tensor:
    """Mean peak signal-to-noise ratio in dB of reconstructions of uint8 pictures (B, H, W, 3)."""
    found = []
    for i in range(0, len(images), batch):
        x = to_tensor(images[i : i + batch])
        y = model.decode(model.encode(x).latent_dist.mode()).sample.float().clamp(-1, 1)
        found.append(10 * torch.log10(4 / (x - y).square().mean((1, 2, 3))))
    return torch.cat(found).mean()


def edges(x):
    return x.diff(dim=-1), x.diff(dim=-2)


def fit(
    folder,
    steps: int = 3000,
    batch: int = 48,
    lr: float = 2e-3,
    seed: int = 0,
    resume: bool = False,
):
    torch.manual_seed(seed)
    model, images = build(), training_pictures()["images"]
    held = {d: pictures(d, "held-out", 128)["images"] for d in ("face", "critter", "robot")}

    def loss_of_step(g, step):
        whole = (
            step > 0.9 * steps
        )  # quarters of pictures are four times as many steps; the end sees whole ones
        x = to_tensor(
            images[
                torch.randint(len(images), (batch // 3 if whole else batch,), generator=g).numpy()
            ]
        )
        if not whole:
            top, left = torch.randint(33, (2,), generator=g).tolist()
            x = x[:, :, top : top + 32, left : left + 32]
        q = model.encode(x).latent_dist
        y = model.decode(q.mean + q.std * torch.randn(q.mean.shape, generator=g)).sample.float()
        kl = 0.5 * (q.mean.float().square() + q.var.float() - 1 - q.logvar.float()).mean()
        sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(x), edges(y)))
        return F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + sharp + 1e-4 * kl

    report = train(
        "vae",
        model,
        [{"params": model.parameters(), "lr": lr}],
        loss_of_step,
        steps,
        folder,
        seed,
        resume,
        lambda: {f"psnr {d}": psnr(model, x) for d, x in held.items()},
        250,
    )
    model.eval()
    with torch.no_grad():
        scores = {f"psnr_{d}": round(float(psnr(model, x)), 2) for d, x in held.items()}
        spread = torch.cat(
            [model.encode(to_tensor(x)).latent_dist.mean.flatten() for x in held.values()]
        ).std()
    model.register_to_config(
        scaling_factor=round(1 / float(spread), 4)
    )  # latents of about unit variance, as Stable Diffusion's
    model.save_pretrained(folder / "model")
    return (
        report
        | scores
        | {"command": f"python -m e4t_minimal.training vae --steps {steps} --seed {seed}"}
    )
