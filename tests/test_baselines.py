import json
from pathlib import Path

import pytest
import torch
from test_offsets import run as forward

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.evaluation.baselines import (
    METHODS,
    RARE,
    class_pictures,
    model_for,
    parameters_of,
    personalize_with,
    stored_bytes,
)
from e4t_minimal.model import E4T
from e4t_minimal.train import PERSONALIZATION, personalize

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@pytest.fixture(scope="module")
def base(tiny_folder):
    return load_base(tiny_folder)


@pytest.fixture(scope="module")
def prior(base):
    return class_pictures(base, "face", count=4, steps=3)  # what they show does not matter


@pytest.mark.parametrize("holds_background", [None, True])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_what_it_says_and_leaves_the_base_as_it_was(
    base, tiny_domain, faces, prior, name, holds_background
):
    plain = forward(base)
    weights = {key: tensor.clone() for key, tensor in base.unet.state_dict().items()}
    method = METHODS[name]
    if holds_background:
        method = method.replace(holds_background=True)
    schedule = method.schedule.replace(steps=2, batch=4)
    with model_for(method, base, "face", tiny_domain) as model:
        start = {part: copies(parameters_of(model, part)) for part in method.learns}
        encoder = copies(model.encoder.parameters())
        loop = personalize_with(method, model, faces[0][0], faces[0][2], prior, schedule)
        steps = list(loop)
        for part, old in start.items():
            assert old
            assert not same(old, parameters_of(model, part)), part
        assert same(encoder, model.encoder.parameters()) != ("encoder" in method.learns)
    assert [step.index for step in steps] == [0, 1]
    assert torch.isfinite(torch.tensor(steps[-1].losses["total"]))
    terms = sum(weight * steps[-1].losses[term] for term, weight in schedule.weights.items())
    of_picture = steps[-1].losses["diffusion"] + terms
    # the prior's loss is added
    assert (steps[-1].losses["total"] > of_picture + 1e-3) == method.prior
    if "outside" in schedule.weights:
        assert steps[-1].losses["outside"] > 0
    assert torch.equal(forward(base), plain)
    assert base.unet.state_dict().keys() == weights.keys()
    assert not any(p.requires_grad or p.grad is not None for p in base.unet.parameters())


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_half_of_a_batch_is_the_prior(base, faces, prior, monkeypatch):
    counts = []
    original = E4T.loss

    def loss(self, batch, *args):
        counts.append(len(batch))
        return original(self, batch, *args)

    monkeypatch.setattr(E4T, "loss", loss)
    for name in ("Textual Inversion", "DreamBooth"):
        method = METHODS[name]
        schedule = method.schedule.replace(steps=1, batch=4)
        with model_for(method, base, "face") as model:
            list(personalize_with(method, model, faces[0][0], faces[0][2], prior, schedule))
    assert counts == [4, 2, 2]


def test_other_pictures_of_the_class_are_another_loss(base, faces, prior):
    method = METHODS["DreamBooth"]
    schedule = method.schedule.replace(steps=1, batch=4)
    totals = []
    for pictures in (prior, [picture for picture, _, _ in faces]):
        with model_for(method, base, "face") as model:
            (step,) = personalize_with(method, model, *faces[0][::2], pictures, schedule)
        totals.append(step.losses["total"])
    assert totals[0] != pytest.approx(totals[1], abs=1e-3)


def test_what_a_method_needs_is_asked_for(base, faces):
    with (
        pytest.raises(ValueError, match="give their `folder`"),
        model_for(METHODS["E4T"], base, "face"),
    ):
        pass
    method = METHODS["DreamBooth"]
    with model_for(method, base, "face") as model:
        assert not any(p.requires_grad for p in model.encoder.parameters())  # its word is fixed
        with pytest.raises(ValueError, match="give them as `prior`"):
            next(personalize_with(method, model, faces[0][0]))


