"""What E4T costs in time: sampling against stock `StableDiffusionPipeline`, a pretraining step against a LoRA (peft) step, on the same base."""
import os
import statistics
import time

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from .architectures import build, narrow, read_architecture
from .base import Base, load_base
from .baselines import METHODS, begin, learned
from .model import E4T
from .sample import sample
from .train import prepare, pretrain, tune


def _ratio(ours, theirs, repeats: int) -> dict:
    """Of two functions that return their seconds, called in turn so that both meet the same machine; the first call of each does not count."""
    seconds = {"ours": [], "theirs": []}
    for i in range(repeats + 1):
        for name, function in (("ours", ours), ("theirs", theirs)):
            spent = function()
            if i:
                seconds[name].append(spent)
    return {name: round(statistics.median(times), 3) for name, times in seconds.items()} | {
        "ratio": round(statistics.median(a / b for a, b in zip(seconds["ours"], seconds["theirs"])), 3)}


def sampling(base: Base, pictures: int, steps: int = 10, repeats: int = 3) -> dict:
    """Pictures from the prompt to the pixels; E4T with folded offsets and S*, stock with a plain word."""
    pipe = StableDiffusionPipeline(base.vae, base.text_encoder, base.tokenizer, base.unet, base.scheduler, None, base.preprocessor, None, False)
    pipe.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (base.resolution, base.resolution), "pink")
    model = E4T(base, "face")
    model.fold()
    encoder, offsets = model.encoder, model.offsets
    model.detach()

    def ours():
        model = E4T(base, "face", encoder=encoder, offsets=offsets)
        start = time.perf_counter()
        sample(model, ["a photo of S* on the beach"] * pictures, image, steps=steps)
        spent = time.perf_counter() - start
        model.detach()
        return spent

    def theirs():
        start = time.perf_counter()
        pipe(["a photo of a face on the beach"] * pictures, num_inference_steps=steps, guidance_scale=4.0)
        return time.perf_counter() - start

    return _ratio(ours, theirs, repeats)


def training(base: Base, batch: int = 16, repeats: int = 3) -> dict:
    """One optimizer step on prepared pictures: E4T's phase 1 (encoder, whole offsets) against LoRA of rank 4 on every projection."""
    image = Image.new("RGB", (base.resolution, base.resolution), "pink")

    def ours():
        with_all = E4T(base, "face")
        yield from _timed(pretrain(with_all, prepare(with_all, [image] * batch, ["a photo of S*"] * batch), steps=repeats + 1, batch=batch))
        with_all.detach()

    def theirs():
        with begin(METHODS["LoRA"], base, "face") as model:
            data = prepare(model, [image] * batch, ["a photo of S* face"] * batch)
            yield from _timed(tune(model, data, [{"params": learned(model, "lora"), "lr": 1e-3}], repeats + 1, batch, {}, seed=0))

    seconds = {"ours": statistics.median(list(ours())[1:]), "theirs": statistics.median(list(theirs())[1:])}
    return {name: round(value, 3) for name, value in seconds.items()} | {"ratio": round(seconds["ours"] / seconds["theirs"], 3)}


def _timed(loop):
    start = time.perf_counter()
    for _ in loop:
        yield time.perf_counter() - start
        start = time.perf_counter()


def measure(by: int = 4, resolution: int = 256, repeats: int = 3) -> dict:
    """Both ratios on the toy (eight pictures, as `e4t demo` draws) and on a narrow Stable Diffusion (two)."""
    report = {"machine": f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}"}
    bases = {"toy": (load_base("toy"), 8, 16), f"sd15 at 1/{by} width, {resolution} pixels": (build(narrow(read_architecture("sd15"), by), resolution=resolution), 2, 4)}
    for name, (base, pictures, batch) in bases.items():
        report[name] = {f"sampling, {pictures} pictures": sampling(base, pictures, repeats=repeats), f"pretraining step, batch {batch}": training(base, batch, repeats)}
    return report
