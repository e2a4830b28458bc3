"""A base's true shapes without its weights, from its JSON configs: random numbers (or, under FakeTensorMode, no numbers at all).

For tests, for `e4t plan`, and for machines without network. `sd15` and `sd21` ship here; any diffusers folder or hub id has its configs too.
"""

import json
from copy import deepcopy
from pathlib import Path

import torch

from .. import DATA
from ..base import VISION, Base, quiet

HERE = Path(__file__).parent / "configs"
SHIPPED = sorted(path.stem for path in HERE.glob("*.json"))
PARTS = ("unet", "vae", "text_encoder", "scheduler")


@quiet()
def read_architecture(name: str, vision: str = VISION) -> dict[str, dict]:
    """{part: config} of "sd15", "sd21", "toy", a diffusers folder or a hub id (of which only the configs are fetched); ValueError if there is none."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import AutoImageProcessor, CLIPTextConfig, CLIPVisionConfig

    if name in SHIPPED:
        return json.loads((HERE / f"{name}.json").read_text())
    path = str(DATA / "toy-sd") if name == "toy" else str(name)
    try:
        found = {
            part: kind.load_config(path, subfolder=part)
            for part, kind in zip(PARTS, (UNet2DConditionModel, AutoencoderKL, None, DDIMScheduler))
            if kind
        }
        found["text_encoder"] = CLIPTextConfig.from_pretrained(
            path, subfolder="text_encoder"
        ).to_dict()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Stable Diffusion at {path!r} ({str(error).splitlines()[0][:160]}). "
            f'Give {", ".join(SHIPPED)}, "toy", a diffusers folder, or a hub id.'
        ) from None
    try:
        tower, images = (
            CLIPVisionConfig.from_pretrained(path, subfolder="image_encoder"),
            AutoImageProcessor.from_pretrained(path, subfolder="feature_extractor"),
        )
    except (OSError, ValueError):
        if vision == VISION:  # its configs are here: no need to fetch them
            return found | {
                part: read_architecture("sd15")[part]
                for part in ("image_encoder", "feature_extractor")
            }
        tower, images = (
            CLIPVisionConfig.from_pretrained(vision),
            AutoImageProcessor.from_pretrained(vision),
        )
    return found | {
        "image_encoder": tower.to_dict(),
        "feature_extractor": {
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
        },
    }


def narrow(architecture: dict[str, dict], by: int) -> dict[str, dict]:
    """The same layers with every width divided by `by` (the towers' heads with them; groups of the norms as far as they must)."""
    small = deepcopy(architecture)
    for part in ("unet", "vae"):
        small[part]["block_out_channels"] = [c // by for c in small[part]["block_out_channels"]]
        small[part]["norm_num_groups"] = max(
            g
            for g in (32, 16, 8, 4, 2, 1)
            if all(c % g == 0 for c in small[part]["block_out_channels"])
        )
    small["unet"]["cross_attention_dim"] //= by
    for part in ("text_encoder", "image_encoder"):
        small[part]["num_attention_heads"] = max(1, small[part]["num_attention_heads"] // by)
        small[part]["hidden_size"] //= by
        small[part]["intermediate_size"] //= by
    return small


@quiet()
def build(
    architecture: str | dict[str, dict],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
    seed: int = 0,
) -> Base:
    """A frozen base of that architecture with random weights. Its words are the toy's: which words there are changes no shape."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessorPil,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    name = architecture if isinstance(architecture, str) else "random"
    parts = read_architecture(architecture) if isinstance(architecture, str) else architecture
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "toy-sd" / "tokenizer")
    tokenizer.model_max_length = parts["text_encoder"]["max_position_embeddings"]
    text_config = CLIPTextConfig(
        **parts["text_encoder"]
        | {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    )
    vision_config = CLIPVisionConfig(**parts["image_encoder"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that a large base is never held in fp32 first
    torch.manual_seed(seed)
    try:
        text, tower = CLIPTextModel(text_config), CLIPVisionModelWithProjection(vision_config)
        vae, unet = (
            AutoencoderKL.from_config(parts["vae"]),
            UNet2DConditionModel.from_config(parts["unet"]),
        )
    finally:
        torch.set_default_dtype(before)
    size = parts["image_encoder"]["image_size"]
    images = CLIPImageProcessorPil(
        **{k: parts["feature_extractor"][k] for k in ("image_mean", "image_std")},
        size={"shortest_edge": size},
        crop_size=size,
    )
    return Base(
        name,
        tokenizer,
        text,
        vae,
        unet,
        DDIMScheduler.from_config(parts["scheduler"], clip_sample=False),
        tower,
        images,
    ).frozen(device, resolution)


@quiet()
def save_base(base: Base, folder: str | Path):
    """Write a base as a diffusers pipeline folder, as `load_base` and stock `StableDiffusionPipeline` read it."""
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        base.scheduler,
        None,
        base.preprocessor,
        base.vision,
        False,
    ).save_pretrained(folder)
