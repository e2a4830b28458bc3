"""The one place that reads what others may have written: JSON, and tensors.

What is not as it should be is refused with ValueError, in one sentence that names the file. Nothing
in a file is run, and no memory is asked for that the file does not fill. A file that is missing
stays a FileNotFoundError.
"""

import json
import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import reason

if TYPE_CHECKING:
    import torch

LARGEST = 64 * 2**20  # bytes of a text
DEEPEST = 20  # lists and dictionaries in each other


def read_json(path: str | Path, schema: Any = None) -> Any:
    """What a JSON file says; schema: see `parse_json`."""
    return parse_json(_read_text(path), str(path), schema)


def read_json_lines(path: str | Path, schema: Any = None) -> list:
    """One object a line. A line that a stopped program left half-written does not count."""
    lines = enumerate(_read_text(path).split("\n"), start=1)
    whole = [(number, line) for number, line in lines if line.strip() and not _is_torn(line)]
    return [parse_json(line, f"line {number} of {path}", schema) for number, line in whole]


def parse_json(text: str, name: str, schema: Any = None) -> Any:
    """What a JSON text says: finite numbers, and nothing nested too deeply.

    name: where it comes from, for the error. schema: what pydantic can check and build: a model,
    or a type such as dict[str, float]; without one, anything goes.
    """
    try:
        found = json.loads(text, parse_constant=_finite, parse_float=_finite)
        _check_depth(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON that can be read ({reason(error)}).") from None
    if schema is None:
        return found
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(schema).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(
            f"{name} does not hold what it should: {place}: {first['msg']}, "
            f"not {first['input']!r:.80}."
        ) from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _check_depth(found):
    level = [found]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} lists and dictionaries in each other")


def _inside(value) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _is_torn(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _read_text(path: str | Path) -> str:
    path = Path(path)
    check_regular(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST // 2**20} MiB: it is no text of ours.")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({reason(error)}).") from None


def check_regular(path: str | Path):
    """ValueError for a folder, a pipe, a device: one may wait for ever for what they say."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError(f"{path} is no regular file.")


def read_tensors(path: str | Path) -> "dict[str, torch.Tensor]":
    """{name: tensor} of a safetensors file, or of a .pt file that holds nothing else.

    They are on the CPU, dense and finite. What they have to be like, `check_alike` checks.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    check_regular(path)
    try:
        if path.suffix == ".pt":
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            found = load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # of a damaged pickle, any
        raise ValueError(
            f"{path} is damaged, or holds more than tensors ({reason(error)})."
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, and not tensors by their names.")
    for name, tensor in found.items():
        _check_tensor(f"{name!r:.100} in {path}", name, tensor)
    return found


def _check_tensor(called: str, name, tensor):
    import torch

    if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
        raise ValueError(f"{called} is a {type(tensor).__name__}; there should be named tensors.")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{called} is no plain tensor (sparse, quantized or empty of numbers).")
    # a few numbers in the file may pretend to be a large tensor
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{called} says it is {list(tensor.shape)}, more than the file holds.")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{called} holds numbers that are not finite (NaN or infinite).")


def check_alike(called: str, found: "dict[str, torch.Tensor]", like: "dict[str, torch.Tensor]"):
    """ValueError unless the names, shapes and dtypes of tensors are exactly those of `like`."""
    if found.keys() != like.keys():
        missing = sorted(like.keys() - found.keys())
        more = sorted(found.keys() - like.keys())
        raise ValueError(
            f"{called} holds other tensors than it should: {len(missing)} are missing "
            f"({', '.join(missing[:3])}), {len(more)} are too many ({', '.join(more[:3])})."
        )
    for name, wanted in like.items():
        tensor = found[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ValueError(
                f"{name} in {called} is {_described(tensor)}, and should be {_described(wanted)}."
            )


def _described(tensor: "torch.Tensor") -> str:
    return f"{list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"


def read_texts(path: str | Path) -> dict[str, str]:
    """What a safetensors file says besides its tensors."""
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({reason(error)}).") from None
