"""A Stable Diffusion's parts and its scheduler; what is none, or is not whole, is refused.

Only Stable Diffusion 1.x and 2.x for text to image fit: what is drawn from noise by one U-Net that
reads one text encoder. The libraries load many others too, and fill what is missing with noise.
"""

import inspect
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch

from .checks import choice, number, reason, whole
from .runtime import generator

# for bases that bring no vision tower of their own
VISION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

FITS = "What fits is a Stable Diffusion 1.x or 2.x for text to image, as diffusers saves it."
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".bin")
CLASSES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
PREDICTIONS = ("epsilon", "v_prediction", "sample")  # what a U-Net may have been trained to say
SLICED = 32  # height and width of latents: pictures of 256 pixels
LARGEST = 512  # height and width of latents: pictures of 4,096 pixels


def load_parts(path: str, vision: str | None, dtype: torch.dtype) -> dict:
    """{field of `Base`: part} of the folder or hub id `path`, on the CPU.

    vision: folder or hub id of a CLIP, for a base without an image encoder (default: VISION).
    ValueError if there is no Stable Diffusion, or one of another family, if a part is missing or
    damaged, or if there are two image encoders.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

    _check_file(path)
    with _told(path):
        config = StableDiffusionPipeline.load_config(path)
    _check_family(path, config)
    classes = {
        "text_encoder": CLIPTextModel,
        "vae": AutoencoderKL,
        "unet": UNet2DConditionModel,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    brings_tower = bool(config.get("image_encoder", [None])[0])
    if not brings_tower:
        del classes["image_encoder"]
    elif vision:
        raise ValueError(
            f"{path!r} brings an image_encoder of its own, so {vision!r} would not be used: leave "
            "`vision` out."
        )
    with _told(path):
        models = {
            part: _load_whole(of_class, path, dtype, subfolder=part)
            for part, of_class in classes.items()
        }
        pipe = StableDiffusionPipeline.from_pretrained(
            path, dtype=dtype, safety_checker=None, requires_safety_checker=False, **models
        )
    check_fit(path, pipe)
    if pipe.unet.config.sample_size >= SLICED:
        pipe.vae.enable_slicing()  # one picture at a time: the autoencoder takes most memory
    parts = {
        "tokenizer": pipe.tokenizer,
        "text_encoder": pipe.text_encoder,
        "vae": pipe.vae,
        "unet": pipe.unet,
        "scheduler": _ddim(pipe.scheduler),
    }
    if brings_tower:
        return parts | {"vision": pipe.image_encoder, "preprocessor": pipe.feature_extractor}
    return parts | _load_vision(vision or VISION, dtype, path)


def _ddim(scheduler):
    from diffusers import DDIMScheduler

    # latents are not pixels: some schedulers leave clip_sample to DDIM's default
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def set_scheduler(base, scheduler, steps: int):
    """A copy, so that two drawings at once do not share it, set to so many steps.

    ValueError for one that takes the U-Net's answer for something else than it is.
    """
    answer = base.scheduler.config.prediction_type
    # EDM's is listed among them, but scales what the U-Net sees and says in a way of its own
    kinds = [kind for kind in base.scheduler.compatibles if kind.__name__ != "EDMEulerScheduler"]
    fits = isinstance(scheduler, tuple(kinds))
    if not fits or scheduler.config.get("prediction_type") != answer:
        name = type(scheduler).__name__
        raise ValueError(
            f"This {name} does not fit the base, which says {answer!r}. Make one of diffusers' for "
            "Stable Diffusion with `from_config(base.scheduler.config)`."
        )
    scheduler = deepcopy(scheduler)
    last = scheduler.config.num_train_timesteps - scheduler.config.get("steps_offset", 0)
    whole(1, last, steps=steps)
    scheduler.set_timesteps(steps, device=base.device)
    return scheduler


def generators(scheduler, count: int, seed: int) -> dict[str, list[torch.Generator]]:
    """What a scheduler's `step` needs if it adds noise: picture i has numbers of its own."""
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    return {"generator": [generator(seed + i, 1) for i in range(count)]}


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What a library says of a folder as one sentence; a lack of memory stays what it is."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"No Stable Diffusion at {path!r} ({reason(error, 200)}). "
            'Give "toy", a folder saved by diffusers, or the id of a model on the hub.'
        ) from error


