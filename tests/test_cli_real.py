"""`e4t plan`, `export`, `import-weights`, `pretrain`: in this process, through typer's own runner."""

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli.app import app
from e4t_minimal.model import E4T


def e4t(*arguments):
    return CliRunner().invoke(app, [str(x) for x in arguments])


def test_plan_of_the_toy_is_written(tmp_path):
    done = e4t("plan", "--base", "toy", "--batch", 2, "--json", tmp_path / "plan.json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "plan.json").read_text())
    assert (
        report["pretrain"]["peak_GB"]
        > report["personalize"]["peak_GB"]
        > report["personalize"]["base_GB"]
        > 0
    )
    assert 0 < report["stored"]["of_which_offsets_MB"] < report["stored"]["concept_MB"] < 2


def test_pretrain_then_personalize_then_export(tmp_path):
    done = e4t(
        "pretrain",
        DATA / "faces",
        "--steps",
        2,
        "--batch",
        2,
        "--out",
        tmp_path / "domain",
        "--cpu",
        "--streaming",
    )
    assert done.exit_code == 0 and sorted(os.listdir(tmp_path / "domain")) == [
        "model",
        "state.safetensors",
    ], done.output
    done = e4t(
        "pretrain",
        DATA / "faces",
        "--steps",
        1,
        "--batch",
        1,
        "--out",
        tmp_path / "other",
        "--cpu",
        "--resume",
    )
    assert done.exit_code == 0 and "no state to go on from" in done.output
    done = e4t(
        "personalize",
        DATA / "faces/face-00.png",
        "--weights",
        tmp_path / "domain/model",
        "--steps",
        1,
        "--micro",
        4,
        "--checkpointing",
        "--dtype",
        "bf16",
        "--out",
        tmp_path / "me",
    )
    assert done.exit_code == 0, done.output
    done = e4t("export", tmp_path / "me", "--out", tmp_path / "files")
    assert done.exit_code == 0 and "attention.safetensors" in os.listdir(tmp_path / "files"), (
        done.output
    )
    assert (
        "nothing was written"
        in e4t("pretrain", DATA / "faces", "--out", tmp_path / "domain", "--cpu").output
    )


def test_import_weights(base, tmp_path):
    from test_convert import Theirs

    from e4t_minimal.offsets import attention_projections

    (tmp_path / "theirs").mkdir()
    torch.save(
        {
            f"{name.replace('.to_', '.wo_')}.{k}": v
            for name, linear in attention_projections(base.unet).items()
            for k, v in Theirs(*linear.weight.shape).state_dict().items()
        },
        tmp_path / "theirs/weight_offsets.pt",
    )
    done = e4t(
        "import-weights",
        tmp_path / "theirs",
        "--base",
        "toy",
        "--class-word",
        "face",
        "--out",
        tmp_path / "ours",
    )
    assert done.exit_code == 0 and "42 offsets imported" in done.output, done.output
    model = E4T.from_pretrained(tmp_path / "ours", base)
    assert max(offset.delta().abs().max() for offset in model.offsets.values()) > 0.1
    model.detach()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["plan", "--base", "nothing/here"], "No Stable Diffusion"),
        (["plan", "--base", "toy", "--micro", 32], "at most the batch"),
        (
            [
                "pretrain",
                DATA / "faces",
                "--cpu",
                "--weights",
                DATA / "e4t-face",
                "--class-word",
                "robot",
            ],
            "leave out --class-word robot",
        ),
        (["pretrain", DATA / "faces", "--cpu", "--save-every", 0], "save-every"),
        (["pretrain", "nothing/here", "--cpu"], "No pictures at"),
        (["pretrain", DATA / "faces", "--dtype", "fp16", "--cpu"], "loss scaling"),
        (["export", "nothing"], "not an E4T folder"),
        (["import-weights", "nothing", "--base", "toy"], "is no checkpoint"),
    ],
)
def test_bad_input_ends_in_a_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = e4t(*arguments)
    assert done.exit_code == 2 and sentence in done.output and "Traceback" not in done.output
    assert os.listdir(tmp_path) == []
