"""Phase 1 on one device or many (`accelerate launch -m e4t_minimal pretrain ...`): the loss of `E4T`, the batch shared among processes."""

from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn

from ..base import generator
from ..scaling.checkpoint import load_state, save_state
from ..scaling.folders import Pictures, prompts_of
from ..model import E4T
from ..train import adamw, backward, draw_noise, groups, prepare


class Learner(nn.Module):
    """What the processes keep equal: encoder and offsets, and nothing of the frozen base. Its forward pass is the loss."""

    def __init__(self, model: E4T, weights: dict[str, float]):
        super().__init__()
        self.encoder, self.offsets = model.encoder, nn.ModuleList(model.offsets.values())
        self.loss = lambda *some: model.loss(*some, weights)

    def forward(self, part: dict, noise: torch.Tensor, t: torch.Tensor) -> dict:
        terms = self.loss(part, noise, t)
        return {name: term for name, term in terms.items() if term.ndim == 0}


def pretrain_on(
    accelerator: Accelerator,
    model: E4T,
    pictures: Pictures,
    steps: int,
    batch: int = 16,
    micro: int | None = None,
    lr: float = 3e-5,
    offsets_lr: float = 1e-3,
    l2: float = 0.01,
    seed: int = 0,
    eight_bit: bool = False,
    folder: Path | None = None,
    save_every: int = 500,
    resume: bool = False,
):
    """As `train.pretrain`, with pictures that are read while it runs. Yields the locals of every step.

    batch: pictures of a step on all processes together; micro: on each process at a time. Every process draws the noise of the whole batch and takes
    its rows, so that two processes do what one does. folder: for its state, every `save_every` steps and at the end; resume: go on from there."""
    rank, world, path = (
        accelerator.process_index,
        accelerator.num_processes,
        Path(folder or ".") / "state.safetensors",
    )
    optimizer, start = adamw(groups(model, lr, offsets_lr), eight_bit), 0
    parts = {
        "encoder": model.encoder,
        "offsets": nn.ModuleDict(
            {name.replace(".", "/"): offset for name, offset in model.offsets.items()}
        ),
    }
    if resume and path.exists():
        try:
            saved, facts = load_state(path, optimizer)
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged, or was made with another base ({type(error).__name__}). Start anew in another folder."
            ) from None
        if (facts["batch"], facts["seed"], len(facts["positions"])) != (batch, seed, world):
            raise ValueError(
                f"{path} was made with --batch {facts['batch']} --seed {facts['seed']} on {len(facts['positions'])} processes; go on with the same."
            )
        if facts["scaler"]:
            accelerator.scaler.load_state_dict(facts["scaler"])
        pictures.seek(facts["positions"][rank])
        start = facts["step"]
    learner, optimizer = accelerator.prepare(Learner(model, {"l2": l2}), optimizer)
    for step in range(start, steps):
        mine = torch.arange(rank, batch, world)
        prompts = prompts_of(step, batch, model.placeholder.token, seed)
        part = prepare(
            model, pictures.take(batch), [prompts[i] for i in mine], batch=micro or batch
        )
        noise, t = (
            x[mine.to(x.device)]
            for x in draw_noise(model.base, part["latents"], batch, generator(seed, step))
        )
        learner.train()
        optimizer.zero_grad()
        terms = backward(
            learner,
            part,
            noise,
            t,
            micro,
            accelerator.backward,
            around=lambda last: nullcontext() if last else accelerator.no_sync(learner),
        )  # the processes talk once a step
        accelerator.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        learner.eval()
        if folder and ((step + 1) % save_every == 0 or step + 1 == steps):
            positions = gather_object([pictures.position])
            if accelerator.is_main_process:
                save_state(
                    path,
                    {name: part.state_dict() for name, part in parts.items()},
                    optimizer,
                    step=step + 1,
                    batch=batch,
                    seed=seed,
                    positions=positions,
                    scaler=accelerator.scaler and accelerator.scaler.state_dict(),
                )
            accelerator.wait_for_everyone()
        yield dict(locals())
