"""`e4t plan` against what the operating system counts while the same thing really runs, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import measure
import pytest
import torch

from e4t_minimal.scaling.architectures import build, narrow, read_architecture
from e4t_minimal.model import E4T
from e4t_minimal.scaling.plan import plan, rehearsal

GB = 1e9


def measured(*arguments) -> float:
    done = subprocess.run(
        [sys.executable, measure.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | measure.SMALLEST,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["peak"] * 2**20


on_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)


@on_linux
@pytest.mark.parametrize(
    "which, resolution, batch, micro, checkpointing, phase",
    [
        ("toy", 64, 16, 0, 0, "personalize"),
        ("toy", 64, 16, 4, 0, "pretrain"),
        ("8", 256, 4, 2, 1, "personalize"),
        pytest.param("8", 512, 4, 0, 0, "personalize", marks=pytest.mark.slow),
        pytest.param("8", 512, 4, 2, 1, "pretrain", marks=pytest.mark.slow),
    ],
)
def test_plan_is_within_15_percent_of_what_is_measured(
    which, resolution, batch, micro, checkpointing, phase
):
    architecture = "toy" if which == "toy" else narrow(read_architecture("sd15"), int(which))
    said = plan(
        architecture, phase, batch, micro or None, resolution, torch.float32, bool(checkpointing)
    )["peak"]
    real = measured(which, resolution, batch, micro, checkpointing, phase)
    print(
        f"{which} {phase} at {resolution}, batch {batch}/{micro}: planned {said / 2**20:.0f} MB, measured {real / 2**20:.0f} MB"
    )
    assert 0.85 < said / real < 1.15, (said / 2**20, real / 2**20)


def test_stable_diffusion_fits_a_free_colab():
    tuned = plan("sd15", batch=16, micro=4, resolution=512)
    assert tuned["peak"] <= 15 * GB and tuned["stored"] <= 25e6 and tuned["offsets"] <= 2e6
    assert plan("sd15", "pretrain", batch=16, micro=4, resolution=512)["peak"] <= 24 * GB


def test_what_saves_memory_saves_memory():
    whole, parts, checkpointed = (
        plan("toy", batch=8, **how)["peak"]
        for how in (
            {"checkpointing": False},
            {"checkpointing": False, "micro": 2},
            {"checkpointing": True, "micro": 2},
        )
    )
    assert checkpointed < parts < whole
    assert (
        plan("toy", "pretrain", batch=2, eight_bit=True)["trained"]
        < plan("toy", "pretrain", batch=2)["trained"]
    )


def test_a_rehearsal_allocates_nothing_and_counts_everything():
    with rehearsal() as live:
        x = torch.zeros(2**40, dtype=torch.uint8)  # a terabyte
        assert live.now == 2**40
        y = x + 1
        del x, y
        assert live.now == 0 and live.peak == 2**41


def test_plan_knows_the_true_numbers():
    base = build(narrow(read_architecture("sd15"), 32), resolution=64)
    said = plan(narrow(read_architecture("sd15"), 32), batch=2, resolution=64, dtype=torch.float32)
    frozen = sum(
        t.numel() * 4
        for part in (base.unet, base.vae, base.text_encoder, base.vision)
        for t in part.parameters()
    )
    model = E4T(base, "face")
    model.fold()
    assert abs(said["base"] - frozen) < 0.01 * frozen  # the rest: buffers
    assert said["trained"] == 4 * 4 * sum(p.numel() for p in model.parameters())
    with pytest.raises(ValueError, match="no phase"):
        plan("sd15", "tune")
    with pytest.raises(ValueError, match="at least 1"):
        plan("sd15", batch=4, micro=8)
    with pytest.raises(ValueError, match="multiple of 64"):
        plan("sd15", resolution=500)
