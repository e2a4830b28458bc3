"""W <- W * (1 + Delta): what a whole domain changes in the model's attention, for Q, K and V of every attention layer."""

import re

import torch
from torch import nn
from torch.nn.utils import parametrize


class WeightOffset(nn.Module):
    """The paper's network for one weight W (n, m): a learned constant -> a column x (n) and a row y (m) -> x y^T -> one linear
    over every column, one over every row -> Delta (n, m). The row-wise linear starts at zero, so Delta does too (our choice:
    at the default start the model is damaged before the first step; gradients still reach it)."""

    def __init__(self, n: int, m: int, constant: int = 16):
        super().__init__()
        self.constant = nn.Parameter(torch.randn(constant))
        self.to_x, self.to_y = nn.Linear(constant, n), nn.Linear(constant, m)
        self.columns, self.rows = nn.Linear(n, n), nn.Linear(m, m)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """left (n, 3), right (m, 3) with Delta = left @ right^T, exactly: (A x)(B y)^T + a (B 1)^T + 1 b^T."""
        x, y, A, B = self.to_x(self.constant), self.to_y(self.constant), self.columns, self.rows
        left = torch.stack([A.weight @ x, A.bias, torch.ones_like(x)], dim=1)
        return left, torch.stack([B.weight @ y, B.weight.sum(1), B.bias], dim=1)

    def delta(self) -> torch.Tensor:
        """Delta (n, m), built step by step as the paper's figure shows it."""
        outer = torch.outer(self.to_x(self.constant), self.to_y(self.constant))
        return self.rows(self.columns(outer.T).T)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        left, right = self.factors()
        return (weight + weight * (left @ right.T)).to(
            weight.dtype
        )  # W (1 + Delta), but 1 + Delta would lose a small Delta in half precision


class FoldedOffset(WeightOffset):
    """The same Delta in 3 (n + m) numbers instead of n^2 + m^2 and more. What is saved, sampled with and personalized."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor):
        nn.Module.__init__(self)
        balance = (
            (right.norm(dim=0) + 1e-8) / (left.norm(dim=0) + 1e-8)
        ).sqrt()  # both sides alike, so that one learning rate fits both
        self.left, self.right = nn.Parameter(left * balance), nn.Parameter(right / balance)

    def factors(self):
        return self.left, self.right

    def delta(self) -> torch.Tensor:
        return self.left @ self.right.T


class AdditiveOffset(nn.Module):
    """Not E4T's, an alternative to measure: W + Delta with a Delta of W's full size, n m numbers, zero at the start."""

    def __init__(self, n: int, m: int):
        super().__init__()
        self.change = nn.Parameter(torch.zeros(n, m))

    def delta(self) -> torch.Tensor:
        return self.change

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight + self.change).to(weight.dtype)


OFFSETS = {"multiplicative": WeightOffset, "additive": AdditiveOffset}


def attention_projections(unet) -> dict[str, nn.Linear]:
    """{name: linear} of the Q, K and V of every self- (attn1) and cross-attention (attn2) layer."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.attn[12]\.to_[qkv]$", name)
    }


def new_offsets(unet, kind: str = "multiplicative") -> dict[str, nn.Module]:
    """{name: offset} with Delta = 0 for every projection; kind: one of OFFSETS, or "none" for no offsets at all."""
    if kind not in ("none", *OFFSETS):
        raise ValueError(
            f"There are no offsets of the kind {kind!r}; choose one of none, {', '.join(OFFSETS)}."
        )
    return (
        {}
        if kind == "none"
        else {
            name: OFFSETS[kind](*linear.weight.shape)
            for name, linear in attention_projections(unet).items()
        }
    )


def add_offsets(unet, offsets: dict[str, nn.Module] | None = None) -> dict[str, nn.Module]:
    """Hang offsets on the U-Net's attention, by default the paper's, new. Returns {name: offset}.

    They stay in fp32 whatever the U-Net's dtype, as they are trained. Offsets that hang there already are taken off first."""
    linears, offsets = (
        attention_projections(unet),
        new_offsets(unet) if offsets is None else offsets,
    )
    if offsets and set(offsets) != set(linears):
        raise ValueError(
            f"These offsets belong to another U-Net: {len(offsets)} names, of which {len(set(offsets) & set(linears))} are among this one's {len(linears)}."
        )
    remove_offsets(unet)
    for name, offset in offsets.items():
        parametrize.register_parametrization(
            linears[name], "weight", offset.to(linears[name].weight.device)
        )
    return offsets


def remove_offsets(unet, merge: bool = False):
    """Take the offsets off again: the weights are as before, or, merged, keep what the offsets made of them."""
    for linear in attention_projections(unet).values():
        if parametrize.is_parametrized(linear, "weight"):
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=merge)


def fold(offsets: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Every offset in its smallest form, without loss; one that is not made of factors stays as it is."""
    return {
        name: FoldedOffset(*(side.detach() for side in offset.factors()))
        if isinstance(offset, WeightOffset)
        else offset
        for name, offset in offsets.items()
    }


def unfold(tensors: dict[str, torch.Tensor]) -> dict[str, nn.Module]:
    """The offsets of `fold`, from their tensors {"name.left" and "name.right", or "name.change"}."""
    offsets = {}
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        if f"{name}.change" in tensors:
            offsets[name] = AdditiveOffset(*tensors[f"{name}.change"].shape)
            offsets[name].change.data.copy_(tensors[f"{name}.change"])
        else:
            offsets[name] = FoldedOffset(tensors[f"{name}.left"], tensors[f"{name}.right"])
    return offsets
