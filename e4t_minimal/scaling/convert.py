"""In: the offsets of the one public E4T checkpoint format. Out: a concept as files that other tools read."""

import json
import pickle
import re
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from ..base import Base, path_of
from ..encoder import Word
from ..files import filling
from ..model import E4T
from ..offsets import FoldedOffset, attention_projections
from ..sample import start_noise

THEIRS = re.compile(
    r"(?:module\.)?(.+\.attn[12])\.wo_([qkv])\.(v|linear1\.weight|linear1\.bias|linear2\.weight|linear2\.bias|"
    r"linear_column\.weight|linear_column\.bias|linear_row\.weight|linear_row\.bias)"
)
ENCODER = (
    "encoder.pt is not imported: it reads every second patch of the vision tower's last layer and all skip connections of the U-Net, "
    "ours the [CLS] tokens of every second layer and the blocks' outputs, so no weights of the one say anything to the other. "
    "S* starts as the class word; train an encoder with `e4t pretrain --weights`."
)


def fold_public(tensors: dict[str, torch.Tensor]) -> dict[str, FoldedOffset]:
    """`weight_offsets.pt` of mkshing/e4t-diffusion -> {name: our folded offset}, without loss.

    Theirs, for W (n, m): x = linear1(v) (m), y = linear2(v) (n), Delta = the transpose of linear_row(linear_column(y x^T)^T). With C, c and R, r the
    column- and the row-wise linear that is (R y)(C x)^T + (R 1) c^T + r 1^T: rank 3, as ours. ValueError for another layout."""
    found = {}
    for key, tensor in tensors.items():
        match = THEIRS.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{key!r} is no weight offset of mkshing/e4t-diffusion (such as down_blocks.0.attentions.0.transformer_blocks.0.attn1.wo_q.v)."
            )
        found.setdefault(f"{match[1]}.to_{match[2]}", {})[match[3]] = tensor.float()
    folded = {}
    for name, o in found.items():
        try:
            x, y = (
                o["linear1.weight"] @ o["v"] + o["linear1.bias"],
                o["linear2.weight"] @ o["v"] + o["linear2.bias"],
            )
            C, c, R, r = (
                o[f"linear_{side}.{kind}"]
                for side in ("column", "row")
                for kind in ("weight", "bias")
            )
        except KeyError as error:
            raise ValueError(
                f"The offset of {name} lacks {error}: the file is not whole. Download it again."
            ) from None
        folded[name] = FoldedOffset(
            torch.stack([R @ y, R.sum(1), r], dim=1),
            torch.stack([C @ x, c, torch.ones_like(x)], dim=1),
        )
    return folded


def import_public(
    folder: str | Path, base: Base, class_word: str | None = None, token: str = "S*"
) -> tuple[E4T, list[str]]:
    """(E4T with the offsets of a checkpoint folder of mkshing/e4t-diffusion and a new encoder, notes for the user).

    Read with weights_only=True: nothing in the file is run. ValueError if it is missing, damaged, or made for another base."""
    folder = Path(folder)
    try:
        tensors = torch.load(folder / "weight_offsets.pt", map_location="cpu", weights_only=True)
        config = (
            json.loads((folder / "config.json").read_text())
            if (folder / "config.json").exists()
            else {}
        )
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{folder} is no checkpoint of mkshing/e4t-diffusion: its weight_offsets.pt is missing, damaged, or holds more than tensors "
            f"({type(error).__name__})."
        ) from None
    class_word = (
        class_word
        or config.get("domain_class_token")
        or config.get("pretrained_args", {}).get("domain_class_token")
    )
    if not class_word:
        raise ValueError(
            f"{folder}/config.json does not say which class word its offsets were trained for: give one (--class-word face)."
        )
    offsets, linears = fold_public(tensors), attention_projections(base.unet)
    wrong = [
        name
        for name in offsets
        if name in linears and offsets[name].delta().shape != linears[name].weight.shape
    ]
    if wrong:
        raise ValueError(
            f"These offsets belong to another U-Net: {wrong[0]} is {tuple(offsets[wrong[0]].delta().shape)}, here {tuple(linears[wrong[0]].weight.shape)}."
        )
    model = E4T(base, class_word, token, offsets=offsets)
    return model, [f"{len(offsets)} offsets imported exactly"] + (
        [ENCODER] if (folder / "encoder.pt").exists() else []
    )


@torch.no_grad()
def fixed_word(
    model: E4T, image: Image.Image | None = None, looks: int = 16, seed: int = 0
) -> torch.Tensor:
    """One v* (D,) for tools that cannot predict it anew at every step: its mean over `looks` noisy versions of the picture, t spread evenly."""
    image = image or model.picture
    if image is None:
        raise ValueError(
            "There is no picture of the concept: give one, or export a concept that `e4t personalize` saved."
        )
    base, pixels = model.base, model.base.pixels([image])
    latents, view = base.encode(pixels), model.encoder.view(base, pixels)
    t = (
        torch.linspace(0, base.scheduler.config.num_train_timesteps - 1, looks)
        .long()
        .to(base.device)
    )
    words = []
    for one, noise in zip(t, start_noise(base, looks, seed)):
        z_t, _ = base.noisy(latents, noise[None], one[None])
        words.append(model.embedding(view, model.features(z_t, one[None]))[0])
    return torch.cat(words).mean(0)


@contextmanager
def fixed(model: E4T, image: Image.Image | None = None):
    """Inside, S* is `fixed_word` at every step, for whatever picture: to see what predicting it anew is worth."""
    encoder, word = model.encoder, Word.for_base(model.base).to(model.base.device)
    with torch.no_grad():
        word.offset.copy_(fixed_word(model, image) - model.placeholder.class_embedding)
    model.encoder = word
    try:
        yield
    finally:
        model.encoder = encoder


def merged(model: E4T) -> dict[str, torch.Tensor]:
    """{name in the U-Net's state dict: W (1 + Delta)} of every projection that has an offset."""
    linears = attention_projections(model.base.unet)
    return {f"{name}.weight": linears[name].weight.detach().clone() for name in model.offsets}


def export(model: E4T, folder: str | Path, image: Image.Image | None = None):
    """Write embedding.safetensors (textual inversion), attention.safetensors (merged weights) and README.md with the lines that load them.

    Merged and not as a LoRA: W * Delta has full rank though Delta has rank 3, so a LoRA file would lose some of it. The folder must not exist, or be empty."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists and is not empty; nothing was written. Choose another name."
        )
    word = fixed_word(model, image)
    token = model.placeholder.token
    with filling(folder) as new:
        save_file({token: word.to(model.base.dtype).cpu()}, new / "embedding.safetensors")
        save_file(
            {
                name: tensor.to(model.base.dtype).contiguous().cpu()
                for name, tensor in merged(model).items()
            },
            new / "attention.safetensors",
        )
        (new / "README.md").write_text(
            CARD.format(token=token, base=path_of(model.base.name), size=len(word))
        )


CARD = """# {token}, exported from e4t-minimal

Made for the base `{base}`. With stock diffusers:

```python
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

pipe = StableDiffusionPipeline.from_pretrained("{base}")
pipe.load_textual_inversion("embedding.safetensors", token="{token}")
pipe.unet.load_state_dict(load_file("attention.safetensors"), strict=False)
pipe("a photo of {token}").images[0]
```

`embedding.safetensors` is one vector of {size} numbers, as Textual Inversion makes it.
`attention.safetensors` holds the attention weights with the offsets merged in, exactly.

**What is lost:** E4T predicts {token} anew at every denoising step, from the drawing so far. Here it is fixed: the mean of 16 such predictions.
"""
