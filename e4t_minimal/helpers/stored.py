"""The folder of an E4T, a domain's or a concept's: written as one, and read only if it is whole."""

import json
import os
import shutil
from dataclasses import dataclass
from operator import index
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from .checks import reason
from .checksums import checksum
from .files import OWN, check_apart, check_writable, existing, follow_umask, locked, temporary
from .reading import check_regular, read_json, read_tensors

MODEL_FILES = ("encoder.safetensors", "offsets.safetensors", "picture.png", "e4t.json")
NEW = f"{OWN}new"  # in an E4T folder: a whole version that is on its way into place
LARGEST_PICTURE = 4096  # pixels, height and width


class Card(BaseModel):
    """What e4t.json says; what else it says is kept."""

    model_config = ConfigDict(extra="allow")

    base: str = Field(min_length=1)
    class_word: str = Field(min_length=1)
    token: str = Field(min_length=1)
    encoder: dict[str, int | float | str | bool | None]
    vision: str | None = None
    resolution: int | None = Field(None, ge=8, le=LARGEST_PICTURE)
    files: dict[str, str] | None = None  # {name: SHA-256 of what is in it} of all other MODEL_FILES


@dataclass(frozen=True)
class StoredModel:
    """What lies in an E4T folder."""

    config: dict  # e4t.json
    encoder: dict[str, torch.Tensor]  # encoder.safetensors
    offsets: dict[str, torch.Tensor]  # offsets.safetensors
    picture: Image.Image | None = None  # picture.png, of a concept


def write_model(folder: str | Path, stored: StoredModel, **card):
    """Write an E4T folder; ValueError, with nothing written, if something else lies there.

    card: more entries for e4t.json, of names that are not the model's own. A whole new version
    comes into the folder, and counts from one renaming on. What else lies in the folder stays.
    """
    for name in card:
        if name in Card.model_fields:
            raise ValueError(
                f"{name!r} is the model's own entry in e4t.json: name yours otherwise."
            )
    folder = check_target(folder)
    with locked(folder), existing(folder):
        _settle(folder)
        with temporary(folder / NEW) as beside:
            new = beside / NEW
            new.mkdir()
            for part in ("encoder", "offsets"):
                save_file(_storable(part, getattr(stored, part)), new / f"{part}.safetensors")
            if stored.picture is not None:
                stored.picture.save(new / "picture.png")
            hashes = {file.name: checksum(file) for file in sorted(new.iterdir())}
            own = stored.config | {"base": _absolute(stored.config["base"]), "files": hashes}
            text = json.dumps(own | card, indent=2, allow_nan=False, default=index)
            Card.model_validate_json(text)  # what cannot be read again is not put into place
            (new / "e4t.json").write_text(text + "\n")
            follow_umask(new)
            new.rename(folder / NEW)
        _settle(folder)


def _storable(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name} of the {part} holds numbers that are not finite, or too large for the "
                "format it is stored in; nothing was written."
            )
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _absolute(base: str) -> str:
    """A local folder is to be found from wherever the model is loaded."""
    is_folder = base != "toy" and Path(base).is_dir()
    return os.path.realpath(base) if is_folder else base


def _settle(folder: Path):
    """Move a version that counts to where it belongs, whatever has stopped that before."""
    new = folder / NEW
    if (new / "e4t.json").exists():
        files = read_json(new / "e4t.json", Card).files or {}
        for name in MODEL_FILES:  # e4t.json is the last: until then, all of this can be done again
            if (new / name).exists():
                (new / name).replace(folder / name)
            elif name not in files:
                (folder / name).unlink(missing_ok=True)
    shutil.rmtree(new, ignore_errors=True)


def read_model(folder: str | Path) -> StoredModel:
    """Read an E4T folder; ValueError if it is missing, foreign or damaged."""
    folder = Path(folder)
    with locked(folder):
        config = _read_config(folder)
        try:
            _check_hashes(folder, config.get("files"))
            return StoredModel(
                config,
                encoder=_read_floats(folder / "encoder.safetensors"),
                offsets=_read_floats(folder / "offsets.safetensors"),
                picture=_read_picture(folder / "picture.png"),
            )
        except (OSError, ValueError) as error:
            raise damaged(folder, error) from None


