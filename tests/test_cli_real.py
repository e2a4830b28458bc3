"""`e4t plan`, `export`, `import-weights`, `pretrain`: in this process, by typer's own runner."""

import json
import os

import pytest
import torch
from public_checkpoint import public_offsets, public_tensors
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli.app import app
from e4t_minimal.helpers.stored import read_config
from e4t_minimal.model import E4T
from e4t_minimal.scaling.checkpoint import read_facts

FACES = DATA / "faces"


def e4t(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pretrain(tiny_folder):
    def run(out, *options):
        on = () if "--weights" in options else ("--base", tiny_folder)
        return e4t("pretrain", FACES, "--cpu", "--batch", 2, *on, "--out", out, *options)

    return run


def test_plan_of_the_toy_is_written(tmp_path):
    path = tmp_path / "plan.json"
    done = e4t("plan", "--base", "toy", "--batch", 2, "--json", path)
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    concept, domain, stored = report["personalize"], report["pretrain"], report["stored"]
    assert domain["peak_GB"] > concept["peak_GB"] > concept["base_GB"] > 0
    assert 0 < stored["of_which_offsets_MB"] < stored["concept_MB"] < 2


def test_pretrain_then_personalize_then_export(pretrain, tmp_path):
    domain, me, files = tmp_path / "domain", tmp_path / "me", tmp_path / "files"
    done = pretrain(domain, "--steps", 2, "--streaming")
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir(domain)) == ["model", "state.safetensors"]
    done = e4t(
        *("personalize", FACES / "face-00.png", "--weights", domain / "model", "--steps", 1),
        *("--micro", 4, "--checkpointing", "--dtype", "bf16", "--out", me),
    )
    assert done.exit_code == 0, done.output
    done = e4t("export", me, "--out", files)
    assert done.exit_code == 0, done.output
    assert "attention.safetensors" in os.listdir(files)
    assert "nothing was written" in pretrain(domain).output


def test_a_first_run_may_be_asked_to_go_on(pretrain, tmp_path):
    done = pretrain(tmp_path / "domain", "--steps", 1, "--resume")
    assert done.exit_code == 0, done.output
    assert "no state to go on from" in done.output


def test_a_domain_can_be_tried_before_its_training_ends(pretrain, tmp_path, monkeypatch):
    found = []
    save = E4T.save_pretrained

    def watched(self, folder, **facts):
        save(self, folder, **facts)
        found.append((read_config(folder)["steps"], (tmp_path / "one/state.safetensors").exists()))

    monkeypatch.setattr(E4T, "save_pretrained", watched)
    done = pretrain(tmp_path / "one", "--steps", 5, "--save-every", 2)
    assert done.exit_code == 0, done.output
    assert found == [(2, True), (4, True), (5, True)]


def test_without_a_state_a_run_that_goes_on_does_not_take_the_toy(tmp_path):
    out = tmp_path / "domain"
    done = e4t("pretrain", FACES, "--cpu", "--out", out, "--steps", 1, "--resume")
    assert done.exit_code == 2
    assert "nothing says how the run was started: give --base" in done.output


@pytest.fixture(scope="module")
def stopped(pretrain, tmp_path_factory):
    """A run that was stopped after a step, started with nothing but options."""
    out = tmp_path_factory.mktemp("run") / "domain"
    options = ["--class-word", "robot", "--dtype", "bf16", "--lr", 1e-4, "--l2", 0.5, "--seed", 7]
    done = pretrain(out, "--steps", 1, "--streaming", *options)
    assert done.exit_code == 0, done.output
    return out


def test_a_resumed_run_has_the_options_that_it_was_started_with(stopped):
    done = e4t("pretrain", FACES, "--cpu", "--out", stopped, "--steps", 2, "--resume")
    assert done.exit_code == 0, done.output
    assert read_config(stopped / "model")["class_word"] == "robot"
    settings = read_facts(stopped / "state.safetensors")["settings"]
    assert settings["dtype"] == "bfloat16"
    assert (settings["batch"], settings["lr"], settings["seed"]) == (2, 1e-4, 7)
    assert settings["weights"] == {"l2": 0.5}
    assert settings["streaming"] is True


