import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_offsets import run as forward

from e4t_minimal import DATA
from e4t_minimal.evaluation.baselines import (
    METHODS,
    RARE,
    begin,
    class_pictures,
    learn,
    learned,
    stored_bytes,
)
from e4t_minimal.evaluation.bench import Run, execute, plan
from e4t_minimal.model import E4T
from e4t_minimal.evaluation.results import (
    curves,
    last_pictures,
    picture_path,
    read_report,
    read_strip,
    summarise,
    summarise_search,
    table,
)
from e4t_minimal.train import personalize


@pytest.fixture(scope="module")
def prior(base):
    return class_pictures(base, "face", count=4)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_what_it_says_and_leaves_the_base_as_it_was(base, faces, prior, name):
    before, weights = forward(base), {k: v.clone() for k, v in base.unet.state_dict().items()}
    method = METHODS[name]
    with begin(method, base, "face", DATA / "e4t-face") as model:
        start = {part: [p.clone() for p in learned(model, part)] for part in method.learns}
        words = [p.clone() for p in model.encoder.parameters()]
        states = list(learn(method, model, faces[0][0], faces[0][2], prior, steps=2, batch=4))
        assert len(states[0]["t"]) == (2 if method.prior else 4)  # half of the rows are the prior's
        assert [s["step"] for s in states] == [0, 1] and torch.isfinite(states[-1]["loss"])
        for part, old in start.items():
            assert old and any(not torch.equal(a, b) for a, b in zip(old, learned(model, part)))
        assert "encoder" in method.learns or all(
            torch.equal(a, b) for a, b in zip(words, model.encoder.parameters())
        )
        assert (
            states[-1]["loss"] > states[-1]["terms"]["loss"]
        ) == method.prior  # the prior's loss is added
    assert torch.equal(forward(base), before)
    assert base.unet.state_dict().keys() == weights.keys() and not any(
        p.requires_grad or p.grad is not None for p in base.unet.parameters()
    )


def test_rare_word_is_one_that_no_caption_has(base):
    assert len(base.tokenizer.encode(RARE, add_special_tokens=False)) == 1
    with begin(METHODS["DreamBooth"], base, "face") as model:
        ids = base.tokenizer.encode(RARE, add_special_tokens=False)
        v, _ = model.embedding(torch.zeros(1, 0), torch.zeros(1, 0))
        assert torch.allclose(
            v[0], base.text_encoder.get_input_embeddings().weight[ids[0]], atol=1e-6
        )


def test_a_concept_takes_at_most_a_twentieth_of_the_unet(base):
    unet = 2 * sum(p.numel() for p in base.unet.parameters())
    with begin(METHODS["E4T"], base, "face", DATA / "e4t-face") as model:
        assert stored_bytes(METHODS["E4T"], model) <= 0.05 * unet
    with begin(METHODS["DreamBooth"], base, "face") as model:
        assert stored_bytes(METHODS["DreamBooth"], model) == unet


def test_runs_go_on_where_they_stopped(tmp_path):
    path, run = tmp_path / "results" / "bench.jsonl", Run("Textual Inversion", 0, (0, 1), batch=2)
    rows = execute(path, [run])
    assert (
        [row["steps"] for row in rows] == [0, 1]
        and rows[1]["seconds"] > 0
        and 0 <= rows[0]["identity"] <= 1
    )
    with open(path, "a") as file:
        file.write('{"method": "LoRA", "iden')  # killed while it wrote
    stamp = path.read_text()
    assert execute(path, [run]) == rows and path.read_text() == stamp  # nothing was done again
    assert Image.open(picture_path(path, "Textual Inversion", 0)).size == (8 * 64, 64)
    assert [picture.size for picture in read_strip(path, "Textual Inversion", 0)] == [(64, 64)] * 8
    assert (
        len(last_pictures(path, {"Textual Inversion": {"steps": {1: None}}}, "face").axes) == 2
    )  # of one person: she, and what was drawn
    with pytest.raises(ValueError, match="No pictures of LoRA and person 0"):
        read_strip(path, "LoRA", 0)


def test_e4t_of_the_comparison_is_personalize(base, faces):
    with begin(METHODS["E4T"], base, "face", DATA / "e4t-face") as model:
        ours = [
            s["loss"].item()
            for s in learn(METHODS["E4T"], model, faces[0][0], faces[0][2], steps=3, batch=4)
        ]
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    assert ours == pytest.approx(
        [s["loss"].item() for s in personalize(model, faces[0][0], faces[0][2], steps=3, batch=4)],
        rel=1e-5,
    )
    model.detach()


