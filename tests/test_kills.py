"""SIGKILL at random moments: what is left loads as whole only if it is, and --resume goes on."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trying import record

from e4t_minimal import DATA
from e4t_minimal.helpers.files import OWN
from e4t_minimal.helpers.stored import read_model

KILLS = int(os.environ.get("E4T_KILLS", 20))
pytestmark = pytest.mark.slow
PICTURE = DATA / "faces" / "face-00.png"


def started(*arguments, cwd):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(*arguments, cwd):
    """The seconds that a command takes to its end."""
    start = time.perf_counter()
    with started(*arguments, cwd=cwd) as program:
        said, _ = program.communicate()
    assert program.returncode == 0, said.decode()
    return time.perf_counter() - start


def killed(*arguments, cwd, after):
    with started(*arguments, cwd=cwd) as program:
        try:
            program.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            program.kill()
            record("SIGKILL at a random moment", "ok")


def temporaries(folder):
    return list(Path(folder).rglob(f"{OWN}*"))


def whole_or_none(folder):
    """The settings of an E4T folder that is whole; None if there is none."""
    try:
        return read_model(folder).config
    except ValueError as error:
        assert "is not an E4T folder (no readable e4t.json)" in str(error)
        return None


def assert_equal(one, other):
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_pretrain(tmp_path):
    options = ["--base", "toy", "--cpu", "--batch", 2, "--steps", 12, "--save-every", 1]
    command = ["e4t_minimal", "pretrain", DATA / "faces", *options, "--out"]
    seconds = run(*command, "whole", cwd=tmp_path)
    rng = random.Random(0)
    for _ in range(KILLS):
        killed(*command, "parts", "--resume", cwd=tmp_path, after=rng.uniform(0, seconds))
        whole_or_none(tmp_path / "parts" / "model")
    run(*command, "parts", "--resume", cwd=tmp_path)
    for name in ("state", "model/encoder", "model/offsets"):
        assert_equal(*(tmp_path / run / f"{name}.safetensors" for run in ("whole", "parts")))
    assert temporaries(tmp_path) == []


def test_personalize(tmp_path):
    """Over an older concept: it is the old one or the new one, and never a mixture."""
    command = ["e4t_minimal", "personalize", PICTURE, "--steps", 1, "--out", "me", "--seed"]
    seconds = run(*command, 0, cwd=tmp_path)
    rng = random.Random(0)
    for seed in range(1, KILLS + 1):
        killed(*command, seed, cwd=tmp_path, after=rng.uniform(0, 1.1 * seconds))
        assert whole_or_none(tmp_path / "me")["seed"] <= seed
    run(*command, 99, cwd=tmp_path)
    assert whole_or_none(tmp_path / "me")["seed"] == 99
    assert temporaries(tmp_path / "me") == []


# a training command on a dozen pictures, with a state after every step
SMALL = """import sys
from importlib import import_module
from e4t_minimal.training import __main__, data, e4t, loop, progress

def few(domain, split, count, **options):
    return data.pictures(domain, split, min(count, 8), **options)

loop.SAVE_SECONDS = progress.SAVE_SECONDS = -1
data.MIX = {kind: 12 for kind in data.MIX}
e4t.CELEBRITIES = e4t.STRANGERS = 8
e4t.VALIDATION_PEOPLE = 2
for name in ("clip", "vae", "text", "unet", "vision", "decoder", "judge"):
    module = import_module(f"e4t_minimal.training.{name}")
    module.BATCH = 6
    module.pictures = few
with __main__.one_sentence("training"):
    __main__.app(sys.argv[1:])
"""
TRAINERS = ("clip", "vae", "text", "unet", "vision", "decoder", "judge", "e4t")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainer(tmp_path, trainer):
    """Whatever of it has been done, the same command ends in the same bits."""
    steps = ["--steps", 6]
    if trainer == "e4t":
        steps += ["--dictionary-steps", 6]
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "small.py").write_text(SMALL)
    command = ["small", trainer, *steps, "--resume"]
    seconds = run(*command, cwd=tmp_path / "whole")
    rng = random.Random(0)
    for _ in range(KILLS):
        killed(*command, cwd=tmp_path / "parts", after=rng.uniform(0, seconds))
    run(*command, cwd=tmp_path / "parts")
    state = f"runs/{'e4t-face' if trainer == 'e4t' else trainer}/state.safetensors"
    assert_equal(tmp_path / "whole" / state, tmp_path / "parts" / state)
    assert temporaries(tmp_path / "parts") == []
