"""`e4t evaluate`, `bench`, `speed`: what they ask of the evaluation, and what they write."""

import json

import pytest
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli.app import app
from e4t_minimal.evaluation import benchmark
from e4t_minimal.evaluation.results import SCORES
from e4t_minimal.train import PERSONALIZATION


def e4t(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_evaluate_asks_for_a_changed_schedule(tmp_path, monkeypatch):
    asked = {}

    def evaluate(base, weights, people, stops, schedule):
        asked.update(weights=weights, people=people, stops=stops, schedule=schedule)
        return {"steps": {}}

    def named_scores(base, people):
        return {"identity": people.count}

    monkeypatch.setattr("e4t_minimal.evaluation.scores.evaluate", evaluate)
    monkeypatch.setattr("e4t_minimal.evaluation.scores.named_scores", named_scores)
    path = tmp_path / "report.json"
    e4t(
        *("evaluate", "--domain", "robot", "--identities", 3, "--split", "validation"),
        *("--steps", "5,0,5", "--seed", 2, "--l2", 0.5, "--batch", 4, "--json", path),
    )
    assert asked["weights"] == DATA / "e4t-robot"
    people = asked["people"]
    found = (people.domain, people.count, people.split, people.seed)
    assert found == ("robot", 3, "validation", 2)
    assert asked["stops"] == (0, 5)
    weights = PERSONALIZATION.weights | {"l2": 0.5}
    assert asked["schedule"] == PERSONALIZATION.replace(batch=4, weights=weights)
    report = json.loads(path.read_text())
    assert report == {"bf16": False, "steps": {}, "named": {"identity": 3}}


@pytest.fixture
def executed(monkeypatch):
    """Runs are not done: every stop of every run that is asked for has the same scores."""
    done = []

    def execute(path, runs):
        path.parent.mkdir(parents=True, exist_ok=True)
        done.extend(runs)

    def finished(path, runs):
        measured = dict.fromkeys(SCORES, 0.5) | {"bytes": 1, "peak_megabytes": 2}
        measured["commit"] = "abc"
        wanted = {run.method for run in done}
        return [
            run.key(step) | measured for run in runs if run.method in wanted for step in run.stops
        ]

    monkeypatch.setattr(benchmark, "execute", execute)
    monkeypatch.setattr(benchmark, "finished", finished)
    return done


def test_bench_does_the_methods_that_are_asked_for(executed, tmp_path):
    options = ["--identities", 2, "--batch", 8, "--hold-background", "--out", tmp_path]
    e4t("bench", "--method", "E4T", "--method", "LoRA", *options)
    assert {run.method for run in executed} == {"E4T", "LoRA"}
    assert {(run.batch, run.hold_background) for run in executed} == {(8, True)}
    name = "bench-face-batch-8-hold-background"
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json", f"{name}.png"}
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(report["methods"]) == {"E4T", "LoRA"}
    assert report["comparison"]["hold_background"] is True
    assert report["comparison"]["identities"] == 2
    assert report["commits"] == ["abc"]
    assert report["machine"]


@pytest.mark.parametrize("kind, stem", [("quick", "bench-face-quick"), ("search", "search-face")])
def test_bench_of_another_kind_has_files_of_its_own(executed, tmp_path, kind, stem):
    e4t("bench", f"--{kind}", "--method", "E4T", "--out", tmp_path)
    report = json.loads((tmp_path / f"{stem}.json").read_text())
    assert report["comparison"]["kind"] == kind
    assert list(report["methods"]) == ["E4T"]
    assert (tmp_path / f"{stem}.png").exists() == (kind == "quick")


def test_speed_is_written(tmp_path, monkeypatch):
    asked = []

    def measure(*arguments):
        asked.append(arguments)
        return {"ratio": 1.0}

    monkeypatch.setattr("e4t_minimal.evaluation.speed.measure", measure)
    path = tmp_path / "speed.json"
    e4t("speed", "--narrow", 8, "--resolution", 128, "--repeats", 1, "--json", path)
    assert asked == [(8, 128, 1)]
    assert json.loads(path.read_text()) == {"ratio": 1.0}