def test_plan_gives_every_method_the_same_people_and_searches_elsewhere():
    runs = plan("face", 16)
    assert {name: [run.person for run in runs if run.method == name] for name in METHODS} == {
        name: list(range(16)) for name in METHODS
    }
    assert {run.split for run in runs} == {"held-out"} and {
        run.split for run in plan("face", 16, search=True)
    } == {"validation"}
    assert plan("face", 2, methods=("E4T",))[0].stops == (0, 5, 10, 15) and plan(
        "face", 2, quick=True, methods=("E4T",)
    )[0].stops == (10,)


def test_a_small_batch_gets_as_many_more_steps_and_a_smaller_rate():
    large, small = (plan("face", 2, methods=("LoRA",), **how)[0] for how in ({}, {"batch": 4}))
    assert [n * small.batch for n in small.stops] == [
        n * large.batch for n in large.stops
    ] and small.factor == large.factor / 2
    assert plan("face", 2, search=True, methods=("LoRA",), batch=4)[0].stops == (100,)


def test_lora_starts_from_its_seed(base):
    def start(seed):
        torch.rand(1)  # what was drawn before does not count
        with begin(METHODS["LoRA"], base, "face", seed=seed) as model:
            return [p.detach().clone() for p in learned(model, "lora")]

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and any(
        not torch.equal(a, b) for a, b in zip(first, other)
    )


def test_plan_takes_some_methods_and_names_one_that_is_unknown():
    assert {run.method for run in plan("face", 2, methods=("LoRA",))} == {"LoRA"}
    with pytest.raises(ValueError, match="no method Lora; choose from E4T"):
        plan("face", 2, methods=("Lora",))


def made_up(method, steps, identity, who=(0, 1)):
    scores = {
        "identity": identity,
        "identity_plain": identity,
        "identity_background": identity,
        "prompt": 0.9,
        "diversity": 0.2,
    }
    return [
        Run(method, i, (steps,)).key(steps)
        | scores
        | {"seconds": 0.1 * steps, "bytes": 10, "peak_megabytes": 5}
        for i in who
    ]


def test_summary_says_when_a_method_reaches_e4t(tmp_path):
    rows = (
        made_up("E4T", 0, 0.3)
        + made_up("E4T", 10, 0.7)
        + made_up("LoRA", 10, 0.4)
        + made_up("LoRA", 200, 0.75)
        + made_up("Textual Inversion", 200, 0.5)
    )
    found = summarise(rows)
    assert (
        found["LoRA"]["reaches E4T at 10 steps"]["steps"] == 200
        and found["E4T"]["reaches E4T at 10 steps"]["steps"] == 10
    )
    assert found["Textual Inversion"]["reaches E4T at 10 steps"] == "not within 200 steps"
    (tmp_path / "bench.json").write_text(json.dumps({"methods": found}))
    assert read_report(tmp_path / "bench.json")["methods"] == found and len(curves(found).axes) == 4
    line = table(found)["LoRA"]
    assert (line["0"], line["10"], line["200"], line["CPU seconds a step"]) == (
        "",
        "0.40",
        "0.75",
        "0.1",
    ) and line["as good as E4T after 10"] == "200 steps, 20 CPU s"


def test_search_takes_the_highest_identity_that_keeps_the_prompt():
    tried = [(0.3, 0.5, 0.9), (1.0, 0.7, 0.86), (3.0, 0.8, 0.84)]
    rows = [
        row | {"factor": factor, "prompt": prompt}
        for factor, score, prompt in tried
        for row in made_up("LoRA", 50, score)
    ]
    found = summarise_search(rows)["LoRA"]
    assert (
        found["best"] == 1.0
        and found["learns"] == METHODS["LoRA"].learns
        and set(found["factor"]) == {0.3, 1.0, 3.0}
    )


def test_methods_use_the_learning_rates_that_the_search_found():
    report = json.loads(
        (Path(__file__).parent.parent / "docs" / "results" / "search-face.json").read_text("utf-8")
    )
    assert {name: found["best"] for name, found in report["methods"].items()} == {
        name: method.factor for name, method in METHODS.items()
    }
