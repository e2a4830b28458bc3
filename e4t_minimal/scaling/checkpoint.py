"""A training's state as one safetensors file, so that a stopped run goes on exactly where it was.

No pickle: nothing in the file can be run.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..files import replacing

Tensors = dict[str, torch.Tensor]


def save_state(
    path: Path, parts: dict[str, Tensors], optimizer: torch.optim.Optimizer, **facts
) -> None:
    """Write {part: {name: tensor}}, the optimizer's averages, and facts that JSON can hold.

    It is written beside the old file, then renamed into place.
    """
    tensors = {
        f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()
    }
    averages, numbers = _split(optimizer.state_dict()["state"])
    tensors = {name: _stored(tensor) for name, tensor in (tensors | averages).items()}
    texts = {name: json.dumps(fact) for name, fact in (facts | {"optimizer": numbers}).items()}
    with replacing(path) as new:
        save_file(tensors, new, metadata=texts)


def _split(state: dict[int, dict]) -> tuple[Tensors, dict[int, dict]]:
    """An optimizer's state as tensors, and what are plain numbers in it.

    8-bit Adam counts its steps in a plain number, PyTorch's in a tensor.
    """
    tensors, numbers = {}, {}
    for i, entries in state.items():
        numbers[i] = {}
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
            elif isinstance(value, int | float):
                numbers[i][name] = value
    return tensors, numbers


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone().contiguous()


def load_state(path: Path, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensors], dict]:
    """(parts, facts) as they were saved; the optimizer gets its averages back."""
    facts = _read_texts(path)
    state = {int(i): numbers for i, numbers in facts.pop("optimizer", {}).items()}
    parts: dict[str, Tensors] = {}
    for key, tensor in load_file(path).items():
        part, _, name = key.partition(".")
        if part == "optimizer":
            i, _, name = name.partition(".")
            state.setdefault(int(i), {})[name] = tensor
        else:
            parts.setdefault(part, {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return parts, facts


def read_facts(path: Path) -> dict:
    """Only the facts, without the tensors."""
    facts = _read_texts(path)
    facts.pop("optimizer", None)
    return facts


def _read_texts(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        texts = file.metadata() or {}
    return {name: json.loads(text) for name, text in texts.items()}
