"""`e4t plan` against what the operating system counts while the same thing really runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import measure
import pytest
import torch
from measure import Case
from tiny import tiny_architecture

from e4t_minimal.model import E4T
from e4t_minimal.scaling.architectures import build, narrow, read_architecture
from e4t_minimal.scaling.plan import PHASES, plan, rehearsal

GB = 1e9
MB = 2**20
WHOLE = PHASES["personalize"]
PARTS = WHOLE.replace(micro=4)


def measured(case: Case) -> float:
    """Bytes, in a process of its own."""
    command = [sys.executable, measure.__file__, case.to_json()]
    environment = os.environ | measure.SMALLEST
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["peak"] * MB


def slow(case: Case):
    return pytest.param(case, marks=pytest.mark.slow)


def planned(case: Case) -> int:
    return plan(
        case.architecture,
        case.phase,
        case.schedule,
        case.resolution,
        torch.float32,
        case.checkpointing,
    ).peak


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
)
@pytest.mark.parametrize(
    "case",
    [
        Case("toy", "personalize", 64, batch=16),
        slow(Case("toy", "pretrain", 64, batch=16, micro=4)),
        slow(Case("8", "personalize", 256, batch=4, micro=2, checkpointing=True)),
        slow(Case("8", "personalize", 512, batch=4)),
        slow(Case("8", "pretrain", 512, batch=4, micro=2, checkpointing=True)),
    ],
    ids=lambda case: f"{case.base}-{case.phase}-{case.resolution}",
)
def test_plan_is_within_15_percent_of_what_is_measured(case):
    said, real = planned(case), measured(case)
    print(f"{case}: planned {said / MB:.0f} MB, measured {real / MB:.0f} MB")
    assert 0.85 < said / real < 1.15


@pytest.mark.slow
def test_stable_diffusion_fits_a_free_colab():
    concept = plan("sd15", "personalize", PARTS, resolution=512)
    assert concept.peak <= 15 * GB
    assert concept.stored <= 25e6
    assert concept.offsets <= 2e6
    domain = plan("sd15", "pretrain", PHASES["pretrain"].replace(micro=4), resolution=512)
    assert domain.peak <= 24 * GB


def test_the_batch_of_both_phases_is_the_papers():
    assert {name: schedule.batch for name, schedule in PHASES.items()} == {
        "personalize": 16,
        "pretrain": 16,
    }


def test_what_saves_memory_saves_memory():
    tiny = tiny_architecture()
    two = WHOLE.replace(batch=2)
    whole = plan(tiny, schedule=two, resolution=64, checkpointing=False)
    parts = plan(tiny, schedule=two.replace(micro=1), resolution=64, checkpointing=False)
    checkpointed = plan(tiny, schedule=two.replace(micro=1), resolution=64, checkpointing=True)
    assert checkpointed.peak < parts.peak < whole.peak


def test_eight_bit_averages_take_less():
    tiny = tiny_architecture()
    two = PHASES["pretrain"].replace(batch=2)
    whole = plan(tiny, "pretrain", two, resolution=64)
    small = plan(tiny, "pretrain", two.replace(eight_bit=True), resolution=64)
    assert small.trained < whole.trained


def test_a_rehearsal_allocates_nothing_and_counts_everything():
    with rehearsal() as live:
        x = torch.zeros(2**40, dtype=torch.uint8)  # a terabyte
        assert live.now == 2**40
        y = x + 1
        del x, y
        assert live.now == 0
        assert live.peak == 2**41


def test_plan_knows_the_true_numbers():
    architecture = narrow(read_architecture("sd15"), 32)
    two = WHOLE.replace(batch=2)
    said = plan(architecture, schedule=two, resolution=64, dtype=torch.float32)
    base = build(architecture, resolution=64)
    parts = (base.unet, base.vae, base.text_encoder, base.vision)
    frozen = sum(4 * p.numel() for part in parts for p in part.parameters())
    assert abs(said.base - frozen) < 0.01 * frozen  # the rest: buffers
    model = E4T(base, "face")
    model.fold()
    # parameters, gradients and two averages, in fp32
    assert said.trained == 4 * 4 * sum(p.numel() for p in model.parameters())


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="no phase"):
        plan("sd15", "evaluate")
    with pytest.raises(ValueError, match="a part is at most the batch"):
        plan("sd15", schedule=WHOLE.replace(batch=4, micro=8))
    for wrong in ({"batch": 0}, {"micro": 0}):
        with pytest.raises(ValueError, match="is 0; give a whole number from 1"):
            plan("sd15", schedule=WHOLE.replace(**wrong))
    with pytest.raises(ValueError, match="multiple of 64"):
        plan("sd15", resolution=500)
