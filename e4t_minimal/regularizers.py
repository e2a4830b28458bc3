"""Small functions, each one term of a loss, and the table of terms that a loss may have.

To add a regularizer: write a function of a model, a batch and a prediction (see `model.py`) that
returns a scalar, put it into TERMS under a name, and give that name a weight in `Schedule.weights`.
A term that compares the pictures of a batch with each other has the attribute `whole_batch = True`.
One that wants `batch.initial`, predicted before anything was learned: `needs_initial = True`; a
batch without a mask, and `scaling.distributed`, leave it None.
"""

import torch


def embedding_l2(offset: torch.Tensor) -> torch.Tensor:
    """E4T's L2, as re-implementations have it: squared length of s E (B, D), mean over B -> scalar.

    That it is on the offset is our choice: on v* whole it would pull S* to zero and away from its
    class word. Re-implementations differ here, and what the paper means is not known to us.
    """
    return offset.float().square().sum(-1).mean()


def outside_change(
    prediction: torch.Tensor, initial: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """How far the prediction has moved from the initial one where the mask does not look -> scalar.

    prediction, initial (B, C, h, w); mask (B, 1, h, w) in [0, 1], 1 on the subject. Every picture
    counts alike, however much of it lies outside.

    Our choice: one picture has one background. Without this term it leaks into the photos of S*,
    though the diffusion loss never looks at it.
    """
    outside = 1 - mask
    change = (prediction - initial).float().square() * outside
    share = outside.mean(dim=(1, 2, 3)).clamp(min=1e-6)  # (B,)
    return (change.mean(dim=(1, 2, 3)) / share).mean()


def l2_term(model, batch, prediction) -> torch.Tensor:
    return embedding_l2(prediction.offset)


def outside_term(model, batch, prediction) -> torch.Tensor:
    """0 for a batch without an initial prediction."""
    if batch.initial is None:
        return prediction.noise_prediction.new_zeros((), dtype=torch.float32)
    return outside_change(prediction.noise_prediction, batch.initial, batch.mask)


outside_term.needs_initial = True

# {name in Schedule.weights: function(model, batch, prediction) -> scalar}.
# `evaluation.alternatives` adds others.
TERMS = {"l2": l2_term, "outside": outside_term}
