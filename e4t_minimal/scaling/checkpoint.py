"""A training's state as one safetensors file, so that a stopped run goes on exactly where it was.

No pickle: nothing in the file can be run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..helpers.files import replacing
from ..helpers.reading import check_alike, parse_json, read_tensors, read_texts

Tensors = dict[str, torch.Tensor]
Averages = dict[int, dict[str, int | float]]  # what of an optimizer's state are plain numbers


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


def _split(state: dict[int, dict]) -> tuple[Tensors, Averages]:
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


def load_state(
    path: Path, optimizer: torch.optim.Optimizer, like: dict[str, Tensors]
) -> dict[str, Tensors]:
    """The parts as they were saved; the optimizer gets its averages back.

    like: what the parts are now, so that they have the same names, shapes and dtypes. ValueError,
    with nothing changed, if they have not, or if the averages are not this optimizer's.
    """
    state = _read_averages(path)
    parts: dict[str, Tensors] = {part: {} for part in like}
    for key, tensor in read_tensors(path).items():
        part, _, name = key.partition(".")
        if part == "optimizer":
            i, _, name = name.partition(".")
            state.setdefault(int(i), {})[name] = tensor
        else:
            parts.setdefault(part, {})[name] = tensor
    for part, tensors in like.items():
        check_alike(f"the {part} in {path}", parts[part], tensors)
    _check_averages(path, state, optimizer)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return parts


def read_facts(path: Path, schema: Any = None) -> Any:
    """Only the facts, without the tensors; schema: see `parse_json`."""
    texts = read_texts(path)
    texts.pop("optimizer", None)
    entries = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items())
    return parse_json("{" + entries + "}", str(path), schema)


def _read_averages(path: Path) -> Averages:
    texts = read_texts(path)
    if "optimizer" not in texts:
        raise ValueError(f"{path} does not hold what the optimizer has averaged.")
    return parse_json(texts["optimizer"], f"optimizer in {path}", Averages)


def _check_averages(path: Path, state: dict[int, dict], optimizer: torch.optim.Optimizer):
    """ValueError unless every parameter that has averages has all of them, in its shape."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    needed = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.AdamW) else ()
    for i, entries in state.items():
        known = 0 <= i < len(parameters) and set(needed) <= set(entries)
        shapes = [entries[name].shape for name in needed if known and name != "step"]
        if not known or any(shape != parameters[i].shape for shape in shapes):
            raise ValueError(f"{path} holds the averages of another optimizer (parameter {i}).")
