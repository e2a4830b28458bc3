"""Before E4T's own loss, the encoder learns the base's words for the people that it knows.

Our choice, not the paper's.
"""

from collections.abc import Iterator

import torch

from ..helpers import checks
from ..model import E4T, Batch
from ..train import Schedule, Step, draw_batch

# the encoder alone learns
DICTIONARY = Schedule(steps=1000, batch=64, lr=1e-3, offsets_lr=0.0, weights={})


def fit_dictionary(
    model: E4T, data: Batch, words: torch.Tensor, schedule: Schedule = DICTIONARY, state=None
) -> Iterator[Step]:
    """From pictures of people, find the words that the base has for them.

    words (n, D): the token embedding of each picture's name. Only the encoder learns.
    state: see `train.fit`.
    """
    optimizer = torch.optim.AdamW(model.encoder.parameters(), schedule.lr, weight_decay=0.01)
    rate = _one_cycle(optimizer, schedule)
    first = state.load(optimizer) if state else 0
    if first:  # again, from there on; it needs what the first one has told the optimizer
        rate = _one_cycle(optimizer, schedule, first - 1)
    data = data.replace(words=words)
    for index in range(first, schedule.steps):
        model.encoder.train()
        batch, noise, t = draw_batch(model, data, schedule, index)
        z_t, _ = model.base.add_noise(batch.latents, noise, t)
        embedding, _ = model.embedding(batch.image_features, model.unet_features(z_t, t))
        loss = (embedding - batch.words).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        checks.still_finite(index, loss=loss.item())
        optimizer.step()
        rate.step()
        model.encoder.eval()
        yield Step(index, {"total": loss.item()})
        if state:
            state.save(optimizer, index + 1)


def _one_cycle(optimizer: torch.optim.Optimizer, schedule: Schedule, last: int = -1):
    """The learning rate up, then down to zero; last: the step before the one to begin with."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.lr, total_steps=schedule.steps, pct_start=0.1, last_epoch=last
    )