@pytest.mark.parametrize(
    "options",
    [
        ["--class-word", "face"],
        ["--dtype", "fp32"],
        ["--base", "another"],
        ["--batch", "4"],
        ["--lr", "1"],
        ["--offsets-lr", "1"],
        ["--l2", "0.1"],
        ["--seed", "1"],
        ["--resolution", "128"],
        ["--vision", "another"],
        ["--weights", "another"],
        ["--no-streaming"],
        ["--column", "another"],
        ["--split", "test"],
        ["--eight-bit"],
    ],
    ids=lambda options: options[0],
)
def test_a_resumed_run_with_another_option_is_refused(stopped, options):
    done = e4t("pretrain", FACES, "--cpu", "--out", stopped, "--resume", *options)
    assert done.exit_code == 2
    name = options[0].removeprefix("--no-").removeprefix("--")
    assert f"was started with --{name}" in done.output


def test_the_same_option_again_is_no_other(stopped, tiny_folder):
    options = ["--class-word", "robot", "--batch", 2, "--base", tiny_folder]
    options += ["--dtype", "bf16"]
    done = e4t("pretrain", FACES, "--cpu", "--out", stopped, "--steps", 2, "--resume", *options)
    assert done.exit_code == 0, done.output


def test_pretrain_goes_on_from_weights_on_their_base(pretrain, tmp_path):
    done = pretrain(tmp_path / "one", "--weights", DATA / "e4t-robot", "--steps", 1)
    assert done.exit_code == 0, done.output
    config = read_config(tmp_path / "one/model")
    assert (config["class_word"], config["base"]) == ("robot", "toy")
    done = e4t("pretrain", FACES, "--cpu", "--out", tmp_path / "one", "--steps", 2, "--resume")
    assert done.exit_code == 0, done.output
    assert read_config(tmp_path / "one/model")["steps"] == 2


def test_the_base_of_pretrain_is_that_of_its_weights(pretrain, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    config = read_config(DATA / "e4t-face") | {"base": "nowhere/sd"}
    (weights / "e4t.json").write_text(json.dumps(config))
    done = pretrain(tmp_path / "out", "--weights", weights)
    assert done.exit_code == 2
    assert "No Stable Diffusion at 'nowhere/sd'" in done.output


def test_import_weights(base, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    torch.save(public_tensors(public_offsets(base.unet)), theirs / "weight_offsets.pt")
    done = e4t("import-weights", theirs, "--base", "toy", "--class-word", "face", "--out", ours)
    assert done.exit_code == 0, done.output
    assert "42 offsets imported" in done.output
    model = E4T.from_pretrained(ours, base)
    assert max(offset.delta().abs().max() for offset in model.offsets.values()) > 0.1
    model.detach()


ROBOT = ["--weights", DATA / "e4t-face", "--class-word", "robot"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["plan", "--base", "nothing/here"], "No Stable Diffusion"),
        (["plan", "--base", "toy", "--micro", 32], "at most the batch"),
        (["pretrain", FACES, "--cpu", *ROBOT], "leave out --class-word robot"),
        (["pretrain", FACES, "--cpu", "--save-every", 0], "save-every"),
        (["pretrain", "nothing/here", "--cpu"], "No pictures at"),
        (["pretrain", FACES, "--dtype", "fp16", "--cpu"], "loss scaling"),
        (["export", "nothing"], "not an E4T folder"),
        (["import-weights", "nothing", "--base", "toy"], "is no checkpoint"),
    ],
)
def test_bad_input_ends_in_a_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = e4t(*arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert os.listdir(tmp_path) == []
