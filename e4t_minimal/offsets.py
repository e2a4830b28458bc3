"""W <- W * (1 + Delta): what a whole domain changes in the model's attention.

An offset is a parametrization (`torch.nn.utils.parametrize`) of one weight W (n, m): Q, K or V of a
self- or cross-attention layer. The U-Net's own classes stay as diffusers wrote them.
"""

import re

import torch
from torch import nn

from .helpers import checks
from .helpers.hooking import check_hookable, exchange_weights, hanging, restore_weight


class WeightOffset(nn.Module):
    """The paper's network for one weight W (n, m).

    A learned constant -> a column x (n) and a row y (m) -> x y^T -> one linear layer over every
    column, one over every row -> Delta (n, m).

    Our choices: 16 constants; and the row-wise linear starts at zero, so Delta does too (at the
    default start the model draws otherwise before the first step). Gradients reach it even so.
    """

    def __init__(self, n: int, m: int, constant: int = 16):
        super().__init__()
        self.constant = nn.Parameter(torch.randn(constant))
        self.to_x = nn.Linear(constant, n)
        self.to_y = nn.Linear(constant, m)
        self.columns = nn.Linear(n, n)
        self.rows = nn.Linear(m, m)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m) of the weight that it belongs to."""
        return self.to_x.out_features, self.to_y.out_features

    def delta(self) -> torch.Tensor:
        """Delta (n, m), built as in the paper's figure; `forward` takes cheaper `factors`."""
        outer = torch.outer(self.to_x(self.constant), self.to_y(self.constant))  # (n, m)
        return self.rows(self.columns(outer.T).T)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """left (n, 3), right (m, 3) with Delta = left @ right^T, exactly.

        With A, a the column-wise and B, b the row-wise linear:
        Delta = (A x)(B y)^T + a (B 1)^T + 1 b^T, so its rank is at most 3.
        """
        x, y = self.to_x(self.constant), self.to_y(self.constant)
        A, a = self.columns.weight, self.columns.bias
        B, b = self.rows.weight, self.rows.bias
        left = torch.stack([A @ x, a, torch.ones_like(x)], dim=1)
        right = torch.stack([B @ y, B.sum(1), b], dim=1)
        return left, right

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """W (n, m) -> W (1 + Delta)."""
        left, right = self.factors()
        # not weight * (1 + Delta): in half precision, 1 + Delta would lose a small Delta
        return (weight + weight * (left @ right.T)).to(weight.dtype)


class FoldedOffset(WeightOffset):
    """The same Delta in 3 (n + m) numbers. What is saved and personalized."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor):
        nn.Module.__init__(self)  # not the parent's: no network here
        if left.dim() != 2 or left.shape[1:] != right.shape[1:]:
            raise ValueError(f"{tuple(left.shape)}, {tuple(right.shape)}: give (n, r) and (m, r)")
        balance = _balance(left, right)
        self.left = nn.Parameter(left * balance)
        self.right = nn.Parameter(right / balance)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left, self.right

    def delta(self) -> torch.Tensor:
        return self.left @ self.right.T


def _balance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Factors (3,) that make both sides of a rank equally long, so that one rate fits both."""
    left_norm, right_norm = left.norm(dim=0), right.norm(dim=0)
    balance = ((right_norm + 1e-8) / (left_norm + 1e-8)).sqrt()
    return torch.where((left_norm > 0) & (right_norm > 0), balance, torch.ones_like(balance))


# Kinds of new offsets, and of stored ones {sorted names of their tensors: class}.
# `evaluation.alternatives` adds others.
OFFSETS = {"multiplicative": WeightOffset}
STORED = {("left", "right"): FoldedOffset}


def attention_projections(unet) -> dict[str, nn.Linear]:
    """{name: layer} of Q, K, V of every self-attention (attn1) and cross-attention (attn2)."""
    check_hookable(unet=unet)  # compiled or fused, it would pass offsets by, or keep them
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.attn[12]\.to_[qkv]$", name)
    }


def new_offsets(unet, kind: str = "multiplicative") -> dict[str, nn.Module]:
    """{name: offset} with Delta = 0; kind: one of OFFSETS, or "none" for no offsets at all."""
    if kind == "none":
        return {}
    checks.choice("kind of offsets", kind, ("none", *OFFSETS))
    projections = attention_projections(unet)
    checks.hangable(projections)
    return {name: OFFSETS[kind](*linear.weight.shape) for name, linear in projections.items()}


def add_offsets(unet, offsets: dict[str, nn.Module] | None = None) -> dict[str, nn.Module]:
    """Hang offsets on the U-Net's attention, by default the paper's, new. Returns {name: offset}.

    In fp32 whatever the U-Net's dtype, as they are trained; those that hang there already are taken
    off. ValueError if these are another U-Net's. If anything goes wrong, nothing has changed.
    """
    projections = attention_projections(unet)
    if offsets is None:
        offsets = new_offsets(unet)
    _check_offsets(projections, offsets)
    exchange_weights(projections, offsets)
    return offsets


def _check_offsets(projections: dict[str, nn.Linear], offsets: dict[str, nn.Module]):
    if offsets and set(offsets) != set(projections):
        known = len(set(offsets) & set(projections))
        raise ValueError(
            f"These offsets belong to another U-Net: {len(offsets)} names, of which {known} are "
            f"among this one's {len(projections)}."
        )
    for name, offset in offsets.items():
        wanted, found = tuple(projections[name].weight.shape), tuple(offset.shape)
        if wanted != found:
            raise ValueError(
                f"These offsets belong to another U-Net: {name} is {found[0]} x {found[1]}, "
                f"here {wanted[0]} x {wanted[1]}."
            )


def remove_offsets(unet, merge: bool = False):
    """Take the offsets off; with `merge`, the weights keep what the offsets made of them."""
    for linear in attention_projections(unet).values():
        restore_weight(linear, merge)


def attached_offsets(unet) -> dict[str, nn.Module]:
    """{name: offset} that hang on the U-Net now."""
    projections = attention_projections(unet)
    return {name: hanging(linear) for name, linear in projections.items() if hanging(linear)}


@torch.no_grad()
def fold(offsets: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Every offset in its smallest form, without loss; other kinds stay as they are."""
    return {
        name: FoldedOffset(*offset.factors()) if isinstance(offset, WeightOffset) else offset
        for name, offset in offsets.items()
    }


def unfold(tensors: dict[str, torch.Tensor]) -> dict[str, nn.Module]:
    """The offsets of `fold` from their tensors {"NAME.left", "NAME.right"}, or ValueError."""
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, side = key.rpartition(".")
        by_name.setdefault(name, {})[side] = tensor.float()
    offsets = {}
    for name, sides in sorted(by_name.items()):
        kind = STORED.get(tuple(sorted(sides)))
        if kind is None:
            raise ValueError(f"{name} with {', '.join(sorted(sides))} is no weight offset.")
        offsets[name] = kind(**sides)
    return offsets