def _check_hashes(folder: Path, hashes: dict[str, str] | None):
    """Folders from before there were hashes have none."""
    if hashes is None:
        return
    for name in MODEL_FILES[:-1]:
        path = folder / name
        if path.exists():
            check_regular(path)
        if (checksum(path) if path.exists() else None) != hashes.get(name):
            raise ValueError(f"{name} is not the one that e4t.json was written with")


def _read_floats(path: Path) -> dict[str, torch.Tensor]:
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} in {path} is of {tensor.dtype}, and should be of floats.")
    return tensors


def _read_picture(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    check_regular(path)
    with Image.open(path, formats=["PNG"]) as picture:
        if max(picture.size) > LARGEST_PICTURE:
            raise ValueError(f"picture.png has {picture.width} x {picture.height} pixels")
        try:
            return picture.copy()
        except SyntaxError as error:  # PIL's word for a broken PNG
            raise ValueError(reason(error)) from None


def kind_of(module: torch.nn.Module, kinds: dict[str, tuple[type, type]]) -> str:
    """The name of its kind in {name: (class, class of its config)}; ValueError if it is of none."""
    for kind, (of_class, _) in kinds.items():
        if type(module) is of_class:
            return kind
    raise ValueError(
        f"An encoder of the class {type(module).__name__} cannot be saved: it has no kind. "
        "Put its class and that of its config into encoder.ENCODERS."
    )


def rebuild(
    config: dict, tensors: dict[str, torch.Tensor], kinds: dict[str, tuple[type, type]]
) -> torch.nn.Module:
    """The module that was stored, in fp32; config: its kind, and what its config says.

    ValueError, TypeError or RuntimeError if the tensors are not exactly those of such a module.
    """
    options = dict(config)
    kind = options.pop("kind", "e4t")
    if kind not in kinds:
        raise UnknownKind(
            f"its encoder is of the kind {kind!r}; known are {', '.join(kinds)}. Import the module "
            "that registers it first, such as `e4t_minimal.evaluation.alternatives` or "
            "`e4t_minimal.scaling.fixed`."
        )
    of_class, of_config = kinds[kind]
    with torch.device("meta"):  # what the config says may be absurd: no memory is asked for
        module = of_class(of_config(**options))
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    module.load_state_dict(floats, assign=True)
    return module


class UnknownKind(ValueError):
    """The encoder of a stored model is of a kind that no imported module has registered."""


def damaged(folder: str | Path, error: Exception) -> ValueError:
    """What to raise when a folder cannot be read."""
    if isinstance(error, UnknownKind):
        return ValueError(f"{folder}: {error}")
    return ValueError(f"{folder} is damaged ({reason(error)}). Make or download it again.")


def read_config(folder: str | Path) -> dict:
    """What e4t.json says: base, class_word, token, encoder ...; ValueError if there is none."""
    with locked(folder):
        return _read_config(Path(folder))


def _read_config(folder: Path) -> dict:
    try:
        if (folder / NEW).exists():
            _settle(folder)
        config = read_json(folder / "e4t.json", Card).model_dump(exclude_unset=True)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not an E4T folder (no readable e4t.json). "
            "Make one with `e4t personalize`, or use data_samples/e4t-face."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is not an E4T folder that can be read ({reason(error)}). "
            "Make or download it again."
        ) from None
    return config | {"base": _find(config["base"], folder)}


def _find(base: str, folder: Path) -> str:
    """The base of a folder that was written elsewhere: a relative path may begin further up."""
    if Path(base).is_dir() or Path(base).is_absolute():
        return base
    for above in Path(os.path.realpath(folder)).parents:
        if (above / base / "model_index.json").exists():
            return str(above / base)
    return base


def check_target(folder: str | Path, **sources: str | Path | None) -> Path:
    """The folder's absolute path if an E4T may be written there; ValueError otherwise.

    sources: what is read, by what to call it; nothing is written over that.
    """
    check_apart(folder, **sources)
    folder = Path(os.path.realpath(folder))
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    is_e4t = "e4t.json" in names or NEW in names
    is_started = all(name.startswith(OWN) for name in names)  # by a run that was killed
    foreign = folder.exists() and not (folder.is_dir() and (is_e4t or is_started))
    if folder == Path.cwd() or foreign:
        raise ValueError(
            f"{folder} exists and is not an E4T folder of its own; nothing was written. "
            "Choose another name."
        )
    check_writable(folder)
    return folder
