"""Small functions, each one term of a loss. The paper's is `embedding_l2`, ours `outside_change`; the others are alternatives to measure."""

import torch
import torch.nn.functional as F


def embedding_l2(offset: torch.Tensor) -> torch.Tensor:
    """The paper's regularizer: squared length of the embedding's offset s * E (B, D), averaged over the batch -> scalar.

    On the offset and not on v* whole: that would pull S* to zero and away from its class word (our choice; re-implementations differ)."""
    return offset.float().square().sum(-1).mean()


def outside_change(
    prediction: torch.Tensor, before: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Our choice: how far the U-Net's prediction (B, C, h, w) has moved from what it was, where the mask (B, 1, h, w) does not look -> scalar.

    One picture has one background. Without this it leaks into the photos of S*, though the loss never looks at it."""
    outside = 1 - mask
    return ((prediction - before).float().square() * outside).mean() / outside.mean().clamp(
        min=1e-6
    )


def contrastive(
    embeddings: torch.Tensor, prompts: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Among all prompts of a batch (B, D), each embedding (B, D) should be most like its own: cross-entropy of cosines -> scalar."""
    cosines = (
        F.normalize(embeddings.float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).T
    )  # (B, B)
    return F.cross_entropy(cosines / temperature, torch.arange(len(cosines), device=cosines.device))


def sparsity_l1(deltas: list[torch.Tensor]) -> torch.Tensor:
    """Mean size of the offsets' numbers, so that few of them are far from zero -> scalar."""
    return torch.stack([delta.abs().mean() for delta in deltas]).mean()


def weight_cosine(originals: list[torch.Tensor], changed: list[torch.Tensor]) -> torch.Tensor:
    """1 - cosine between every weight before and after its offset: 0 where the direction is kept -> scalar."""
    return torch.stack(
        [
            1 - F.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            for a, b in zip(originals, changed)
        ]
    ).mean()
