"""What E4T costs in time, on the same base as what it is held against.

Sampling against stock `StableDiffusionPipeline`; a pretraining step against a LoRA step (peft).
"""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy

from PIL import Image

from ..base import Base, load_base
from ..model import E4T
from ..sample import sample
from ..scaling.architectures import build, narrow, pipeline_of, read_architecture
from ..train import PRETRAINING, fit, prepare, pretrain
from .baselines import METHODS, model_for, parameters_of
from .provenance import commit, machine


def measure(by: int = 4, resolution: int = 256, repeats: int = 3) -> dict:
    """Both ratios on the toy and on a Stable Diffusion at 1/`by` of its width, as a report.

    The toy draws eight pictures at once, as `e4t demo` does; the other two, and four.
    """
    narrowed = build(narrow(read_architecture("sd15"), by), resolution=resolution)
    return {
        "commit": commit(),
        "machine": machine(),
        "toy": _ratios(load_base("toy"), (8,), 16, repeats),
        f"sd15 at 1/{by} width, {resolution} pixels": _ratios(narrowed, (2, 4), 4, repeats),
    }


def _ratios(base: Base, pictures: tuple[int, ...], batch: int, repeats: int) -> dict:
    report = {}
    for count in pictures:
        report[f"sampling, {count} pictures"] = sampling(base, count, repeats=repeats)
    report[f"pretraining step, batch {batch}"] = training(base, batch, repeats)
    return report


def sampling(base: Base, pictures: int, steps: int = 10, repeats: int = 3) -> dict:
    """From the prompt to the pixels: E4T with folded offsets and S*, stock with a plain word."""
    pipe = pipeline_of(base)
    pipe.set_progress_bar_config(disable=True)
    model, image = E4T(deepcopy(base), "face"), _picture(base)
    model.fold()
    with_s = ["a photo of S* on the beach"] * pictures
    with_word = ["a photo of a face on the beach"] * pictures

    def ours():
        sample(model, with_s, image, steps=steps)

    def theirs():
        pipe(with_word, num_inference_steps=steps, guidance_scale=4.0)

    return compare(ours, theirs, repeats)


def training(base: Base, batch: int = 16, repeats: int = 3) -> dict:
    """One optimizer step on prepared pictures.

    E4T's phase 1 (encoder, whole offsets) against LoRA of rank 4 on every attention projection.
    """
    model, images = E4T(deepcopy(base), "face"), [_picture(base)] * batch
    schedule = PRETRAINING.replace(steps=repeats + 1, batch=batch)
    ours = pretrain(model, prepare(model, images, ["a photo of S*"] * batch), schedule)
    with model_for(METHODS["LoRA"], base, "face") as lora:
        data = prepare(lora, images, ["a photo of S* face"] * batch)
        groups = [{"params": parameters_of(lora, "lora"), "lr": 1e-3}]
        theirs = fit(lora, data, schedule.replace(weights={}), groups)
        return compare(ours.__next__, theirs.__next__, repeats)


def _picture(base: Base) -> Image.Image:
    return Image.new("RGB", (base.resolution, base.resolution), "pink")


def compare(ours: Callable, theirs: Callable, repeats: int) -> dict[str, dict]:
    """{"seconds" by the clock, "cpu" seconds of this process: medians and their ratio}.

    The two are called in turn, so that both meet the same machine; the first call of each does not
    count. Other programs disturb CPU seconds less. `torch.utils.benchmark` would measure the one
    after the other, with either clock, and call each twice before (its `Timer.timeit`).
    """
    _time(ours)
    _time(theirs)
    pairs = [(_time(ours), _time(theirs)) for _ in range(repeats)]
    report = {}
    for clock in ("seconds", "cpu"):
        mine = [first[clock] for first, _ in pairs]
        other = [second[clock] for _, second in pairs]
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        medians = {"ours": mine, "theirs": other, "ratio": ratios}
        report[clock] = {name: round(statistics.median(all_), 3) for name, all_ in medians.items()}
    return report


def _time(function: Callable) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
