"""Files of other tools. In: the offsets of the one public E4T checkpoint format. Out: a concept."""

import os
import re
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file

from ..base import Base, path_of
from ..helpers.checks import reason
from ..helpers.files import check_apart, check_new, replacing_folder
from ..helpers.reading import read_json, read_tensors
from ..model import E4T
from ..offsets import FoldedOffset, attention_projections
from .fixed import fixed_word

# a tensor of their weight_offsets.pt: attention layer, projection, and which tensor of the offset
PUBLIC_NAME = re.compile(
    r"(?:module\.)?(.+\.attn[12])\.wo_([qkv])"
    r"\.(v|(?:linear1|linear2|linear_column|linear_row)\.(?:weight|bias))"
)
ENCODER_NOTE = (
    "encoder.pt is not imported: it reads every second patch of the vision tower's last layer and "
    "all skip connections of the U-Net, ours the [CLS] tokens of every second layer and the "
    "blocks' outputs, so no weights of the one say anything to the other. S* starts as the class "
    "word; train an encoder with `e4t pretrain --weights`."
)


def import_public(
    folder: str | Path, base: Base, class_word: str | None = None, token: str = "S*"
) -> tuple[E4T, list[str]]:
    """(E4T with the offsets of a checkpoint of mkshing/e4t-diffusion, notes for the user).

    Its encoder is a new one. class_word: default: what the checkpoint's config.json says.
    ValueError if the folder is missing, damaged, or made for another base.
    """
    folder = Path(folder)
    tensors, config = _read_public(folder)
    class_word = class_word or _public_class_word(config)
    if not class_word:
        raise ValueError(
            f"{folder}/config.json does not say which class word its offsets were trained for: "
            "give one (--class-word face)."
        )
    offsets = fold_public(tensors)
    model = E4T(base, class_word, token, offsets=offsets)  # refuses offsets of another U-Net
    notes = [f"{len(offsets)} offsets imported exactly"]
    if (folder / "encoder.pt").exists():
        notes.append(ENCODER_NOTE)
    return model, notes


class PublicConfig(BaseModel):
    """What we take from their config.json."""

    model_config = ConfigDict(extra="ignore")

    domain_class_token: str | None = None
    pretrained_args: "PublicConfig | None" = None


def _read_public(folder: Path) -> tuple[dict[str, torch.Tensor], PublicConfig]:
    """(tensors of weight_offsets.pt, config.json). Nothing in the files is run."""
    try:
        tensors = read_tensors(folder / "weight_offsets.pt")
        path = folder / "config.json"
        config = read_json(path, PublicConfig) if path.exists() else PublicConfig()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no checkpoint of mkshing/e4t-diffusion ({reason(error, 400)})."
        ) from None
    return tensors, config


def _public_class_word(config: PublicConfig) -> str | None:
    if config.domain_class_token or config.pretrained_args is None:
        return config.domain_class_token
    return config.pretrained_args.domain_class_token


def fold_public(tensors: dict[str, torch.Tensor]) -> dict[str, FoldedOffset]:
    """`weight_offsets.pt` of mkshing/e4t-diffusion -> {name: our folded offset}, without loss.

    ValueError for another layout, or none at all.
    """
    if not tensors:
        raise ValueError("The file of weight offsets is empty: there is nothing to import.")
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = PUBLIC_NAME.fullmatch(key)
        if match is None:
            raise ValueError(
                f"{key!r} is no weight offset of mkshing/e4t-diffusion "
                "(such as down_blocks.0.attentions.0.transformer_blocks.0.attn1.wo_q.v)."
            )
        layer, projection, part = match.groups()
        by_name.setdefault(f"{layer}.to_{projection}", {})[part] = tensor.float()
    folded = {}
    for name, parts in by_name.items():
        try:
            folded[name] = FoldedOffset(*_public_factors(parts))
        except KeyError as error:
            raise ValueError(
                f"The offset of {name} lacks {error}: the file is not whole. Download it again."
            ) from None
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"The parts of the offset of {name} do not fit each other ({reason(error)})."
            ) from None
    return folded


