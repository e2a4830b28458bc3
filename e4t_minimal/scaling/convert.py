"""Files of other tools. In: the offsets of the one public E4T checkpoint format. Out: a concept."""

import json
import pickle
import re
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from ..base import Base, path_of
from ..files import filling
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


def _read_public(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors of weight_offsets.pt, config.json). Nothing in the files is run."""
    try:
        tensors = torch.load(folder / "weight_offsets.pt", map_location="cpu", weights_only=True)
        path = folder / "config.json"
        config = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{folder} is no checkpoint of mkshing/e4t-diffusion: its weight_offsets.pt is "
            f"missing, damaged, or holds more than tensors ({type(error).__name__})."
        ) from None
    return tensors, config


def _public_class_word(config: dict) -> str | None:
    arguments = config.get("pretrained_args", {})
    return config.get("domain_class_token") or arguments.get("domain_class_token")


def fold_public(tensors: dict[str, torch.Tensor]) -> dict[str, FoldedOffset]:
    """`weight_offsets.pt` of mkshing/e4t-diffusion -> {name: our folded offset}, without loss.

    ValueError for another layout.
    """
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
    return folded


def _public_factors(parts: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """left (n, 3), right (m, 3) with their Delta = left @ right^T, for a weight W (n, m).

    Theirs: x = linear1(v) (m), y = linear2(v) (n), and
    Delta = linear_row(linear_column(y x^T)^T)^T. With C, c the column-wise and R, r the row-wise
    linear that is (R y)(C x)^T + (R 1) c^T + r 1^T: rank 3, as ours.
    """
    x = parts["linear1.weight"] @ parts["v"] + parts["linear1.bias"]
    y = parts["linear2.weight"] @ parts["v"] + parts["linear2.bias"]
    C, c = parts["linear_column.weight"], parts["linear_column.bias"]
    R, r = parts["linear_row.weight"], parts["linear_row.bias"]
    left = torch.stack([R @ y, R.sum(1), r], dim=1)
    right = torch.stack([C @ x, c, torch.ones_like(x)], dim=1)
    return left, right


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
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists and is not empty; nothing was written. Choose another name."
        )
    dtype, token = model.base.dtype, model.placeholder.token
    word = fixed_word(model, image)
    weights = {name: weight.to(dtype).contiguous().cpu() for name, weight in merged(model).items()}
    card = CARD.format(token=token, base=path_of(model.base.name), size=len(word))
    with filling(folder) as new:
        save_file({token: word.to(dtype).cpu()}, new / "embedding.safetensors")
        save_file(weights, new / "attention.safetensors")
        (new / "README.md").write_text(card)


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

**What is lost:** E4T predicts {token} anew at every denoising step, from the drawing so far.
Here it is fixed: the mean of 16 such predictions.
"""
