"""The U-Net, trained together with the text encoder, on latents that are computed once."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from ..base import Base, load_base
from ..evaluation.gap import relative_gap
from ..helpers.files import replacing
from ..helpers.reading import check_alike, read_tensors
from ..scaling.architectures import pipeline_of
from ..world import caption, named
from .captions import Readers, add_names_from_parts, ends, remove_names_from_parts
from .data import UNKNOWN, Pictures, pictures, training_pictures
from .hardware import autocast, choose_attention
from .importance import importance
from .loop import Training, train

BATCH = 32
CHANNELS, LATENT = 8, 16  # of a latent picture: channels, height and width
NO_CAPTION = 0.1  # share of pictures that are learned without: guidance needs the empty prompt
HIGH_NOISE = 0.85  # timesteps are 1000 u ** HIGH_NOISE for u in [0, 1): more of the high ones
QUESTIONS_WEIGHT = 0.02  # of the questions about the captions, beside the diffusion loss


def build(width: int) -> UNet2DConditionModel:
    """A new U-Net of 17 million parameters that reads words of `width` numbers."""
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


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's, with v-prediction (as SD 2.1).

    The plain squared error of v looks at high noise too, where it is decided who somebody is.
    """
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


def base_of_parts(runs) -> Base:
    """A base with a new U-Net, from the trained CLIP and autoencoder in runs/clip and runs/vae."""
    clip = CLIPModel.from_pretrained(runs / "clip/model")
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    vision = CLIPVisionModelWithProjection(clip.config.vision_config)
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    return Base(
        name="toy",
        tokenizer=CLIPTokenizer.from_pretrained(runs / "clip/tokenizer"),
        text_encoder=text,
        vae=AutoencoderKL.from_pretrained(runs / "vae/model"),
        unet=build(text.config.hidden_size),
        scheduler=noise_schedule(),
        vision=vision,
        preprocessor=CLIPImageProcessor(
            size={"shortest_edge": 64}, crop_size=64, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
    )


@torch.no_grad()
def encode(base: Base, data: Pictures) -> torch.Tensor:
    """Scaled latents (n, C, h, w) in bf16."""
    found = []
    with autocast(base.device.type):
        for indices in tqdm(torch.arange(len(data)).split(128), desc="latents"):
            latents = base.encode(data.pixels(indices).to(base.device))
            found.append(latents.bfloat16().cpu())
    return torch.cat(found)


def fit(
    training: Training,
    lr: float = 4e-4,
    text_lr: float = 1e-4,
    names_lr: float = 1e-3,
    start: str = "toy",
    text: str | None = None,
) -> dict:
    """Train U-Net and text encoder into the folder's model/, a pipeline folder. Returns the report.

    start: the base to go on from, or "parts" for a new U-Net on runs/clip and runs/vae.
    text: the folder of another text encoder to begin with, such as runs/text/model.
    """
    torch.manual_seed(training.seed)
    device = training.device
    base = base_of_parts(training.folder.parent) if start == "parts" else load_base(start)
    if text:
        base.text_encoder = CLIPTextModel.from_pretrained(text)
    base = base.frozen(device)
    unet, text_encoder = base.unet.requires_grad_(True), base.text_encoder.requires_grad_(True)
    print(f"attention: {choose_attention(unet, device)}")
    names = add_names_from_parts(text_encoder, base.tokenizer)
    readers = Readers(text_encoder.config.hidden_size).to(device)

    data = training_pictures()
    latents = _cached_latents(base, data, training)
    weights, answers = importance(data, latents), data.answers()
    all_ids, empty = base.tokenize(data.captions), base.tokenize([""])
    eos = base.tokenizer.eos_token_id

    def predict(z_t, t, ids):
        hidden = text_encoder(ids).last_hidden_state
        return base.predict(z_t, t, hidden).float(), hidden

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        z = latents[indices].float()
        noise = torch.randn(z.shape, generator=g)
        places = (torch.randperm(BATCH, generator=g) + torch.rand(BATCH, generator=g)) / BATCH
        t = (1000 * places**HIGH_NOISE).long().clamp(max=999)
        without = torch.rand(BATCH, generator=g) < NO_CAPTION
        ids = torch.where(without[:, None].to(device), empty, all_ids[indices.to(device)])
        z_t, target = base.add_noise(z.to(device), noise.to(device), t.to(device))
        prediction, hidden = predict(z_t, t.to(device), ids)
        error = (prediction - target).square().mean(1)  # (B, h, w)
        diffusion = (error * weights[indices].to(device)).mean()
        wanted = {
            question: found[indices].masked_fill(without, UNKNOWN).to(device)
            for question, found in answers.items()
        }
        asked = readers.loss(ends(hidden, ids, eos, g), wanted)
        return diffusion + QUESTIONS_WEIGHT * asked

    sets = {kind: _gap_set(base, split) for kind, split in SPLITS.items()}

    def check():
        return {f"gap for wrong {kind}": _gap(base, predict, *one) for kind, one in sets.items()}

    other = [one for one in text_encoder.parameters() if one is not names.vectors]
    groups = [
        {"params": unet.parameters(), "lr": lr},
        {"params": other, "lr": text_lr},
        # half of the captions say no name, and none says more than one
        {"params": [names.vectors], "lr": names_lr},
        {"params": readers.parameters(), "lr": 1e-3},
    ]
    model = torch.nn.ModuleDict({"unet": unet, "text": text_encoder, "readers": readers})
    report = train(model, groups, loss_of_step, training, check)
    with torch.no_grad():
        report |= {name: round(value, 3) for name, value in check().items()}
    remove_names_from_parts(text_encoder)
    save(base, training.folder / "model")
    return report


def _cached_latents(base: Base, data: Pictures, training: Training) -> torch.Tensor:
    path = training.folder / "latents.safetensors"
    if not (training.resume and path.exists()):
        latents = encode(base, data)
        with replacing(path) as new:
            save_file({"latents": latents.contiguous()}, new)
    found = read_tensors(path)
    shape = (len(data), CHANNELS, LATENT, LATENT)
    check_alike(str(path), found, {"latents": torch.empty(shape, dtype=torch.bfloat16)})
    return found["latents"]


# {what the gap is measured with: whose pictures}
SPLITS = {"names": "named", "attributes": "held-out"}


def _gap_set(base: Base, split: str, count: int = 96) -> tuple:
    """(latents, right captions, wrong captions) of plain pictures that no training has seen."""
    data = pictures("face", split, count, seed=9, plain=1.0)
    people = list(named("face")[: len(data)]) if split == "named" else data.identities
    right = [caption(*pair) for pair in zip(people, data.scenes, strict=True)]
    neighbours = [*people[1:], people[0]]
    wrong = [caption(*pair) for pair in zip(neighbours, data.scenes, strict=True)]
    return encode(base, data).float(), right, wrong


def _gap(base: Base, predict, latents: torch.Tensor, right: list[str], wrong: list[str]) -> float:
    right_ids, wrong_ids = base.tokenize(right), base.tokenize(wrong)

    def loss(indices, others, noise, t):
        told_right = torch.equal(indices, others)
        ids = (right_ids if told_right else wrong_ids)[indices.to(base.device)]
        z = latents[indices].to(base.device)
        z_t, target = base.add_noise(z, noise.to(base.device), t.to(base.device))
        prediction, _ = predict(z_t, t.to(base.device), ids)
        return (prediction - target).square().mean()

    return relative_gap(base, latents, loss)


def save(base: Base, folder):
    """Write the base as a pipeline folder in fp16, computed in fp32 unless asked otherwise."""
    pipeline_of(base).to("cpu", torch.float16).save_pretrained(folder)
    for part in ("text_encoder", "image_encoder"):  # diffusers' own parts do not store a dtype
        config = folder / part / "config.json"
        config.write_text(config.read_text().replace('"float16"', '"float32"'))
