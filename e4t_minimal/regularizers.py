"""Small functions, each one term of a loss."""
import torch


def offset_l2(offset: torch.Tensor) -> torch.Tensor:
    """The paper's regularizer: squared length of the embedding's offset s * E (B, D), averaged over the batch -> scalar.

    On the offset and not on v* whole: that would pull S* to zero and away from its class word (measured; see docs)."""
    return offset.float().square().sum(-1).mean()
