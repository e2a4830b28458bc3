import inspect
import json

import pytest

from e4t_minimal.evaluation.scores import evaluate, interval
from e4t_minimal.evaluation.results import forest
from e4t_minimal.evaluation import ablations as module
from e4t_minimal.evaluation.ablations import SHORT, VARIANTS, ablate
from e4t_minimal.training.e4t import fit
from e4t_minimal.train import personalize


def test_variants_change_what_there_is_to_change():
    of_fit, of_look = (
        inspect.signature(fit).parameters,
        {**inspect.signature(personalize).parameters, **inspect.signature(evaluate).parameters},
    )
    for variant in VARIANTS.values():
        changed = variant.fit or {}
        assert (
            set(changed) <= set(of_fit)
            and set(variant.how) <= set(of_look)
            and set(changed.get("weights", {})) <= {"contrastive", "sparsity", "cosine"}
        )
    assert (
        VARIANTS["E4T"].fit is None
        and VARIANTS["E4T"].how == VARIANTS["E4T, short"].fit == {}
        and set(SHORT) <= set(of_fit)
    )


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps({name: {} for name in VARIANTS}))
    monkeypatch.setattr(module, "load_base", lambda *_: pytest.fail("nothing was left to do"))
    assert set(ablate(tmp_path, path, "face", 2, 1, [])) == set(VARIANTS)
    with pytest.raises(ValueError, match="no variant L3; choose from E4T, E4T, short"):
        ablate(tmp_path, path, "face", 2, 1, ["L3"])


def test_a_variant_is_measured_beside_those_that_are_there(tmp_path, monkeypatch):
    path, floor = tmp_path / "ablation.json", [{"identity": 0.2, "prompt": 1.0}] * 2
    path.write_text(json.dumps({"E4T": {"what": "from another process"}}))
    weights = tmp_path / "e4t-face"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"12345")
    (weights / "e4t.json").write_text(json.dumps({"command": "made so", "seconds": 3}))
    monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(module, "floor_scores", lambda *_: floor)
    monkeypatch.setattr(
        module, "evaluate", lambda base, folder, *args, **how: {"folder": str(folder), "asked": how}
    )
    found = ablate(tmp_path, path, "face", 2, 1, ["L2 1"])
    assert json.loads(path.read_text()) == found and found["E4T"] == {
        "what": "from another process"
    }
    assert (
        found["L2 1"]["folder"] == str(weights)
        and found["L2 1"]["asked"] == {"l2": 1.0, "floor": floor}
        and found["L2 1"]["training seconds"] == 3
    )
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["ablation.json"]


def test_a_line_of_the_forest_is_a_mean_in_its_interval():
    scores = lambda value: {
        "identity": interval([value - 0.1, value + 0.1]),
        "diversity": interval([0.2, 0.3]),
    }  # noqa: E731
    axis = forest(
        {
            "E4T": {"steps": {"0": scores(0.5), "10": scores(0.8)}},
            "L2 0": {"steps": {"10": scores(0.9)}},
        }
    ).axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [round(float(dot.get_xdata()[0]), 2) for dot in dots] == [0.5, 0.8, 0.9] and [
        dot.get_fillstyle() for dot in dots
    ] == ["none", "full", "full"]
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "E4T",
        "L2 0",
    ] and axis.yaxis_inverted()
    (dotted,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert round(float(dotted.get_xdata()[0]), 2) == 0.8
