import dataclasses

import pytest
from PIL import Image

from e4t_minimal.evaluation import benchmark
from e4t_minimal.evaluation.baselines import METHODS
from e4t_minimal.evaluation.benchmark import Comparison, Run, execute, finished
from e4t_minimal.evaluation.figures import last_pictures
from e4t_minimal.evaluation.pictures import picture_path, read_strip
from e4t_minimal.evaluation.records import append_records
from e4t_minimal.evaluation.results import SCORES

MEASURED = dict.fromkeys(SCORES, 0.5) | {"bytes": 1, "peak_megabytes": None, "commit": "abc"}


def runs_of(**options):
    return Comparison(**options).runs()


def test_runs_go_on_where_they_stopped(tmp_path):
    path = tmp_path / "results" / "bench.jsonl"
    run = Run("Textual Inversion", 0, (0, 1), batch=2, denoising=1)
    records = execute(path, [run])
    assert [record["steps"] for record in records] == [0, 1]
    assert records[1]["seconds"] > 0
    assert 0 <= records[0]["identity"] <= 1
    with open(path, "a") as file:
        file.write('{"method": "LoRA", "iden')  # killed while it wrote
    stamp = path.read_text()
    assert execute(path, [run]) == records
    assert path.read_text() == stamp  # nothing was done again
    assert Image.open(picture_path(path, "Textual Inversion", 0)).size == (8 * 64, 64)
    pictures = read_strip(path, "Textual Inversion", 0)
    assert [picture.size for picture in pictures] == [(64, 64)] * 8
    figure = last_pictures(path, {"Textual Inversion": {"steps": {1: None}}}, "face")
    assert len(figure.axes) == 2  # of one person: she, and what was drawn
    with pytest.raises(ValueError, match="No pictures of LoRA and person 0"):
        read_strip(path, "LoRA", 0)
    with pytest.raises(ValueError, match="No person's pictures by all methods"):
        last_pictures(path, {"LoRA": {"steps": {1: None}}}, "face")


@pytest.mark.slow
def test_a_run_that_breaks_off_is_named(tmp_path):
    run = Run("E4T", 0, (0,), denoising=2)
    (tmp_path / "bench").write_text("in the way of the folder for the last pictures")
    with pytest.raises(ValueError, match="The run of E4T broke off with status 2"):
        execute(tmp_path / "bench.jsonl", [run])


def test_what_a_run_lacks_is_told_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "_in_own_process", lambda *_: pytest.fail("it started"))
    with pytest.raises(ValueError, match="not an E4T folder"):
        execute(tmp_path / "bench.jsonl", [Run("E4T", 0, (0,), weights="dragon")])
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="is in the way"):
        execute(tmp_path / "taken" / "bench.jsonl", [Run("E4T", 0, (0,))])


def test_records_of_other_runs_do_not_count(tmp_path):
    path, run = tmp_path / "bench.jsonl", Run("LoRA", 3, (5,))
    record = run.key(5) | MEASURED
    changes = [{"person": 4}, {"steps": 6}, {"factor": 2.0}, {"seed": 1}, {"hold_background": True}]
    append_records(path, [record] + [record | change for change in changes])
    assert finished(path, [run]) == [record]
    assert finished(path, []) == []


def test_a_record_from_before_a_field_was_there_has_its_default(tmp_path):
    path, run = tmp_path / "bench.jsonl", Run("LoRA", 3, (5,))
    record = run.key(5) | MEASURED
    del record["hold_background"]
    append_records(path, [record])
    assert finished(path, [run]) == [record]
    assert finished(path, [dataclasses.replace(run, hold_background=True)]) == []


def test_the_same_people_for_every_method_and_others_for_the_search():
    runs = runs_of(identities=16)
    people = {name: [run.person for run in runs if run.method == name] for name in METHODS}
    assert people == {name: list(range(16)) for name in METHODS}
    assert {run.split for run in runs} == {"held-out"}
    for kind in ("search", "quick"):
        assert {run.split for run in runs_of(kind=kind)} == {"validation"}
    assert runs_of(methods=("E4T",))[0].stops == (0, 5, 10, 15)
    assert runs_of(kind="quick", methods=("E4T",))[0].stops == (10,)


def test_a_small_batch_gets_as_many_more_steps_and_a_smaller_rate():
    large = runs_of(methods=("LoRA",))[0]
    small = runs_of(methods=("LoRA",), batch=4)[0]
    pictures = [[n * run.batch for n in run.stops] for run in (small, large)]
    assert pictures[0] == pictures[1]
    assert small.factor == large.factor / 2
    assert runs_of(kind="search", methods=("LoRA",), batch=4)[0].stops == (100,)


def test_what_a_comparison_is_asked_for_reaches_its_runs():
    options = {"domain": "robot", "seed": 3, "bf16": True, "weights": "face"}
    for kind in ("full", "quick", "search"):
        for run in runs_of(kind=kind, hold_background=True, **options):
            assert {name: getattr(run, name) for name in options} == options
            assert run.as_method().holds_background


def test_who_holds_the_background():
    holds = {run.method: run.as_method().holds_background for run in runs_of()}
    assert [name for name, value in holds.items() if value] == ["E4T"]
    assert all(run.as_method().holds_background for run in runs_of(hold_background=True))


def test_a_run_has_the_rates_that_it_asks_for():
    runs = runs_of(kind="search", methods=("LoRA",), identities=4)
    (tried,) = {run.method for run in runs}
    factors = [run.as_method().factor for run in runs]
    assert tried == "LoRA"
    assert factors == [factor for factor in (0.1, 0.3, 1.0, 3.0, 10.0) for _ in range(4)]
    assert {run.split for run in runs} == {"validation"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "bench-face"),
        ({"domain": "robot", "weights": "face"}, "bench-robot-on-face"),
        ({"kind": "quick", "seed": 1}, "bench-face-quick-seed-1"),
        ({"kind": "search", "batch": 2}, "search-face-batch-2"),
        ({"hold_background": True, "methods": ("LoRA",)}, "bench-face-hold-background"),
    ],
)
def test_a_comparison_has_files_of_its_own(options, name):
    assert Comparison(**options).name == name


def test_what_there_is_not_is_named():
    assert {run.method for run in runs_of(methods=("LoRA",))} == {"LoRA"}
    with pytest.raises(ValueError, match="no method 'Lora'; choose one of E4T"):
        Comparison(methods=("Lora",))
    with pytest.raises(ValueError, match="no kind of comparison 'fast'; choose one of full"):
        Comparison(kind="fast")
