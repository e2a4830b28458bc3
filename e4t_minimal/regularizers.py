"""Small functions, each one term of a loss."""
import torch


def embedding_l2(offset: torch.Tensor) -> torch.Tensor:
    """The paper's regularizer: squared length of the embedding's offset s * E (B, D), averaged over the batch -> scalar.

    On the offset and not on v* whole: that would pull S* to zero and away from its class word (our choice; re-implementations differ)."""
    return offset.float().square().sum(-1).mean()
