"""The U-Net, trained together with the text encoder: first on plain pictures only, so that it learns who before it learns where."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from tqdm.auto import trange
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ..base import Base
from ..world.scenery import PLAIN as PLAIN_BACKGROUNDS
from ..train import relative_gap
from ..world import Identity, Scene, caption, named
from ..training.data import MAX_TOKENS, pictures, to_tensor, training_pictures
from ..training.loop import train

LATENT, CHANNELS = 16, 8


def build(width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 192, 256),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=width,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule. v-prediction (as SD 2.1): its plain squared error looks at high noise too, where identity is decided."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


@torch.no_grad()
def encode(vae, images: np.ndarray, batch: int = 128, name: str = "latents") -> torch.Tensor:
    """Scaled latents (n, 8, 16, 16) in bf16."""
    out = []
    with torch.autocast("cpu", torch.bfloat16):
        for i in trange(0, len(images), batch, desc=name, mininterval=10):
            out.append(
                (
                    vae.encode(to_tensor(images[i : i + batch])).latent_dist.mean
                    * vae.config.scaling_factor
                ).bfloat16()
            )
    return torch.cat(out).contiguous()


def padded(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (B, MAX_TOKENS), padded as `StableDiffusionPipeline` pads."""
    return torch.tensor(tokenizer(texts, padding="max_length", truncation=True).input_ids)


def fit(
    folder,
    steps: int = 2500,
    batch: int = 32,
    lr: float = 5e-4,
    text_lr: float = 2e-4,
    plain_first: float = 0.35,
    seed: int = 0,
    resume: bool = False,
):
    torch.manual_seed(seed)
    runs = folder.parent
    tokenizer, clip = (
        CLIPTokenizer.from_pretrained(runs / "clip/tokenizer"),
        CLIPModel.from_pretrained(runs / "clip/model"),
    )
    vae = AutoencoderKL.from_pretrained(runs / "vae/model").eval()
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    vision = CLIPVisionModelWithProjection(clip.config.vision_config)
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    preprocessor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    unet = build(text.config.hidden_size)
    unet.set_attn_processor(
        AttnProcessor()
    )  # plain attention: on a CPU its backward pass is faster than the fused one's
    text.set_attn_implementation("eager")
    base = Base("toy", tokenizer, text, vae, unet, scheduler(), vision, preprocessor)
    model = torch.nn.ModuleDict({"unet": unet, "text": text})
    print(f"U-Net: {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters")

    data = training_pictures()
    cached = folder / "latents.safetensors"
    if not (resume and cached.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"latents": encode(vae, data["images"])}, cached)
    latents, captions = load_file(cached)["latents"], data["captions"]
    plain = torch.tensor(
        [
            i
            for i, s in enumerate(data["scenes"])
            if s["style"] == "photo" and s["background"] in PLAIN_BACKGROUNDS
        ]
    )

    def predict(z, t, ids):
        return unet(z, t, text(ids).last_hidden_state).sample.float()

    def loss_of_step(g, step):
        rows = (
            plain[torch.randint(len(plain), (batch,), generator=g)]
            if step < plain_first * steps
            else torch.randint(len(latents), (batch,), generator=g)
        )
        z, noise = (
            latents[rows].float(),
            torch.randn((batch, CHANNELS, LATENT, LATENT), generator=g),
        )
        t = torch.randint(1000, (batch,), generator=g)
        dropped = torch.rand(batch, generator=g) < 0.1  # guidance needs the empty prompt
        ids = padded(tokenizer, ["" if d else captions[i] for d, i in zip(dropped, rows)])
        z_t, target = base.noisy(z, noise, t)
        return F.mse_loss(predict(z_t, t, ids), target)

    def gap(z, right, wrong):
        def loss(rows, others, noise, t):
            texts = [
                (right if same else wrong)[i]
                for i, same in zip(rows.tolist(), (rows == others).tolist())
            ]
            z_t, target = base.noisy(z[rows], noise, t)
            return F.mse_loss(predict(z_t, t, padded(tokenizer, texts)), target)

        return relative_gap(base, z, loss)

    checks = gap_data(vae)

    def check():
        return {f"gap for wrong {kind}": gap(*rest) for kind, rest in checks.items()}

    report = train(
        "unet",
        model,
        [{"params": unet.parameters(), "lr": lr}, {"params": text.parameters(), "lr": text_lr}],
        loss_of_step,
        steps,
        folder,
        seed,
        resume,
        check,
        200,
    )
    model.eval()
    with torch.no_grad():
        report |= {k: round(v, 3) for k, v in check().items()}
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=base.scheduler,
        safety_checker=None,
        image_encoder=vision,
        feature_extractor=preprocessor,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(folder / "model")
    for part in (
        "text_encoder",
        "image_encoder",
    ):  # stored in fp16, computed in fp32 unless asked otherwise, as diffusers' own parts are
        config = folder / "model" / part / "config.json"
        config.write_text(config.read_text().replace('"float16"', '"float32"'))
    return report | {
        "command": f"python -m e4t_minimal.training unet --steps {steps} --seed {seed}",
        "max_tokens": MAX_TOKENS,
    }


def gap_data(vae, count: int = 96) -> dict:
    """{"names" | "attributes": (latents, right captions, wrong captions)} on plain pictures that no training has seen."""
    out = {}
    for kind, split in {"names": "named", "attributes": "held-out"}.items():
        rows = pictures("face", split, count, seed=9, plain=1.0)
        ids = [Identity(**i) for i in rows["identities"]]
        if kind == "names":
            ids = list(named("face")[:count])
        scenes = [Scene(**s) for s in rows["scenes"]]
        right = [caption(one, scene) for one, scene in zip(ids, scenes)]
        wrong = [caption(ids[(i + 1) % count], scene) for i, scene in enumerate(scenes)]
        out[kind] = (encode(vae, rows["images"]).float(), right, wrong)
    return out
