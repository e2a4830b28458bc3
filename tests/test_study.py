"""All votes here are synthetic: cast by this test, not by people."""

import pytest
from PIL import Image

from e4t_minimal.evaluation.records import read_records
from e4t_minimal.evaluation.study import Question, Study, Trial, questions, win_rates
from e4t_minimal.evaluation.study_page import StudyPage

RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
RESULTS = {"E4T": RED, "LoRA": BLUE, "DreamBooth": BLUE}
TRIALS = [Trial(f"person {i}", "a photo of S*", RED, RESULTS) for i in range(6)]


def test_every_pair_is_asked_once_and_sides_are_mixed():
    asked = questions(TRIALS)
    assert len(asked) == 6 * 3 == len({question.key for question in asked})
    with_ours = [question for question in asked if "E4T" in (question.left, question.right)]
    assert 2 <= sum(question.left == "E4T" for question in with_ours) <= 10
    assert questions(TRIALS) == asked
    assert questions(TRIALS, seed=1) != asked


def test_a_pair_is_one_question_whichever_side_a_method_is_on():
    one, other = Question(TRIALS[0], "E4T", "LoRA"), Question(TRIALS[0], "LoRA", "E4T")
    assert one.key == other.key
    assert one.key != Question(TRIALS[1], "E4T", "LoRA").key


def test_a_sheet_shows_the_person_then_left_then_right():
    green = Image.new("RGB", (64, 64), "green")
    trial = Trial("one", "a photo of S*", green, RESULTS)
    sheet = Question(trial, "LoRA", "E4T").sheet(size=100)
    assert sheet.size == (340, 100)
    colors = [sheet.getpixel((x, 50)) for x in (50, 180, 290)]
    assert colors == [(0, 128, 0), (0, 0, 255), (255, 0, 0)]


def test_votes_survive_a_restart(tmp_path):
    path = tmp_path / "votes.jsonl"
    study = Study(TRIALS, path, "synthetic voter")
    for _ in range(5):
        study.vote("left", synthetic=True)
    again = Study(TRIALS, path, "synthetic voter")
    assert len(again.remaining) == 13
    assert again.remaining == study.remaining
    assert len(Study(TRIALS, path, "somebody else").remaining) == 18
    assert all(vote["synthetic"] for vote in read_records(path))
    with pytest.raises(ValueError, match="not 'middle'"):
        study.vote("middle")


def test_a_vote_that_cannot_be_written_is_asked_for_again(tmp_path):
    (tmp_path / "votes").write_text("in the way of a folder")
    study = Study(TRIALS[:1], tmp_path / "votes" / "votes.jsonl", "synthetic voter")
    page = StudyPage(study)
    with pytest.raises(OSError):
        study.vote("left")
    assert len(study.remaining) == 3
    _, _, buttons = page.children
    buttons.children[0].click()
    assert "Not kept" in page.question.value
    assert len(study.remaining) == 3
    (tmp_path / "votes").unlink()
    buttons.children[0].click()
    assert "2 to go" in page.question.value


def test_the_page_hides_methods_and_counts_down(tmp_path):
    path = tmp_path / "votes.jsonl"
    page = StudyPage(Study(TRIALS[:1], path, "synthetic voter"))
    question, pictures, buttons = page.children
    assert not any(name in question.value for name in RESULTS)
    assert "3 to go" in question.value
    assert bytes(pictures.value).startswith(b"\x89PNG")
    assert [button.description for button in buttons.children][2] == "cannot say"
    for button in buttons.children:
        button.click()
    assert "all" in question.value
    assert all(button.disabled for button in buttons.children)
    assert [vote["choice"] for vote in read_records(path)] == ["left", "right", "neither"]


def test_win_rates():
    ours = {"left": "E4T", "right": "LoRA", "choice": "left"}
    theirs = {"left": "LoRA", "right": "E4T", "choice": "left"}
    found = win_rates([ours] * 30 + [theirs] * 10)
    assert found["E4T"]["rate"] == 0.75
    assert found["LoRA"]["rate"] == 0.25
    assert found["E4T"]["low"] == pytest.approx(0.598, abs=0.001)  # Wilson's, by hand
    assert found["E4T"]["high"] == pytest.approx(0.858, abs=0.001)
    assert win_rates([ours | {"choice": "neither"}])["E4T"]["wins"] == 0.5
    assert win_rates([]) == {}