def test_the_base_is_as_it_was_after_an_error(base, tiny_domain):
    plain, parts = forward(base), [name for name, _ in base.unet.named_modules()]
    for method in METHODS.values():
        with pytest.raises(KeyboardInterrupt), model_for(method, base, "face", tiny_domain):
            for p in base.unet.parameters():
                if "unet" in method.learns:
                    p.data.zero_()
            raise KeyboardInterrupt
        assert torch.equal(forward(base), plain)
        assert [name for name, _ in base.unet.named_modules()] == parts


def test_what_the_methods_share_and_in_what_they_differ():
    """As the docstring of `baselines` and the table's caption say it."""
    for name, method in METHODS.items():
        assert (
            method.schedule.replace(
                steps=PERSONALIZATION.steps,
                weights=PERSONALIZATION.weights,
                backgrounds=PERSONALIZATION.backgrounds,
            )
            == PERSONALIZATION
        ), name
        assert method.holds_background == ("outside" in method.schedule.weights) == (name == "E4T")
    assert METHODS["E4T"].schedule == PERSONALIZATION
    others = [method for name, method in METHODS.items() if name != "E4T"]
    assert all(method.schedule.weights == {} for method in others)
    assert all(method.schedule.backgrounds == 0 for method in others)


@pytest.mark.parametrize("name", METHODS)
def test_the_background_can_be_held_by_every_method(name):
    method = METHODS[name].replace(holds_background=True)
    held, own = method.schedule, METHODS[name].schedule
    assert held.backgrounds == PERSONALIZATION.backgrounds
    assert held.weights == own.weights | {"outside": PERSONALIZATION.weights["outside"]}
    free = METHODS[name].replace(holds_background=False).schedule
    assert free.backgrounds == 0
    assert "outside" not in free.weights


def test_rare_word_is_one_that_no_caption_has(base):
    ids = base.tokenizer.encode(RARE, add_special_tokens=False)
    assert len(ids) == 1
    embedding = base.text_encoder.get_input_embeddings().weight[ids[0]]
    with model_for(METHODS["DreamBooth"], base, "face") as model:
        v, _ = model.embedding(torch.zeros(1, 0), torch.zeros(1, 0))
        assert torch.allclose(v[0], embedding, atol=1e-6)


def test_a_concept_takes_at_most_a_twentieth_of_the_unet():
    toy = load_base("toy")
    unet = 2 * sum(p.numel() for p in toy.unet.parameters())
    with model_for(METHODS["E4T"], toy, "face", DATA / "e4t-face") as model:
        assert stored_bytes(METHODS["E4T"], model) <= 0.05 * unet
    with model_for(METHODS["DreamBooth"], toy, "face") as model:
        assert stored_bytes(METHODS["DreamBooth"], model) == unet


def test_e4t_of_the_comparison_is_personalize(base, tiny_domain, faces):
    image, _, mask = faces[0]
    method, schedule = METHODS["E4T"], PERSONALIZATION.replace(steps=3, batch=4)
    with model_for(method, base, "face", tiny_domain) as model:
        loop = personalize_with(method, model, image, mask, schedule=schedule)
        ours = [step.losses["total"] for step in loop]
    model = E4T.from_pretrained(tiny_domain, base)
    theirs = [step.losses["total"] for step in personalize(model, image, schedule, mask)]
    model.detach()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_lora_starts_from_its_seed(base):
    def start(seed):
        torch.rand(1)  # what was drawn before does not count
        with model_for(METHODS["LoRA"], base, "face", seed=seed) as model:
            return copies(parameters_of(model, "lora"))

    first, again, other = start(0), start(0), start(1)
    assert same(first, again)
    assert not same(first, other)


def test_methods_use_the_learning_rates_that_the_search_found():
    found = json.loads((RESULTS / "search-face.json").read_text("utf-8"))["methods"]
    assert {name: method.factor for name, method in METHODS.items()} == {
        name: tried["best"] for name, tried in found.items()
    }