def _check_file(path: str):
    if not Path(path).is_file():
        return
    if not path.lower().endswith(SINGLE_FILES):
        raise ValueError(f"{path!r} is a file, and not a folder. {FITS}")
    folder = str(Path(path).with_suffix(""))
    code = (
        "from diffusers import StableDiffusionPipeline as P; "
        f"P.from_single_file({path!r}).save_pretrained({folder!r})"
    )
    raise ValueError(
        f"{path!r} is a whole model in a single file. Convert it once (diffusers fetches its "
        f"configuration from the hub) and give the folder {folder!r}:\n"
        f"python -c {shlex.quote(code)}"
    )


def _check_family(path: str, config: dict):
    family = config.get("_class_name")
    if family not in CLASSES:
        raise ValueError(f"{path!r} is a {family}. {FITS}")


def _load_whole(of_class: type, path: str, dtype: torch.dtype, **where) -> torch.nn.Module:
    """The model, if no weight of it is missing; the libraries would draw it at random."""
    model, found = of_class.from_pretrained(path, dtype=dtype, output_loading_info=True, **where)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{len(missing)} weights of the {of_class.__name__} are missing: "
            f"{', '.join(missing[:3])}"
        )
    for name, weight in model.named_parameters():
        # a sum shows a NaN as well as a look at every number, and is ten times faster
        if not weight.sum(dtype=torch.float32).isfinite():
            raise ValueError(f"{name} of the {of_class.__name__} is not finite")
    return model


def _load_vision(vision: str, dtype: torch.dtype, path: str) -> dict:
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    try:
        tower = _load_whole(CLIPVisionModelWithProjection, vision, dtype)
        preprocessor = AutoImageProcessor.from_pretrained(vision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path!r} brings no image_encoder, and there is no CLIP at {vision!r} "
            f"({reason(error)}). Give `vision`, a folder or hub id of a CLIP."
        ) from error
    # a folder is to be known again from wherever a model on it is loaded
    name = os.path.realpath(vision) if Path(vision).is_dir() else str(vision)
    return {"vision": tower, "preprocessor": preprocessor, "vision_name": name}


def check_fit(path: str, pipe):
    """ValueError if the parts of a pipeline do not belong together, or to E4T's kind of base."""
    for wrong in _misfits(pipe.unet.config, pipe.vae.config, pipe.text_encoder.config):
        raise ValueError(f"{path!r} does not fit: {wrong}. {FITS}")
    try:
        whole(1, LARGEST, sample_size=pipe.unet.config.sample_size)
        number(1e-6, 1e6, scaling_factor=pipe.vae.config.scaling_factor)
        longest = pipe.text_encoder.config.max_position_embeddings
        whole(3, longest, model_max_length=pipe.tokenizer.model_max_length)
        choice("base that predicts", pipe.scheduler.config.prediction_type, PREDICTIONS)
        whole(1, pipe.text_encoder.config.vocab_size, words_of_the_tokenizer=len(pipe.tokenizer))
    except ValueError as error:
        raise ValueError(f"{path!r} does not fit: in its configuration, {error}") from None
    if pipe.image_encoder is not None and pipe.feature_extractor is None:
        raise ValueError(
            f"{path!r} brings an image_encoder, but not the feature_extractor that says how its "
            "pictures are to be given. Put the preprocessor_config.json of that CLIP there."
        )


def _misfits(unet: dict, vae: dict, text: dict) -> Iterator[str]:
    """What in the configurations does not belong to a plain text-to-image Stable Diffusion."""
    channels = vae.latent_channels
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        yield (
            f"its U-Net reads {unet.in_channels} channels and writes {unet.out_channels}, where a "
            f"latent has {channels} (more are read for inpainting, or to edit pictures)"
        )
    if unet.cross_attention_dim != text.hidden_size:
        yield (
            f"its U-Net reads words of width {unet.cross_attention_dim}, its text encoder writes "
            f"{text.hidden_size}"
        )
    for option in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if unet.get(option) is not None:
            yield f"its U-Net wants more than a prompt ({option} {unet[option]!r})"