def _public_factors(parts: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """left (n, 3), right (m, 3) with their Delta = left @ right^T, for a weight W (n, m).

    Theirs: x = linear1(v) (m), y = linear2(v) (n), and
    Delta = linear_row(linear_column(y x^T)^T)^T. With C, c the column-wise and R, r the row-wise
    linear that is (R y)(C x)^T + (R 1) c^T + r 1^T: rank 3, as ours.
    """
    _check_shapes(parts)
    x = parts["linear1.weight"] @ parts["v"] + parts["linear1.bias"]
    y = parts["linear2.weight"] @ parts["v"] + parts["linear2.bias"]
    C, c = parts["linear_column.weight"], parts["linear_column.bias"]
    R, r = parts["linear_row.weight"], parts["linear_row.bias"]
    left = torch.stack([R @ y, R.sum(1), r], dim=1)
    right = torch.stack([C @ x, c, torch.ones_like(x)], dim=1)
    return left, right


def _check_shapes(parts: dict[str, torch.Tensor]):
    """RuntimeError for a bias or a constant that would only fit by being repeated."""
    wanted = {"v": parts["linear1.weight"].shape[1:]}
    for linear in ("linear1", "linear2", "linear_column", "linear_row"):
        wanted[f"{linear}.bias"] = parts[f"{linear}.weight"].shape[:1]
    for name, shape in wanted.items():
        if parts[name].shape != shape:
            raise RuntimeError(f"{name} is {list(parts[name].shape)}, not {list(shape)}")


def merged(model: E4T) -> dict[str, torch.Tensor]:
    """{name in the U-Net's state dict: W (1 + Delta)} of every projection that has an offset."""
    model.check_attached()
    linears = attention_projections(model.base.unet)
    return {f"{name}.weight": linears[name].weight.detach().clone() for name in model.offsets}


def export(model: E4T, folder: str | Path, image: Image.Image | None = None) -> None:
    """Write a concept for stock diffusers and other tools.

    embedding.safetensors is a textual inversion, attention.safetensors holds the merged weights,
    and README.md the lines that load them. Merged and not as a LoRA: W * Delta has full rank though
    Delta has rank 3, so a LoRA file would lose some of it.

    image: of the concept; default: the one that it was personalized on. ValueError if there is
    none, or if the folder exists and is not empty.
    """
    folder = check_new(folder)
    dtype, token, base = model.base.dtype, model.placeholder.token, path_of(model.base.name)
    check_apart(folder, base=base)
    if Path(base).is_dir():
        base = os.path.realpath(base)  # the card lies elsewhere
    word = fixed_word(model, image)
    weights = {name: weight.to(dtype).contiguous().cpu() for name, weight in merged(model).items()}
    card = CARD.format(token=token, base=base, size=len(word))
    with replacing_folder(folder) as new:
        save_file({token: word.to(dtype).cpu()}, new / "embedding.safetensors")
        save_file(weights, new / "attention.safetensors")
        (new / "README.md").write_text(card, "utf-8")


CARD = """# {token}, exported from e4t-minimal

With stock diffusers, in this folder:

```python
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

base, token = {base!r}, {token!r}
pipe = StableDiffusionPipeline.from_pretrained(base)
pipe.load_textual_inversion("embedding.safetensors", token=token)
pipe.unet.load_state_dict(load_file("attention.safetensors"), strict=False)
pipe("a photo of " + token).images[0]
```

`embedding.safetensors` is one vector of {size} numbers, as Textual Inversion makes it.
`attention.safetensors` holds the attention weights with the offsets merged in, exactly.

**What is lost:** E4T predicts {token} anew at every denoising step, from the drawing so far.
Here it is fixed: the mean of 16 such predictions.
"""
