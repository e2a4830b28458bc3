"""A base's true shapes without its weights, from its JSON configs: filled with random numbers.

For tests, for `e4t plan`, and for machines without network. `sd15` and `sd21` ship here; any
diffusers folder or hub id has its configs too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch

from ..base import Base, path_of
from ..helpers.checks import reason
from ..helpers.pipelines import VISION
from ..helpers.reading import read_json
from ..helpers.runtime import quiet
from ..offsets import attached_offsets

CONFIGS = Path(__file__).parent / "configs"
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.json"))


@quiet()
def read_architecture(name: str, vision: str = VISION) -> dict[str, dict]:
    """{part: config} of a base.

    name: "sd15", "sd21", "toy", a diffusers folder or a hub id, of which only the configs are
    fetched. vision: the vision tower of a base without one. ValueError if there is no such base.
    """
    if name in SHIPPED:
        return read_json(CONFIGS / f"{name}.json", dict[str, dict])
    path = path_of(name)
    try:
        parts = _read_pipeline(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Stable Diffusion at {path!r} ({reason(error)}). "
            f'Give {", ".join(SHIPPED)}, "toy", a diffusers folder, or a hub id.'
        ) from None
    try:
        return parts | _read_vision(path, "image_encoder", "feature_extractor")
    except (OSError, ValueError):
        if vision != VISION:
            return parts | _read_vision(vision)
        shipped = read_architecture("sd15")  # has that tower: no need to fetch its configs
        return parts | {part: shipped[part] for part in ("image_encoder", "feature_extractor")}


def _read_pipeline(path: str) -> dict[str, dict]:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    return {
        "unet": UNet2DConditionModel.load_config(path, subfolder="unet"),
        "vae": AutoencoderKL.load_config(path, subfolder="vae"),
        "scheduler": DDIMScheduler.load_config(path, subfolder="scheduler"),
        "text_encoder": CLIPTextConfig.from_pretrained(path, subfolder="text_encoder").to_dict(),
    }


def _read_vision(path: str, tower_folder: str = "", images_folder: str = "") -> dict[str, dict]:
    from transformers import AutoImageProcessor, CLIPVisionConfig

    tower = CLIPVisionConfig.from_pretrained(path, subfolder=tower_folder)
    images = AutoImageProcessor.from_pretrained(path, subfolder=images_folder)
    means = {"image_mean": list(images.image_mean), "image_std": list(images.image_std)}
    return {"image_encoder": tower.to_dict(), "feature_extractor": means}


def narrow(architecture: dict[str, dict], by: int) -> dict[str, dict]:
    """The same layers with every width divided by `by`.

    The towers' heads are divided with them; groups of the norms as far as they must be.
    """
    small = deepcopy(architecture)
    for part in (small["unet"], small["vae"]):
        channels = [width // by for width in part["block_out_channels"]]
        part["block_out_channels"] = channels
        part["norm_num_groups"] = _groups(channels)
    small["unet"]["cross_attention_dim"] //= by
    for part in (small["text_encoder"], small["image_encoder"]):
        part["num_attention_heads"] = max(1, part["num_attention_heads"] // by)
        part["hidden_size"] //= by
        part["intermediate_size"] //= by
    return small


def _groups(channels: list[int]) -> int:
    """The most groups, 32 at most, into which all these numbers of channels can be divided."""
    for groups in (32, 16, 8, 4, 2):
        if all(width % groups == 0 for width in channels):
            return groups
    return 1


@quiet()
def build(
    architecture: str | dict[str, dict],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
    seed: int = 0,
) -> Base:
    """A frozen base of that architecture with random weights.

    architecture: a name, or what `read_architecture` gave. resolution: pixels of its pictures.
    Its words are the toy's: which words there are changes no shape.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    name, parts = "random", architecture
    if isinstance(architecture, str):
        name, parts = architecture, read_architecture(architecture)
    tokenizer = _toy_tokenizer(parts["text_encoder"]["max_position_embeddings"])
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(CLIPTextConfig(**parts["text_encoder"] | marks))
        vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**parts["image_encoder"]))
        vae = AutoencoderKL.from_config(parts["vae"])
        unet = UNet2DConditionModel.from_config(parts["unet"])
    base = Base(
        name=name,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        unet=unet,
        scheduler=DDIMScheduler.from_config(parts["scheduler"], clip_sample=False),
        vision=vision,
        preprocessor=_preprocessor(parts),
    )
    return base.frozen(device, resolution)


def _toy_tokenizer(length: int):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(path_of("toy"), subfolder="tokenizer")
    tokenizer.model_max_length = length
    return tokenizer


def _preprocessor(parts: dict[str, dict]):
    from transformers import CLIPImageProcessorPil

    size = parts["image_encoder"]["image_size"]
    images = parts["feature_extractor"]
    return CLIPImageProcessorPil(
        image_mean=images["image_mean"],
        image_std=images["image_std"],
        size={"shortest_edge": size},
        crop_size=size,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, what is made is made in this dtype: a large base is never held in fp32 first."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def pipeline_of(base: Base):
    """The base as a stock `StableDiffusionPipeline`, which shares its parts."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=base.preprocessor,
        image_encoder=base.vision,
        requires_safety_checker=False,
    )


@quiet()
def save_base(base: Base, folder: str | Path) -> None:
    """Write a diffusers pipeline folder, as `load_base` and `StableDiffusionPipeline` read it.

    ValueError while an E4T's offsets hang on the base: no reader would know their names.
    """
    if attached_offsets(base.unet):
        raise ValueError(
            "An E4T's offsets hang on this base. Take them off with the model's `detach()`, or "
            "keep what they do with `remove_offsets(base.unet, merge=True)`; then save."
        )
    pipeline_of(base).save_pretrained(folder)
