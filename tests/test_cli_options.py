"""Options that travel together: dataclasses become options, and schedules are changed by them."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from e4t_minimal.cli.concepts import LearningOptions
from e4t_minimal.cli.options import MemoryOptions, ScheduleOptions, command
from e4t_minimal.cli.pretraining import PretrainingOptions
from e4t_minimal.train import PERSONALIZATION, PRETRAINING


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="In pixels.")] = 8
    round: bool = False


@pytest.fixture
def calls():
    return []


@pytest.fixture
def run(calls):
    app = typer.Typer()

    @app.command()
    @command
    def draw(name: str, size: Size, count: int = 1):
        """Draw something."""
        if name == "nothing":
            raise ValueError("There is nothing to draw.")
        calls.append((name, size, count))

    def invoke(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return invoke


def test_every_field_is_an_option(run, calls):
    assert run("a", "--width", "3", "--round").exit_code == 0
    assert run("b", "--count", "2").exit_code == 0
    assert calls == [("a", Size(3, True), 1), ("b", Size(), 2)]


def test_help_is_the_fields(run):
    output = run("--help").output
    assert "--width" in output
    assert "In pixels." in output
    assert "Draw something." in output


def test_bad_input_ends_in_a_sentence(run, calls):
    done = run("nothing")
    assert done.exit_code == 2
    assert done.output == "e4t: There is nothing to draw.\n"
    assert run("a", "--width", "0").exit_code == 2
    assert calls == []


def test_defaults_of_the_command_line_are_the_schedules():
    assert LearningOptions().change(PERSONALIZATION) == PERSONALIZATION
    assert PretrainingOptions().change(PRETRAINING) == PRETRAINING
    for phase in (PERSONALIZATION, PRETRAINING):
        assert ScheduleOptions().change(phase) == phase
        assert MemoryOptions().change(phase) == phase


def test_options_change_a_schedule():
    changed = ScheduleOptions(lr=0.1, offsets_lr=0.2, l2=3.0, t_min=4, batch=5)
    schedule = changed.change(PERSONALIZATION)
    assert (schedule.lr, schedule.offsets_lr, schedule.t_min, schedule.batch) == (0.1, 0.2, 4, 5)
    assert schedule.weights == {"l2": 3.0, "outside": PERSONALIZATION.weights["outside"]}
    schedule = LearningOptions(micro=2, eight_bit=True, steps=3, seed=4).change(PERSONALIZATION)
    assert schedule == PERSONALIZATION.replace(micro=2, eight_bit=True, steps=3, seed=4)
    schedule = PretrainingOptions(steps=1, batch=2, lr=0.3, offsets_lr=0.4, l2=5.0, seed=6)
    expected = PRETRAINING.replace(steps=1, batch=2, lr=0.3, offsets_lr=0.4, seed=6)
    assert schedule.change(PRETRAINING) == expected.replace(weights={"l2": 5.0})
