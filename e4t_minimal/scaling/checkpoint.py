"""A training's state as one safetensors file, so that a stopped run goes on exactly where it was. No pickle."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..files import replacing


def save_state(
    path: Path, parts: dict[str, dict[str, torch.Tensor]], optimizer: torch.optim.Optimizer, **facts
):
    """Write {part: {name: tensor}}, the optimizer's averages, and facts that JSON can hold; beside, then renamed into place."""
    tensors = {
        f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()
    }
    numbers = {}  # of the optimizer's state: 8-bit Adam counts its steps in one
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{i}.{name}": value
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        numbers[i] = {
            name: value for name, value in state.items() if isinstance(value, (int, float))
        }
    with replacing(path) as new:
        save_file(
            {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()},
            new,
            metadata={
                name: json.dumps(fact) for name, fact in (facts | {"optimizer": numbers}).items()
            },
        )


def load_state(
    path: Path, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """(parts, facts) as they were saved; the optimizer gets its averages back."""
    parts = {}
    with safe_open(path, "pt") as file:
        facts = {name: json.loads(fact) for name, fact in (file.metadata() or {}).items()}
    state = {int(i): found for i, found in facts.pop("optimizer", {}).items()}
    for key, tensor in load_file(path).items():
        part, _, name = key.partition(".")
        if part == "optimizer":
            i, _, name = name.partition(".")
            state.setdefault(int(i), {})[name] = tensor
        else:
            parts.setdefault(part, {})[name] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return parts, facts
