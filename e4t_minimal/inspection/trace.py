"""Look inside: `trace` keeps every intermediate tensor under its name, `patch` changes one. Their names: see taps.py, or `names(model)`."""

from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..files import replacing
from ..inspection.hooks import match, names, taps
from ..inspection.hooks import names as known

__all__ = ["Trace", "heat_maps", "names", "patch", "tokens", "trace"]
AXES = {
    "*.delta": "n m",
    "*.attn1*.map": "B heads N N",
    "*.map": "B heads N T",
    "*.attn2*.to_[kv]": "B T D",
    "*.attn*": "B N D",
    "unet.*": "B C h w",
    "latent*": "B C h w",
    "guidance.*": "B C h w",
    "text.*": "B T D",
    "encoder.*": "B D",
    "placeholder.*": "B D",
    "*": "",
}


class Trace:
    """What passed, in order of time: t["unet.mid"] is a list of tensors, t.calls["unet.mid"] a (timestep, part) for each."""

    def __init__(self, device: str | None = None):
        self.kept, self.calls, self.device = {}, {}, device

    def keep(self, name: str, tensor: torch.Tensor, t, part) -> torch.Tensor:
        self.kept.setdefault(name, []).append(
            tensor.detach().to(self.device or tensor.device, copy=not name.endswith(".map"))
        )  # a map is ours alone
        self.calls.setdefault(name, []).append((t, part))
        return tensor

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        if name not in self.kept:
            raise ValueError(
                f"Nothing was kept under {name!r}; kept were: {', '.join(self.kept) or 'nothing'}."
            )
        return self.kept[name]

    def of(self, name: str, part: str = "cond") -> dict:
        """{timestep: tensor} of the passes with the prompt ("cond") or with the empty one ("uncond"); what belongs to no pass is in both.
        Of several at one timestep (two pictures drawn one after the other) it is the last."""
        halves = {"uncond": 0, "cond": 1}
        return {
            t: x.chunk(2)[halves[part]] if kind == "both" else x
            for x, (t, kind) in zip(self[name], self.calls[name])
            if kind in (part, "both", None)
        }

    def table(self):
        """A pandas table, a row per name: calls, shape with its axes, dtype, mean, std, min, max, norm, and the number of NaNs."""
        import pandas

        rows = []
        for name, found in self.kept.items():
            x, letters = (
                torch.cat([f.float().flatten() for f in found]),
                next(v for k, v in AXES.items() if fnmatchcase(name, k)).split(),
            )
            shape = " ".join(f"{a}={n}" for a, n in zip(letters, found[0].shape))
            rows.append(
                {
                    "name": name,
                    "calls": len(found),
                    "shape": shape,
                    "dtype": str(found[0].dtype).removeprefix("torch."),
                    "mean": x.mean().item(),
                    "std": x.std(correction=0).item(),
                    "min": x.min().item(),
                    "max": x.max().item(),
                    "norm": x.norm().item(),
                    "NaNs": int(x.isnan().sum()),
                }
            )
        return pandas.DataFrame(rows)

    def save(self, path: str | Path):
        """One safetensors file: "name/0", "name/1", ... per call, and in its metadata each one's timestep and part. Written beside, then renamed."""
        tensors = {
            f"{name}/{i}": x.contiguous().cpu()
            for name, found in self.kept.items()
            for i, x in enumerate(found)
        }
        with replacing(path) as new:
            save_file(
                tensors,
                new,
                {
                    f"{name}/{i}": str(call)
                    for name, calls in self.calls.items()
                    for i, call in enumerate(calls)
                },
            )


@contextmanager
def trace(model, names: str | tuple[str, ...] = "*", device: str | None = None):
    """Keep what passes under the names that match -> `Trace`; results stay the same, bit for bit. device: where to keep it ("cpu" spares a GPU)."""
    kept = Trace(device)
    with taps(model, names, kept.keep, changing=False):
        yield kept


@contextmanager
def patch(model, names: str | tuple[str, ...], fn):
    """While open, the model goes on with fn(tensor) wherever a tensor passes under one of the names. Works between two steps of a generator, too."""
    if any(name.startswith("loss.") and match(name, names) for name in known(model)):
        raise ValueError(
            f"{names!r}: terms of the loss are read, not changed; change the loss's weights, or a tensor it is made of."
        )
    with taps(model, names, lambda name, tensor, t, part: fn(tensor), changing=True):
        yield


def tokens(model, prompt: str) -> list[str]:
    """The T tokens of a prompt as the text encoder reads them: beginning, words, end, padding. An index into `heat_maps`."""
    tokenizer = getattr(model, "placeholder", model).tokenizer
    return tokenizer.convert_ids_to_tokens(
        tokenizer(
            prompt, padding="max_length", truncation=True, max_length=tokenizer.model_max_length
        ).input_ids
    )


def heat_maps(
    kept: Trace,
    size: int,
    names: str = "*attn2*.map",
    part: str = "cond",
    heads=slice(None),
    times=None,
) -> torch.Tensor:
    """Where every token is looked at: (B, T, size, size), as DAAM does (Tang et al., 2022): each head's map is enlarged (bicubic, at least 0), then all are
    summed over heads, layers and timesteps (times: only these). For square pictures; every token, the beginning and the end of the prompt too."""
    total = 0
    for name in [name for name in kept.kept if match(name, names)]:
        for t, x in kept.of(name, part).items():
            if times is None or t in times:
                x = (
                    x[:, heads].transpose(-1, -2).unflatten(-1, (int(x.shape[2] ** 0.5), -1))
                )  # (B, heads, T, h, w)
                total = total + F.interpolate(x.flatten(0, 1), (size, size), mode="bicubic").clamp(
                    min=0
                ).unflatten(0, x.shape[:2]).sum(1)
    if isinstance(total, int):
        raise ValueError(
            f"No map was kept under {names!r} for {part!r} and these times; trace with names='*attn2*.map'."
        )
    return total
