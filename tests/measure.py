"""Measured peak memory of a training, as the operating system counts it: what `e4t plan` predicts.

Run as a process of its own: python tests/measure.py '{"base": "toy", "batch": 16}'
"""

import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from e4t_minimal.base import Base, load_base
from e4t_minimal.model import E4T
from e4t_minimal.scaling.architectures import build, narrow, read_architecture
from e4t_minimal.train import PERSONALIZATION, PRETRAINING, personalize, prepare, pretrain

# what is freed goes back to the system
SMALLEST = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(frozen=True)
class Case:
    """What is measured, and planned."""

    base: str = "toy"  # or n for Stable Diffusion 1.5 at 1/n of its width
    phase: str = "personalize"
    resolution: int = 64
    batch: int = 1
    micro: int | None = None
    checkpointing: bool = False

    @property
    def architecture(self) -> str | dict:
        return "toy" if self.base == "toy" else narrow(read_architecture("sd15"), int(self.base))

    @property
    def schedule(self):
        phase = PERSONALIZATION if self.phase == "personalize" else PRETRAINING
        return phase.replace(steps=2, batch=self.batch, micro=self.micro)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def load(self) -> Base:
        if self.base == "toy":
            base = load_base("toy")
        else:
            base = build(self.architecture, resolution=self.resolution)
        if self.checkpointing:
            base.unet.enable_gradient_checkpointing()
        return base

    def train(self, base: Base) -> None:
        """Two steps: at the second, the optimizer has its averages."""
        model = E4T(base, "face")
        image = Image.new("RGB", (base.resolution, base.resolution), "pink")
        if self.phase == "personalize":
            steps = personalize(model, image, self.schedule)
        else:
            count = self.micro or self.batch
            data = prepare(model, [image] * count, ["a photo of S*"] * count)
            steps = pretrain(model, data, self.schedule)
        for _ in steps:
            pass
        model.detach()


def megabytes(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_megabytes(case: Case) -> float:
    """Of a training, from the moment on when its base is made."""
    small = Case(base="32")  # libraries load more when they are first used
    load_base("toy")
    small.train(small.load())
    gc.collect()
    start = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    case.train(case.load())
    return megabytes("VmHWM") - start


if __name__ == "__main__":
    print(json.dumps({"peak": peak_megabytes(Case(**json.loads(sys.argv[1])))}))
