import os
import subprocess
import sys

import pytest
from PIL import Image

import e4t_minimal.cli as cli


def e4t(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "e4t_minimal.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def test_personalize_then_sample(portrait, tmp_path):
    done = e4t("personalize", portrait, "--prompt", "a photo of S* on the beach", "--steps", 2, "--out", tmp_path / "me", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "me/pictures/00-a-photo-of-S--on-the-beach.png").size == (64, 64)
    done = e4t("sample", tmp_path / "me", "--prompt", "pixel art of S*", "--prompt", "a photo of S*", "--steps", 3, "--out", tmp_path / "drawn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(tmp_path / "drawn")) == 2


@pytest.mark.parametrize("suffix, mode", [("jpg", "RGB"), ("png", "L"), ("png", "P"), ("png", "LA")])
def test_pictures_of_other_kinds(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", (90, 50), "pink").convert(mode).save(path)
    picture, mask = cli.load_picture(path)
    assert picture.size == (90, 50) and mask is None


def test_transparency_is_the_mask(portrait):
    _, mask = cli.load_picture(portrait)
    assert mask.getextrema() == (0, 255)


@pytest.fixture
def refused(tmp_path):
    """Runs a command in an empty folder and requires: one sentence, status 2, no traceback, nothing written."""
    def run(*arguments):
        inside = tmp_path / "empty"
        inside.mkdir()
        done = e4t(*arguments, cwd=inside)
        assert done.returncode == 2 and "Traceback" not in done.stderr and os.listdir(inside) == []
        return done.stderr
    return run


def test_missing_picture(refused):
    assert "no picture at nowhere.png" in refused("personalize", "nowhere.png")


def test_unreadable_picture(refused, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    assert "cannot be read as a picture" in refused("personalize", tmp_path / "text.png")


def test_truncated_picture(refused, portrait, tmp_path):
    (tmp_path / "half.png").write_bytes(portrait.read_bytes()[:300])
    assert "cannot be read as a picture" in refused("demo", tmp_path / "half.png")


def test_prompt_without_s(refused, portrait):
    assert "does not mention S*" in refused("personalize", portrait, "--prompt", "a photo of a face")


def test_prompt_cut_before_s(refused, portrait):
    assert "too long" in refused("personalize", portrait, "--prompt", "a face on the beach " * 10 + "S*")


def test_missing_weights(refused, portrait, tmp_path):
    assert "not an E4T folder" in refused("personalize", portrait, "--weights", tmp_path / "nothing")


def test_missing_base(refused, portrait, tmp_path):
    assert "No Stable Diffusion" in refused("personalize", portrait, "--base", tmp_path / "nothing")


def test_foreign_concept(refused, tmp_path):
    assert "not an E4T folder" in refused("sample", tmp_path)


def test_domain_is_no_concept(refused):
    from e4t_minimal.base import DATA

    assert "has no picture" in refused("sample", DATA / "e4t-face")


def test_bad_domain_and_steps(refused):
    assert "choose one of face" in refused("evaluate", "--domain", "cat")
