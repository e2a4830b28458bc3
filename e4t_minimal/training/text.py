"""The text encoder learns to say at the end of a caption all that the caption says.

Alone and in minutes, before the U-Net learns on with it; see `captions.py` for why.
"""

import torch
import torch.nn.functional as F

from ..base import load_base
from .captions import Readers, add_names_from_parts, ends, remove_names_from_parts
from .data import training_pictures
from .loop import Training, train

BATCH = 128
STAY = 0.1  # weight of staying near what the U-Net has learned to hear


def fit(training: Training, lr: float = 5e-4, start: str = "toy") -> dict:
    """Train the text encoder of the base `start` into the folder's model/. Returns the report."""
    torch.manual_seed(training.seed)
    base, device = load_base(start, device=training.device), training.device
    text, eos = base.text_encoder.requires_grad_(True), base.tokenizer.eos_token_id
    add_names_from_parts(text, base.tokenizer)
    earlier = load_base(start, device=device).text_encoder
    readers = Readers(text.config.hidden_size).to(device)
    data = training_pictures()
    answers, all_ids = data.answers(), base.tokenize(data.captions)

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        ids = all_ids[indices.to(device)]
        wanted = {question: found[indices].to(device) for question, found in answers.items()}
        hidden = text(ids).last_hidden_state
        with torch.no_grad():
            before = earlier(ids).last_hidden_state
        moved = F.mse_loss(hidden.float(), before.float())
        return readers.loss(ends(hidden, ids, eos, g), wanted) + STAY * moved

    def check():
        sample = torch.linspace(0, len(data) - 1, min(len(data), 1000)).long()
        ids = all_ids[sample.to(device)]
        last = text(ids).last_hidden_state[:, -1].cpu()
        shares = readers.cpu().accuracies(last, {q: found[sample] for q, found in answers.items()})
        readers.to(device)
        return {"mean": sum(shares.values()) / len(shares), "worst": min(shares.values())}

    groups = [
        {"params": text.parameters(), "lr": lr},
        {"params": readers.parameters(), "lr": 4 * lr},
    ]
    model = torch.nn.ModuleDict({"text": text, "readers": readers})
    # few steps, so the average looks back less far
    report = train(model, groups, loss_of_step, training.replace(decay=0.98), check)
    remove_names_from_parts(text)
    text.cpu().save_pretrained(training.folder / "model")
    return report
