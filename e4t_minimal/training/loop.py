"""One training loop for all toy models: progress bar, checkpoints that can be resumed, averaged weights. No pickle."""

import json
import time
from pathlib import Path

import torch
from tqdm.auto import trange

from ..base import generator
from ..scaling.checkpoint import load_state, save_state

CHECKPOINT_SECONDS = 180


def bf16_is_faster() -> bool:
    """One short measurement: on CPUs with bf16 matrix units autocast is 2-4 times faster, elsewhere it is slower."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(1024, 1024, dtype=dtype)
        a @ a
        start = time.perf_counter()
        for _ in range(5):
            a @ a
        seconds[dtype] = time.perf_counter() - start
    return seconds[torch.bfloat16] < 0.8 * seconds[torch.float32]


def learning_rate(step: int, steps: int, warmup: int = 100) -> float:
    """Factor on the learning rate: up over `warmup` steps, flat, then a half cosine to 0 over the second half."""
    x = max(0.0, step / steps * 2 - 1)
    return min(1.0, (step + 1) / warmup) * (
        0.5 + 0.5 * torch.cos(torch.tensor(x * torch.pi)).item()
    )


def train(
    name: str,
    model: torch.nn.Module,
    groups: list,
    loss_of_step,
    steps: int,
    folder: Path,
    seed: int = 0,
    resume: bool = False,
    check=None,
    check_every: int = 200,
    decay: float = 0.999,
) -> dict:
    """Train `model` in place and leave the averaged weights in it.

    groups: AdamW parameter groups. loss_of_step(generator, step) -> scalar loss. check() -> {name: number}, printed and kept in log.jsonl
    beside the checkpoint. Returns {"steps", "seconds"}.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    peak = [group["lr"] for group in optimizer.param_groups]
    average = {
        k: v.detach().clone() for k, v in model.state_dict().items() if v.is_floating_point()
    }
    start, spent = 0, 0.0
    if resume and (folder / "state.safetensors").exists():
        parts, facts = load_state(folder / "state.safetensors", optimizer)
        model.load_state_dict(parts["model"])
        average.update(parts["average"])
        start, spent = facts["step"], facts["seconds"]
    autocast, begun, saved, smooth = bf16_is_faster(), time.time() - spent, time.time(), None
    bar = trange(start, steps, initial=start, total=steps, desc=name, mininterval=10)
    for step in bar:
        for group, lr in zip(optimizer.param_groups, peak):
            group["lr"] = lr * learning_rate(step, steps)
        torch.manual_seed(generator(seed, step).initial_seed())  # for dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of_step(generator(seed, step), step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(average.values()), [state[k] for k in average], 1 - keep)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        last = step + 1 == steps
        if check and ((step + 1) % check_every == 0 or last):
            model.eval()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                row = {
                    "step": step + 1,
                    "seconds": round(time.time() - begun),
                    "loss": round(smooth, 4),
                    **{k: round(float(v), 4) for k, v in check().items()},
                }
            model.train()
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
            bar.write(json.dumps(row))
        if time.time() - saved > CHECKPOINT_SECONDS or last:
            save_state(
                folder / "state.safetensors",
                {"model": model.state_dict(), "average": average},
                optimizer,
                step=step + 1,
                seconds=time.time() - begun,
            )
            saved = time.time()
    model.load_state_dict(average, strict=False)
    return {"steps": steps, "seconds": round(time.time() - begun)}
