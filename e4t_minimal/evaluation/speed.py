"""What E4T costs in time: sampling against stock `StableDiffusionPipeline`, a pretraining step against a LoRA (peft) step, on the same base."""

import os
import statistics
import subprocess
import time
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ..scaling.architectures import build, narrow, read_architecture
from ..base import Base, load_base
from ..evaluation.baselines import METHODS, begin, learned
from ..model import E4T
from ..sample import sample
from ..train import prepare, pretrain, tune


def commit() -> str | None:
    """The commit that this code is, with a + if tracked files have changed since; None outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + "+" * bool(
            git("status", "--porcelain", "--untracked-files=no")
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict:
    """What seconds depend on."""
    gigabytes = (
        round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
        if hasattr(os, "sysconf")
        else None
    )
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory in GiB": gigabytes,
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def _ratio(ours, theirs, repeats: int) -> dict:
    """Medians of the seconds of two functions, called in turn so that both meet the same machine; the first call of each does not count.

    seconds: by the clock on the wall; cpu: of this process's threads together, which other programs on the machine disturb less."""
    spent = {"ours": [], "theirs": []}
    for i in range(repeats + 1):
        for name, function in (("ours", ours), ("theirs", theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            spent[name] += [(time.perf_counter() - wall, time.process_time() - cpu)] * bool(i)
    report = {}
    for kind, column in (("seconds", 0), ("cpu", 1)):
        mine, other = ([row[column] for row in spent[name]] for name in ("ours", "theirs"))
        report[kind] = {
            "ours": round(statistics.median(mine), 3),
            "theirs": round(statistics.median(other), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(mine, other)), 3),
        }
    return report


def sampling(base: Base, pictures: int, steps: int = 20, repeats: int = 3) -> dict:
    """Pictures from the prompt to the pixels; E4T with folded offsets and S*, stock with a plain word."""
    pipe = StableDiffusionPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        base.scheduler,
        None,
        base.preprocessor,
        None,
        False,
    )
    pipe.set_progress_bar_config(disable=True)
    model, image = (
        E4T(deepcopy(base), "face"),
        Image.new("RGB", (base.resolution, base.resolution), "pink"),
    )
    model.fold()
    return _ratio(
        lambda: sample(model, ["a photo of S* on the beach"] * pictures, image, steps=steps),
        lambda: pipe(
            ["a photo of a face on the beach"] * pictures,
            num_inference_steps=steps,
            guidance_scale=4.0,
        ),
        repeats,
    )


def training(base: Base, batch: int = 16, repeats: int = 3) -> dict:
    """One optimizer step on prepared pictures: E4T's phase 1 (encoder, whole offsets) against LoRA of rank 4 on every projection."""
    image, model = (
        Image.new("RGB", (base.resolution, base.resolution), "pink"),
        E4T(deepcopy(base), "face"),
    )
    ours = pretrain(
        model,
        prepare(model, [image] * batch, ["a photo of S*"] * batch),
        steps=repeats + 1,
        batch=batch,
    )
    with begin(METHODS["LoRA"], base, "face") as lora:
        data = prepare(lora, [image] * batch, ["a photo of S* face"] * batch)
        theirs = tune(
            lora,
            data,
            [{"params": learned(lora, "lora"), "lr": 1e-3}],
            repeats + 1,
            batch,
            {},
            seed=0,
        )
        return _ratio(lambda: next(ours), lambda: next(theirs), repeats)


def measure(by: int = 4, resolution: int = 256, repeats: int = 3) -> dict:
    """Both ratios on the toy (eight pictures, as `e4t demo` draws) and on a narrow Stable Diffusion (two, and four)."""
    report = {"commit": commit(), "machine": machine()}
    narrowed = build(narrow(read_architecture("sd15"), by), resolution=resolution)
    bases = {
        "toy": (load_base("toy"), (8,), 16),
        f"sd15 at 1/{by} width, {resolution} pixels": (narrowed, (2, 4), 4),
    }
    for name, (base, pictures, batch) in bases.items():
        report[name] = {
            f"sampling, {count} pictures": sampling(base, count, repeats=repeats)
            for count in pictures
        }
        report[name][f"pretraining step, batch {batch}"] = training(base, batch, repeats)
    return report
