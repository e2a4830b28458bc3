import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import e4t_minimal.cli.app as cli
from e4t_minimal import DATA
from e4t_minimal.base import transparency


def e4t(*arguments, cwd):
    return subprocess.run(
        [Path(sys.executable).with_name("e4t"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_personalize_then_sample(portrait, tmp_path):
    done = e4t(
        "personalize",
        portrait,
        "--prompt",
        "a photo of S* on the beach",
        "--steps",
        2,
        "--out",
        tmp_path / "me",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "me/pictures/00-a-photo-of-S-on-the-beach.png").size == (64, 64)
    done = e4t(
        "sample",
        tmp_path / "me",
        "--prompt",
        "pixel art of S*",
        "--prompt",
        "a photo of S*",
        "--steps",
        3,
        "--out",
        tmp_path / "drawn",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(tmp_path / "drawn")) == 2


def test_what_was_done_to_a_photo_is_said(tmp_path):
    Image.new("RGB", (90, 50), "pink").save(tmp_path / "wide.png")
    done = e4t(
        "personalize", tmp_path / "wide.png", "--steps", 0, "--out", tmp_path / "me", cwd=tmp_path
    )
    assert done.returncode == 0 and "90 x 50 is not square: the middle was kept" in done.stdout


def test_transparency_is_the_mask(portrait):
    assert transparency(cli.load_picture(portrait)).getextrema() == (0, 255)


def test_a_mask_file_is_what_the_loss_looks_at(portrait, tmp_path, monkeypatch):
    Image.open(portrait).getchannel("A").save(tmp_path / "mask.png")
    Image.open(portrait).convert("RGB").save(tmp_path / "photo.png")
    seen = {}
    monkeypatch.setattr(
        cli,
        "tune",
        lambda model, picture, *_, mask, **how: (
            seen.update(picture=picture, mask=mask) or setattr(model, "picture", picture)
        ),
    )
    monkeypatch.setattr("e4t_minimal.sample.sample", lambda *_, **how: [])
    cli.personalize(tmp_path / "photo.png", mask=tmp_path / "mask.png", out=tmp_path / "me")
    assert (
        seen["picture"].mode == "RGB"
        and seen["mask"].tobytes() == Image.open(tmp_path / "mask.png").tobytes()
    )


def test_nothing_to_see(refused, tmp_path):
    Image.new("RGBA", (64, 64)).save(tmp_path / "empty.png")
    assert "transparent everywhere" in refused("personalize", tmp_path / "empty.png")


@pytest.fixture
def refused(tmp_path):
    """Runs a command in an empty folder and requires: one sentence, status 2, no traceback, nothing written."""

    def run(*arguments):
        inside = tmp_path / "empty"
        inside.mkdir()
        done = e4t(*arguments, cwd=inside)
        assert done.returncode == 2 and os.listdir(inside) == []
        assert done.stderr.startswith("e4t: ") and done.stderr.count("\n") == 1, done.stderr
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
    assert "does not mention S*" in refused(
        "personalize", portrait, "--prompt", "a photo of a face"
    )


def test_prompt_cut_before_s(refused, portrait):
    assert "too long" in refused(
        "personalize", portrait, "--prompt", "a face on the beach " * 10 + "S*"
    )


def test_missing_weights(refused, portrait, tmp_path):
    assert "not an E4T folder" in refused(
        "personalize", portrait, "--weights", tmp_path / "nothing"
    )


def test_missing_base(refused, portrait, tmp_path):
    assert "No Stable Diffusion" in refused("personalize", portrait, "--base", tmp_path / "nothing")


def test_foreign_concept(refused, tmp_path):
    assert "not an E4T folder" in refused("sample", tmp_path)


def test_damaged_weights(refused, portrait, tmp_path):
    shutil.copytree(DATA / "e4t-face", tmp_path / "half")
    (tmp_path / "half/encoder.safetensors").write_bytes(b"half a file")
    assert "is damaged" in refused("personalize", portrait, "--weights", tmp_path / "half")


def test_target_is_somebody_elses(refused, portrait):
    assert "nothing was written" in refused("personalize", portrait, "--out", portrait)
    assert Image.open(portrait).size == (64, 64)


def test_domain_is_no_concept(refused):
    assert "has no picture" in refused("sample", DATA / "e4t-face")


def test_bad_domain(refused):
    assert "no identities of domain 'cat'" in refused("evaluate", "--domain", "cat")


def test_bad_box(refused, portrait):
    assert "left,top,right,bottom" in refused("personalize", portrait, "--box", "1,2,3")


def test_bad_number_format(refused, portrait):
    assert "choose one of fp32" in refused("personalize", portrait, "--dtype", "int4")


def test_bad_steps(refused):
    assert "whole numbers" in refused("evaluate", "--steps", "-5,15")
