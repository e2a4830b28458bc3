"""The toy's E4T trainer, killed wherever, goes on with the same bits; and its command line."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from states import rewritten
from trying import record
from typer.testing import CliRunner

from e4t_minimal.base import load_base
from e4t_minimal.training import __main__ as program
from e4t_minimal.training import e4t, hardware, progress
from e4t_minimal.training.loop import Training

RECIPE = {"dictionary_steps": 3, "steps": 3, "seed": 4}


class Killed(BaseException):
    pass


def plain_attention(unet, device):
    hardware.set_attention(unet, "plain")
    return "plain"


@pytest.fixture(scope="module")
def small(tiny_folder):
    """Few pictures, small batches, a state after every step, on a small base."""
    base = load_base(tiny_folder)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(e4t, "VALIDATION_PEOPLE", 2)
        patches.setattr(e4t, "CELEBRITIES", 4)
        patches.setattr(e4t, "STRANGERS", 4)
        patches.setattr(e4t, "DICTIONARY", e4t.DICTIONARY.replace(batch=2))
        patches.setattr(e4t, "TOY_PRETRAINING", e4t.TOY_PRETRAINING.replace(batch=2))
        patches.setattr(e4t, "load_base", lambda *_, **__: base)
        # two runs of which one is interrupted choose alike, whatever else the machine does
        patches.setattr(e4t, "bf16_is_faster", lambda device: False)
        patches.setattr(e4t, "choose_attention", plain_attention)
        patches.setattr(progress, "SAVE_SECONDS", -1)
        yield


def dies_after(count, monkeypatch):
    """The training is killed after its `count`-th state, or before its next, by turns."""
    save, states = progress.save_state, iter(range(1, 100))

    def save_and_die(*arguments, **facts):
        save(*arguments, **facts)
        if next(states) == count:
            raise Killed

    monkeypatch.setattr(progress, "save_state", save_and_die)


def tensors_of(folder):
    """{file and name: tensor} of everything that a training has made."""
    found = {}
    for name in ("dictionary/encoder", "model/encoder", "model/offsets", "state"):
        tensors = load_file(folder / f"{name}.safetensors")
        found |= {f"{name} {key}": tensor for key, tensor in tensors.items()}
    return found


def steps_of(rows):
    return [(row["phase"], row["step"], row["gap"]) for row in rows]


def test_a_training_that_is_killed_goes_on_with_the_same_bits(small, tmp_path, monkeypatch):
    whole = e4t.fit(tmp_path / "whole", **RECIPE)
    folder = tmp_path / "parts"
    for states in (1, 1, 2):  # in the dictionary, again, then at the first step after it
        with monkeypatch.context() as patches:
            dies_after(states, patches)
            with pytest.raises(Killed):
                e4t.fit(folder, resume=True, **RECIPE)
        with open(folder / "log.jsonl", "a") as log:
            log.write('{"phase": "pretrain", "st')  # it was killed while it wrote
    torch.manual_seed(99)
    parts = e4t.fit(folder, resume=True, **RECIPE)
    expected, found = tensors_of(tmp_path / "whole"), tensors_of(folder)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert steps_of(parts["rows"]) == steps_of(whole["rows"])
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == parts["rows"]
    again = e4t.fit(folder, resume=True, **RECIPE)  # what is done is not done again
    assert again["rows"] == parts["rows"]


@pytest.fixture(scope="module")
def killed(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "it"
    with pytest.MonkeyPatch.context() as patches:
        dies_after(1, patches)
        with pytest.raises(Killed):
            e4t.fit(folder, **RECIPE)
    return folder


@pytest.fixture
def stopped(killed, tmp_path):
    """A folder in which a training has been killed in its dictionary."""
    return shutil.copytree(killed, tmp_path / "it")


@pytest.mark.parametrize(
    "change",
    [
        *({"facts": {name: None}} for name in progress.Facts.model_fields),
        {"facts": {"optimizer": None}},
        {"facts": {"step": -5}},
        {"facts": {"step": 1.5}},
        {"facts": {"phase": "coffee"}},
        {"facts": {"seconds": -1}},
        {"facts": {"recipe": {}}},
        {"drop": "optimizer"},
        {"drop": "exp_avg_sq"},
        {"drop": "encoder.join"},
        {"drop": "offsets."},
        {"encoder.more": torch.ones(2)},
        {"optimizer.0.exp_avg": torch.ones(1)},
        {"optimizer.999.exp_avg": torch.ones(1)},
        {"encoder.join.2.bias": torch.full((24,), float("nan"))},
        {"encoder.join.2.bias": torch.zeros(24).half()},
    ],
    ids=str,
)
def test_a_state_that_lacks_something_is_refused(stopped, change):
    rewritten(stopped / "state.safetensors", **change)
    with pytest.raises(ValueError, match=r"state\.safetensors"):
        e4t.fit(stopped, resume=True, **RECIPE)


@pytest.mark.parametrize("other", [{"seed": 5}, {"dictionary_steps": 4}, {"offsets": "none"}])
def test_another_training_is_not_gone_on_with(stopped, other):
    with pytest.raises(ValueError, match="of another training"):
        e4t.fit(stopped, resume=True, **RECIPE | other)


def test_a_line_of_the_log_that_is_none_is_named(stopped):
    (stopped / "log.jsonl").write_text("3\n")
    with pytest.raises(ValueError, match="line 1 of .*log.jsonl"):
        e4t.fit(stopped, resume=True, **RECIPE)


def test_a_dictionary_may_be_another_trainings(small, tmp_path):
    e4t.fit(tmp_path / "one", **RECIPE)
    report = e4t.fit(tmp_path / "two", dictionary=tmp_path / "one", steps=0)
    assert steps_of(report["rows"]) == steps_of(progress.read_rows(tmp_path / "one/log.jsonl"))[:1]
    one = load_file(tmp_path / "one/dictionary/encoder.safetensors")
    two = load_file(tmp_path / "two/model/encoder.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    """The trainers' command line in an empty folder, in which nothing is drawn or loaded."""
    monkeypatch.chdir(tmp_path)

    def fail(*_, **__):
        pytest.fail("it began")

    for name in ("data.pictures", "data.training_pictures", "e4t.load_base", "check.load_base"):
        monkeypatch.setattr(f"e4t_minimal.training.{name}", fail)
    monkeypatch.setattr("e4t_minimal.training.probe.load_base", fail)
    monkeypatch.setattr("e4t_minimal.training.ablations.load_base", fail)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "clip --device banana",
        "clip --steps 0",
        "clip --seed -1",
        f"judge --seed {2**70}",
        f"judge --steps {10**12}",
        "text --start nowhere",
        "vision --start nowhere/at-all",
        "decoder --start runs",
        "unet --start parts",
        "unet --text nowhere",
        "vae --resume --steps 3",  # see `half_state`
        "check",
        "check --base nowhere",
        "check --people 0",
        "check --base toy --judge nowhere",
        "probe --base nowhere",
        "e4t --domain cat",
        "e4t --steps -1",
        "e4t --dictionary-steps -1",
        "e4t --device banana",
        f"e4t --seed {2**70}",
        "e4t --domain robot",  # a file is in the way
        "ablate Magic",
        "ablate --domain cat",
        "ablate --identities 0",
        "ablate --steps -1",
        "ablate E4T --out a-file",
        "pack",
        "pack cat",
        "pack toy-sd",
        "pack judge",
        "pack e4t",
        "pack e4t-cat",
        "pack e4t-face",
    ],
)
def test_a_bad_input_is_told_before_anything_begins(trainers, command):
    (trainers / "a-file").write_text("mine")
    (trainers / "runs" / "vae").mkdir(parents=True)
    (trainers / "runs" / "vae" / "state.safetensors").write_text("half a state")
    (trainers / "runs" / "e4t-robot").write_text("mine")
    before = sorted(os.walk(trainers))
    done = CliRunner().invoke(program.app, command.split())
    assert done.exit_code == 2, (done.output, done.exception)
    assert "Traceback" not in done.output
    assert done.stderr.strip()
    assert sorted(os.walk(trainers)) == before
    record("a bad input of the trainers", "clear")


def test_a_state_with_another_seed_or_more_steps_is_refused(tmp_path):
    model = torch.nn.Linear(2, 1)

    def train(**changes):
        training = Training("line", tmp_path, 4).replace(**changes)
        training.check()
        groups = [{"params": model.parameters(), "lr": 0.1}]
        from e4t_minimal.training.loop import train as loop

        loop(model, groups, lambda g, step: model(torch.ones(1, 2)).sum(), training)

    train()
    train(resume=True)
    for changes in ({"seed": 1}, {"steps": 3}):
        with pytest.raises(ValueError, match="has done 4 steps with seed 0"):
            train(resume=True, **changes)
