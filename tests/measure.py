"""Measured peak memory of a personalization, as the operating system counts it: what `e4t plan` predicts. Run as a process of its own.

python tests/measure.py BASE RESOLUTION BATCH MICRO CHECKPOINTING [PHASE]     BASE: "toy", or n for Stable Diffusion 1.5 at 1/n of its width
"""

import gc
import json
import sys
from pathlib import Path

from PIL import Image

from e4t_minimal.scaling.architectures import build, narrow, read_architecture
from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.train import personalize, prepare, pretrain

SMALLEST = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}  # what is freed goes back to the system


def megabytes(field: str) -> float:
    return next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )


def work(base, batch, micro, phase="personalize", steps=2):
    model, image = E4T(base, "face"), Image.new("RGB", (base.resolution, base.resolution), "pink")
    if phase == "personalize":
        steps = personalize(model, image, steps=steps, batch=batch, micro=micro)
    else:
        steps = pretrain(
            model,
            prepare(model, [image] * (micro or batch), ["a photo of S*"] * (micro or batch)),
            steps=steps,
            batch=batch,
            micro=micro,
        )
    for _ in steps:
        pass
    model.detach()


if __name__ == "__main__":
    which, resolution, batch, micro, checkpointing = sys.argv[1], *map(int, sys.argv[2:6])
    load_base("toy")  # libraries load more when they are first used
    work(build(narrow(read_architecture("sd15"), 32), resolution=64), 1, None, steps=1)
    gc.collect()
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    base = (
        load_base("toy")
        if which == "toy"
        else build(narrow(read_architecture("sd15"), int(which)), resolution=resolution)
    )
    if checkpointing:
        base.unet.enable_gradient_checkpointing()
    work(base, batch, micro or None, *sys.argv[6:])
    print(json.dumps({"peak": megabytes("VmHWM") - before}))
