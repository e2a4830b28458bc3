import json
from dataclasses import fields

import pytest

from e4t_minimal import DATA
from e4t_minimal.encoder import ENCODERS
from e4t_minimal.evaluation.scores import People
from e4t_minimal.offsets import OFFSETS
from e4t_minimal.regularizers import TERMS
from e4t_minimal.train import PERSONALIZATION
from e4t_minimal.training import ablations as module
from e4t_minimal.training.ablations import SHORT, VARIANTS, ablate, pretrained
from e4t_minimal.training.e4t import Recipe

PEOPLE = People(count=2)


def test_variants_change_what_there_is_to_change():
    recipe = {field.name for field in fields(Recipe)}
    assert set(SHORT) <= recipe
    for name, variant in VARIANTS.items():
        changes = variant.pretraining or {}
        assert set(changes) <= recipe, name
        assert changes.get("encoder", "e4t") in ENCODERS
        assert changes.get("offsets", "none") in {"none", *OFFSETS}
        assert set(changes.get("weights", {})) <= set(TERMS)
        assert set(variant.schedule.weights) <= set(TERMS)


def test_one_thing_is_changed_at_a_time():
    assert VARIANTS["E4T"].pretraining is None
    assert VARIANTS["E4T, short"].pretraining == {}
    for name in ("E4T", "E4T, short"):
        assert not VARIANTS[name].differs_in_phase_2
    for name, variant in VARIANTS.items():
        in_phase_1 = bool(variant.pretraining)
        assert in_phase_1 != variant.differs_in_phase_2 or name in ("E4T", "E4T, short"), name
    usual = PERSONALIZATION
    schedules = {name: variant.schedule for name, variant in VARIANTS.items()}
    assert schedules["L2 1"] == usual.replace(weights=usual.weights | {"l2": 1.0})
    assert schedules["background free"] == usual.replace(weights=usual.weights | {"outside": 0.0})
    assert schedules["L2 0.1, offsets still"] == usual.replace(offsets_lr=0.0)
    assert schedules["all timesteps"] == usual.replace(t_min=0)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps({name: {} for name in VARIANTS}))
    monkeypatch.setattr(module, "load_base", lambda *_: pytest.fail("nothing was left to do"))
    assert set(ablate(tmp_path, path, PEOPLE, 1)) == set(VARIANTS)
    with pytest.raises(ValueError, match="no variant 'L3'; choose one of E4T, E4T, short"):
        ablate(tmp_path, path, PEOPLE, 1, ["L3"])


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder that stands for the shipped weights."""
    weights = tmp_path / "e4t-face"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"12345")
    (weights / "e4t.json").write_text(json.dumps({"command": "made so", "seconds": 3}))
    monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.setattr(module, "load_base", lambda _: "toy")
    return weights


def test_a_variant_is_measured_beside_those_that_are_there(tmp_path, monkeypatch, shipped):
    path, floor = tmp_path / "ablation.json", [{"identity": 0.2, "prompt": 1.0}] * 2
    path.write_text(json.dumps({"E4T": {"what": "from another process"}}))
    asked = []
    monkeypatch.setattr(module, "floor_scores", lambda *_: floor)
    monkeypatch.setattr(module, "evaluate", lambda *arguments: asked.append(arguments) or {"n": 1})
    found = ablate(tmp_path, path, PEOPLE, 7, ["L2 1", "one embedding"])
    assert json.loads(path.read_text()) == found
    assert found["E4T"] == {"what": "from another process"}
    assert list(found) == ["E4T", "L2 1", "one embedding"]  # in the table's order
    assert found["L2 1"]["n"] == 1
    assert found["L2 1"]["made by"] == "made so"
    assert found["L2 1"]["training seconds"] == 3
    assert found["L2 1"]["bytes"] == sum(file.stat().st_size for file in shipped.iterdir())
    first, second = asked
    schedule = VARIANTS["L2 1"].schedule
    assert first == ("toy", shipped, PEOPLE, (7,), schedule, floor, None)
    assert second[4:] == (PERSONALIZATION, floor, VARIANTS["one embedding"].sampling)
    files = [file.name for file in tmp_path.iterdir() if file.is_file()]
    assert files == ["ablation.json"]


def test_rates_are_chosen_on_other_people(tmp_path, monkeypatch, shipped):
    asked = []

    def evaluate(base, weights, people, stops, schedule, floor, sampling):
        asked.append((people.split, stops, schedule.offsets_lr, floor))
        identity = {1e-4: 0.4, 1e-3: 0.7, 1e-2: 0.5}[schedule.offsets_lr]
        scores = {"identity": {"mean": identity}, "prompt": {"mean": 1.0}}
        return {"steps": {str(n): scores for n in stops}, "rate": schedule.offsets_lr}

    monkeypatch.setattr(module, "floor_scores", lambda base, people: people.split)
    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "pretrained", lambda *_: shipped)
    found = ablate(tmp_path, tmp_path / "ablation.json", PEOPLE, 7, ["additive"])
    assert [rate for _, _, rate, _ in asked] == [1e-4, 1e-3, 1e-2, 1e-3]
    assert [split for split, _, _, _ in asked] == ["validation"] * 3 + ["held-out"]
    assert all(split == floor for split, _, _, floor in asked)
    assert asked[-1][1] == (0, 7)
    assert found["additive"]["rate"] == 1e-3


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What was trained: [(folder's name, choices)]; nothing is, really."""
    calls = []

    def fit(folder, domain, **choices):
        calls.append((folder.name, choices))
        (folder / "model").mkdir(parents=True)

    monkeypatch.setattr(module, "fit", fit)
    return calls


def test_variants_go_on_from_the_same_dictionary_where_the_encoder_is_the_same(tmp_path, trained):
    assert pretrained("E4T", tmp_path, "face") == DATA / "e4t-face"
    assert pretrained("L2 1", tmp_path, "face") == DATA / "e4t-face"
    folder = pretrained("additive, L1", tmp_path, "face")
    assert folder == tmp_path / "ablate-face" / "additive-L1" / "model"
    assert pretrained("additive, L1", tmp_path, "face") == folder  # not trained again
    pretrained("1 block", tmp_path, "face")
    changes = VARIANTS["additive, L1"].pretraining
    short = tmp_path / "ablate-face" / "E4T-short"
    assert trained == [
        ("E4T-short", SHORT | {"resume": True}),
        ("additive-L1", SHORT | changes | {"resume": True, "dictionary": short}),
        ("1-block", SHORT | {"blocks": 1, "resume": True}),
    ]
