import json

import pytest

from e4t_minimal.evaluation.baselines import METHODS
from e4t_minimal.evaluation.benchmark import Run
from e4t_minimal.evaluation.figures import curves, forest
from e4t_minimal.evaluation.results import (
    CAPTION,
    read_report,
    summarise,
    summarise_search,
    table,
)
from e4t_minimal.evaluation.scores import interval


def made_up(method, steps, identity, **changes):
    """Records of two people, as a run writes them."""
    scores = {"identity": identity, "identity_plain": identity, "identity_background": identity}
    scores |= {"prompt": 0.9, "diversity": 0.2}
    costs = {"seconds": 0.1 * steps, "bytes": 10, "peak_megabytes": 5}
    people = [Run(method, person, (steps,)) for person in (0, 1)]
    return [run.key(steps) | scores | costs | changes for run in people]


def test_summary_says_when_a_method_reaches_e4t(tmp_path):
    records = made_up("E4T", 0, 0.3) + made_up("E4T", 10, 0.7)
    records += made_up("LoRA", 10, 0.4) + made_up("LoRA", 200, 0.75)
    records += made_up("Textual Inversion", 200, 0.5)
    found = summarise(records)
    assert found["LoRA"]["reaches E4T at 10 steps"]["steps"] == 200
    assert found["LoRA"]["reaches E4T at 10 steps"]["times E4T's seconds"] == 20
    assert found["E4T"]["reaches E4T at 10 steps"]["steps"] == 10
    assert found["Textual Inversion"]["reaches E4T at 10 steps"] == "not within 200 steps"
    assert found["LoRA"]["steps"][10]["each"] == [0.4, 0.4]
    (tmp_path / "bench.json").write_text(json.dumps({"methods": found}))
    assert read_report(tmp_path / "bench.json")["methods"] == found
    assert len(curves(found).axes) == 4
    line = table(found)["LoRA"]
    assert (line["0"], line["10"], line["200"]) == ("", "0.40", "0.75")
    assert line["CPU seconds a step"] == "0.1"
    assert line["first stop at E4T's identity after 10"] == "200 steps, 20 CPU s"


def test_without_e4t_nothing_says_when_it_is_reached():
    found = summarise(made_up("LoRA", 10, 0.4))
    assert "reaches E4T at 10 steps" not in found["LoRA"]
    assert table(found)["LoRA"]["first stop at E4T's identity after 10"] == ""
    assert summarise([]) == {}


def test_search_takes_the_highest_identity_that_keeps_the_prompt():
    records = []
    for factor, identity, prompt in [(0.3, 0.5, 0.9), (1.0, 0.7, 0.86), (3.0, 0.8, 0.84)]:
        records += made_up("LoRA", 50, identity, factor=factor, prompt=prompt)
    found = summarise_search(records)["LoRA"]
    assert found["best"] == 1.0
    assert found["learns"] == METHODS["LoRA"].learns
    means = {"identity": 0.8, "prompt": 0.84, "diversity": 0.2}
    assert found["factor"][3.0] == means | {"each": [0.8, 0.8]}
    assert set(found["factor"]) == {0.3, 1.0, 3.0}


def test_the_caption_says_what_else_differs():
    for said in ("L2 term", "outside the mask", "16 other backgrounds", "half of each batch"):
        assert said in CAPTION
    assert METHODS["E4T"].schedule.backgrounds == 16


def scores_at(value):
    return {
        "identity": interval([value - 0.1, value + 0.1]),
        "diversity": interval([0.2, 0.3]),
    }


def test_a_line_of_the_forest_is_a_mean_in_its_interval():
    variants = {
        "E4T": {"steps": {"0": scores_at(0.5), "10": scores_at(0.8)}},
        "L2 0": {"steps": {"10": scores_at(0.9)}},
    }
    axis = forest(variants).axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == pytest.approx([0.5, 0.8, 0.9])
    assert [dot.get_fillstyle() for dot in dots] == ["none", "full", "full"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["E4T", "L2 0"]
    assert axis.yaxis_inverted()
    (dotted,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert float(dotted.get_xdata()[0]) == pytest.approx(0.8)
