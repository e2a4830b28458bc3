import subprocess
import time
from functools import partial

import pytest
import torch

from e4t_minimal.evaluation import provenance, speed
from e4t_minimal.evaluation.provenance import commit, machine
from e4t_minimal.evaluation.speed import compare, sampling, training


def names_of(base):
    return [name for name, _ in base.unet.named_modules()]


@pytest.mark.parametrize("measure", [partial(sampling, steps=2), training], ids=["draw", "train"])
def test_a_ratio_is_of_two_medians_and_the_base_is_as_it_was(base, measure):
    before, parts = base.unet.conv_in.weight.clone(), names_of(base)
    report = measure(base, 1, repeats=1)
    assert set(report) == {"seconds", "cpu"}
    for found in report.values():
        assert found["ours"] > 0 < found["theirs"]
        assert found["ratio"] == pytest.approx(found["ours"] / found["theirs"], rel=0.05)
    assert torch.equal(base.unet.conv_in.weight, before)
    assert names_of(base) == parts
    assert not any(p.requires_grad for p in base.unet.parameters())


def test_both_are_called_in_turn_and_the_first_call_does_not_count():
    calls = []

    def ours():
        calls.append("ours")
        time.sleep(0.5 if len(calls) < 2 else 0.02)

    def theirs():
        calls.append("theirs")
        time.sleep(0.01)

    found = compare(ours, theirs, repeats=3)["seconds"]
    assert calls == ["ours", "theirs"] * 4
    assert 0.02 <= found["ours"] < 0.4


def test_a_report_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(speed, "build", lambda *_, **__: "narrow")
    monkeypatch.setattr(speed, "load_base", lambda _: "toy")
    monkeypatch.setattr(speed, "sampling", lambda base, count, repeats: (base, count, repeats))
    monkeypatch.setattr(speed, "training", lambda base, batch, repeats: (base, batch, repeats))
    report = speed.measure(by=8, resolution=128, repeats=2)
    assert report["commit"] == commit()
    assert report["toy"] == {
        "sampling, 8 pictures": ("toy", 8, 2),
        "pretraining step, batch 16": ("toy", 16, 2),
    }
    assert report["sd15 at 1/8 width, 128 pixels"] == {
        "sampling, 2 pictures": ("narrow", 2, 2),
        "sampling, 4 pictures": ("narrow", 4, 2),
        "pretraining step, batch 4": ("narrow", 4, 2),
    }


def test_a_changed_tree_is_told_from_its_commit(monkeypatch):
    said = {"ls-files": "", "rev-parse": "abc1234\n", "status": ""}

    def run(command, **options):
        (answer,) = [said[word] for word in command if word in said]
        return subprocess.CompletedProcess(command, 0, stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    assert commit() == "abc1234"
    said["status"] = " M e4t_minimal/model.py\n"
    assert commit() == "abc1234+"


def test_a_copy_in_somebody_elses_repository_has_no_commit(monkeypatch):
    monkeypatch.setattr(provenance, "__file__", torch.__file__)  # .venv lies in our repository
    assert commit() is None


def test_outside_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_a_machine_says_what_seconds_depend_on():
    found = machine()
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] > 0
    assert found["torch"] == torch.__version__
    assert found["diffusers"]
