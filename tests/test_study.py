"""All votes here are synthetic: cast by this test, not by people."""

import pytest
from PIL import Image

from e4t_minimal.evaluation.study import Study, Trial, append_rows, order, read_rows, win_rates

RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
TRIALS = [
    Trial(f"person {i}", "a photo of S*", RED, {"E4T": RED, "LoRA": BLUE, "DreamBooth": BLUE})
    for i in range(6)
]


def test_every_pair_is_asked_once_and_sides_are_mixed():
    asked = order(TRIALS)
    assert len(asked) == 6 * 3 == len({(trial.person, frozenset(pair)) for trial, pair in asked})
    sides = [pair.index("E4T") for _, pair in asked if "E4T" in pair]
    assert 2 <= sum(sides) <= 10 and order(TRIALS) == asked != order(TRIALS, seed=1)


def test_votes_survive_a_restart(tmp_path):
    study = Study(TRIALS, tmp_path / "votes.jsonl", "synthetic voter")
    for _ in range(5):
        study.vote("left", synthetic=True)
    again = Study(TRIALS, tmp_path / "votes.jsonl", "synthetic voter")
    assert len(again.left) == 13 and again.left == study.left
    assert len(Study(TRIALS, tmp_path / "votes.jsonl", "somebody else").left) == 18
    assert all(vote["synthetic"] for vote in read_rows(tmp_path / "votes.jsonl"))
    with pytest.raises(ValueError, match="not 'middle'"):
        study.vote("middle")


def test_the_page_hides_methods_and_counts_down(tmp_path):
    study = Study(TRIALS[:1], tmp_path / "votes.jsonl", "synthetic voter")
    page = study.page()
    question, shown, buttons = page.children
    assert (
        not any(name in question.value for name in ("E4T", "LoRA", "DreamBooth"))
        and "3 to go" in question.value
    )
    assert bytes(shown.value).startswith(b"\x89PNG")
    for _ in range(3):
        buttons.children[0].click()
    assert (
        "all" in question.value
        and all(button.disabled for button in buttons.children)
        and len(read_rows(tmp_path / "votes.jsonl")) == 3
    )


def test_win_rates():
    votes = [{"left": "E4T", "right": "LoRA", "choice": "left"}] * 30 + [
        {"left": "LoRA", "right": "E4T", "choice": "left"}
    ] * 10
    found = win_rates(votes)
    assert found["E4T"]["rate"] == 0.75 and found["LoRA"]["rate"] == 0.25
    assert found["E4T"]["low"] == pytest.approx(0.598, abs=0.001) and found["E4T"][
        "high"
    ] == pytest.approx(0.858, abs=0.001)  # Wilson's, by hand
    assert win_rates([{"left": "E4T", "right": "LoRA", "choice": "neither"}])["E4T"]["wins"] == 0.5
    assert win_rates([]) == {}


def test_a_half_written_line_costs_that_line_only(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    append_rows(path, [{"a": 2}, {"a": 3}])
    append_rows(path, [{"a": 4}])
    assert read_rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]
