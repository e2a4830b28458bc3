"""`e4t` as a program of its own, and how little it loads."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli.app import app
from e4t_minimal.cli.loading import load_picture
from e4t_minimal.helpers.pictures import transparency

HEAVY = {"torch", "numpy", "PIL", "diffusers", "transformers", "datasets", "accelerate"}


def e4t(*arguments, cwd):
    program = Path(sys.executable).with_name("e4t")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def loaded_by(code, cwd):
    """The modules that a new Python holds after some code; names without dots."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", ["e4t_minimal", "e4t_minimal.cli.app"])
def test_nothing_heavy_is_loaded_before_it_is_used(name, tmp_path):
    assert not loaded_by(f"import {name}", tmp_path) & HEAVY


def test_help_comes_at_once(tmp_path):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert e4t("--help", cwd=tmp_path).returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2  # 0.4 on a machine that does nothing else


@pytest.mark.parametrize(
    "commands, unused",
    [
        (
            [["sample", DATA / "e4t-face"], ["export", "nothing"], ["plan", "--base", "nowhere"]],
            {"datasets", "matplotlib", "pandas", "dicebear"},
        ),
        ([["pretrain", "nothing", "--dtype", "fp16", "--cpu"]], {"matplotlib", "dicebear"}),
        ([["evaluate", "--steps", "x"]], {"datasets", "matplotlib"}),
        ([["personalize", "nowhere.png"]], {"datasets", "diffusers", "matplotlib", "dicebear"}),
    ],
    ids=["sample, export, plan", "pretrain", "evaluate", "personalize"],
)
def test_no_command_loads_what_it_does_not_use(commands, unused, tmp_path):
    """Each ends in a sentence, but only after it has loaded what it needs."""
    code = "from typer.testing import CliRunner\nfrom e4t_minimal.cli.app import app\n"
    for arguments in commands:
        words = [str(argument) for argument in arguments]
        code += f"assert CliRunner().invoke(app, {words!r}).exit_code == 2\n"
    assert not loaded_by(code, tmp_path) & unused


def test_personalize_then_sample(portrait, tiny_domain, tmp_path):
    me, drawn = tmp_path / "me", tmp_path / "drawn"
    prompt = "a photo of S* on the beach"
    options = ["--weights", tiny_domain, "--steps", 2, "--prompt", prompt, "--out", me]
    done = e4t("personalize", portrait, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(me / "pictures/00-a-photo-of-S-on-the-beach.png").size == (32, 32)
    prompts = ["--prompt", "pixel art of S*", "--prompt", "a photo of S*"]
    arguments = ["sample", me, *prompts, "--steps", 3, "--out", drawn]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert len(os.listdir(drawn)) == 2


def test_what_was_done_to_a_photo_is_said(tiny_domain, tmp_path):
    photo = tmp_path / "wide.png"
    Image.new("RGB", (90, 50), "pink").save(photo)
    options = ["--weights", tiny_domain, "--steps", 0, "--out", tmp_path / "me"]
    arguments = ["personalize", photo, *options]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "90 x 50 is not square: the middle was kept" in done.output


def test_transparency_is_the_mask(portrait):
    assert transparency(load_picture(portrait)).getextrema() == (0, 255)


def test_a_mask_file_is_what_the_loss_looks_at(portrait, tmp_path, monkeypatch):
    mask, photo = tmp_path / "mask.png", tmp_path / "photo.png"
    Image.open(portrait).getchannel("A").save(mask)
    Image.open(portrait).convert("RGB").save(photo)
    seen = {}

    def personalize(model, picture, schedule, mask):
        seen.update(picture=picture, mask=mask, schedule=schedule)
        model.picture = picture
        return iter(())

    monkeypatch.setattr("e4t_minimal.train.personalize", personalize)
    options = ["--mask", mask, "--out", tmp_path / "me", "--steps", 7, "--micro", 2, "--seed", 5]
    arguments = ["personalize", photo, *options]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert seen["picture"].mode == "RGB"
    assert seen["mask"].tobytes() == Image.open(mask).tobytes()
    schedule = seen["schedule"]
    assert (schedule.steps, schedule.micro, schedule.seed) == (7, 2, 5)


def check_refusal(status, stderr, folder):
    """One sentence, status 2, and nothing written."""
    assert status == 2
    assert os.listdir(folder) == []
    assert stderr.startswith("e4t: ")
    assert stderr.count("\n") == 1, stderr


def test_a_program_ends_in_a_sentence(tmp_path):
    done = e4t("personalize", "nowhere.png", cwd=tmp_path)
    check_refusal(done.returncode, done.stderr, tmp_path)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs a command in an empty folder, in this process; what it says."""
    inside = tmp_path / "empty"
    inside.mkdir()
    monkeypatch.chdir(inside)

    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        check_refusal(done.exit_code, done.stderr, inside)
        return done.stderr

    return run


def test_nothing_to_see(refused, tmp_path):
    Image.new("RGBA", (64, 64)).save(tmp_path / "empty.png")
    assert "transparent everywhere" in refused("personalize", tmp_path / "empty.png")


def test_missing_picture(refused):
    assert "no picture at nowhere.png" in refused("personalize", "nowhere.png")


def test_unreadable_picture(refused, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    assert "cannot be read as a picture" in refused("personalize", tmp_path / "text.png")


def test_truncated_picture(refused, portrait, tmp_path):
    (tmp_path / "half.png").write_bytes(portrait.read_bytes()[:300])
    assert "cannot be read as a picture" in refused("demo", tmp_path / "half.png")


def test_prompt_without_s(refused, portrait):
    prompt = "a photo of a face"
    assert "does not mention S*" in refused("personalize", portrait, "--prompt", prompt)


def test_prompt_cut_before_s(refused, portrait):
    prompt = "a face on the beach " * 10 + "S*"
    assert "too long" in refused("personalize", portrait, "--prompt", prompt)


def test_missing_weights(refused, portrait, tmp_path):
    weights = tmp_path / "nothing"
    assert "not an E4T folder" in refused("personalize", portrait, "--weights", weights)


def test_missing_base(refused, portrait, tmp_path):
    base = tmp_path / "nothing"
    assert "No Stable Diffusion" in refused("personalize", portrait, "--base", base)


def test_foreign_concept(refused, tmp_path):
    assert "not an E4T folder" in refused("sample", tmp_path)


def test_damaged_weights(refused, portrait, tmp_path):
    weights = tmp_path / "half"
    shutil.copytree(DATA / "e4t-face", weights)
    (weights / "encoder.safetensors").write_bytes(b"half a file")
    assert "is damaged" in refused("personalize", portrait, "--weights", weights)


def test_target_is_somebody_elses(refused, portrait):
    assert "nothing was written" in refused("personalize", portrait, "--out", portrait)
    assert Image.open(portrait).size == (64, 64)


def test_domain_is_no_concept(refused):
    assert "has no picture" in refused("sample", DATA / "e4t-face")


def test_bad_domain(refused):
    assert "There is no domain 'cat'; choose one of face" in refused("evaluate", "--domain", "cat")


def test_bad_box(refused, portrait):
    assert "left,top,right,bottom" in refused("personalize", portrait, "--box", "1,2,3")


def test_bad_number_format(refused, portrait):
    assert "choose one of fp32" in refused("personalize", portrait, "--dtype", "int4")


def test_bad_steps(refused):
    assert "whole numbers" in refused("evaluate", "--steps", "-5,15")


def test_bad_method(refused):
    assert "no method 'Magic'" in refused("bench", "--method", "Magic")


def test_two_kinds_of_comparison(refused):
    assert "give one of them" in refused("bench", "--quick", "--search")
