"""What E4T does not do, to be measured against what it does: an encoder, an offset, three terms.

Importing this file makes them known to the method by name: encoder "resnet18", offsets "additive",
terms of the loss "contrastive", "sparsity" and "cosine".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..base import Base
from ..encoder import ENCODERS
from ..helpers import checks
from ..model import E4T, Batch, Prediction
from ..offsets import OFFSETS, STORED, attention_projections
from ..regularizers import TERMS


@dataclass(frozen=True)
class ResNetEncoderConfig:
    """Width of what it writes, and the scale of the offset; stored in e4t.json."""

    word_width: int  # D, of a word's embedding
    s: float = 0.1  # v* = v_class + s E

    def __post_init__(self):
        checks.whole(1, 2**16, word_width=self.word_width)
        checks.number(0, 100, s=self.s)


class ResNetEncoder(nn.Module):
    """A ResNet-18 (He et al. 2016) that starts from random weights and sees the picture alone.

    With group normalization (Wu & He 2018) in the place of batch normalization: that would make
    the offset depend on what else is in the batch, on the size of micro-batches, and on every pass
    before, also those without gradients. In phase 2 its statistics would be those of one picture.
    """

    sees_noise = False

    def __init__(self, config: ResNetEncoderConfig):
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.config = config
        body = ResNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
        )
        self.body = ResNetModel(body)
        _normalize_groups(self.body)
        self.out = nn.Linear(512, config.word_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image_features: torch.Tensor, unet_features: torch.Tensor) -> torch.Tensor:
        """image_features: the pixels (B, 3, H, W) in [-1, 1] -> s * E (B, D)."""
        pooled = self.body(image_features).pooler_output.flatten(1)  # (B, 512)
        return self.config.s * self.out(pooled)

    @classmethod
    def for_base(cls, base: Base, **options) -> "ResNetEncoder":
        """options: s of `ResNetEncoderConfig`."""
        return cls(cls.config_for(base, **options))

    @staticmethod
    def config_for(base: Base, **options) -> ResNetEncoderConfig:
        return ResNetEncoderConfig(base.text_encoder.config.hidden_size, **options)

    @staticmethod
    def image_features(base: Base, pixels: torch.Tensor) -> torch.Tensor:
        """The pixels (B, 3, H, W) themselves."""
        return pixels


def _normalize_groups(module: nn.Module, groups: int = 32):
    """Replace every batch normalization by one over groups of channels of one picture."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _normalize_groups(child, groups)


class AdditiveOffset(nn.Module):
    """W + Delta with a Delta of the full size of W (n, m), zero at the start."""

    def __init__(self, n: int, m: int):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(n, m))

    @classmethod
    def from_stored(cls, change: torch.Tensor) -> "AdditiveOffset":
        """From its Delta (n, m)."""
        offset = cls(*change.shape)
        offset.change.data.copy_(change)
        return offset

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m) of the weight that it belongs to."""
        return tuple(self.change.shape)

    def delta(self) -> torch.Tensor:
        return self.change

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight + self.change).to(weight.dtype)


def contrastive(
    embeddings: torch.Tensor, prompts: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Among all prompts (B, D), each embedding (B, D) should be most like its own -> scalar.

    The cross-entropy of their cosines.
    """
    embeddings = F.normalize(embeddings.float(), dim=-1)
    prompts = F.normalize(prompts.float(), dim=-1)
    cosines = embeddings @ prompts.T  # (B, B)
    own = torch.arange(len(cosines), device=cosines.device)
    return F.cross_entropy(cosines / temperature, own)


def sparsity_l1(deltas: list[torch.Tensor]) -> torch.Tensor:
    """Mean size of the offsets' numbers, so that few of them are far from zero -> scalar."""
    return torch.stack([delta.float().abs().mean() for delta in deltas]).mean()


def weight_cosine(originals: list[torch.Tensor], changed: list[torch.Tensor]) -> torch.Tensor:
    """1 - cosine between every weight without and with its offset -> scalar.

    0 where the direction is kept. Computed as half the squared distance of the two directions, in
    fp32: of a small change, 1 - cosine would be lost in the rounding of the cosine.
    """
    terms = []
    for a, b in zip(originals, changed, strict=True):
        directions = [F.normalize(weight.float().flatten(), dim=0) for weight in (a, b)]
        terms.append((directions[0] - directions[1]).square().sum() / 2)
    return torch.stack(terms).mean()


def contrastive_term(model: E4T, batch: Batch, prediction: Prediction) -> torch.Tensor:
    """v* against what the text encoder says at the end of the picture's prompt."""
    ends = (batch.ids == model.base.tokenizer.eos_token_id).int().argmax(-1)  # (B,)
    prompts = prediction.hidden[torch.arange(len(ends)), ends]  # (B, D)
    return contrastive(prediction.embedding, prompts)


def sparsity_term(model: E4T, batch: Batch, prediction: Prediction) -> torch.Tensor:
    _check_offsets(model, "sparsity")
    return sparsity_l1([offset.delta() for offset in model.offsets.values()])


def cosine_term(model: E4T, batch: Batch, prediction: Prediction) -> torch.Tensor:
    """Computed from W in fp32: a small change of a weight in bf16 would be rounded away."""
    _check_offsets(model, "cosine")
    linears = attention_projections(model.base.unet)
    originals = {
        name: linears[name].parametrizations.weight.original.float() for name in model.offsets
    }
    changed = [offset(originals[name]) for name, offset in model.offsets.items()]
    return weight_cosine(list(originals.values()), changed)


def _check_offsets(model: E4T, term: str):
    if not model.offsets:
        raise ValueError(
            f"The term {term!r} is about weight offsets, and this E4T has none. "
            "Leave the term out, or give the model offsets."
        )


contrastive_term.whole_batch = True

ENCODERS["resnet18"] = (ResNetEncoder, ResNetEncoderConfig)
OFFSETS["additive"] = AdditiveOffset
STORED["change",] = AdditiveOffset.from_stored
TERMS["contrastive"] = contrastive_term
TERMS["sparsity"] = sparsity_term
TERMS["cosine"] = cosine_term
