import numpy as np
import torch
from conftest import disturb

from e4t_minimal.model import E4T
from e4t_minimal.regularizers import (
    contrastive,
    embedding_l2,
    outside_change,
    sparsity_l1,
    weight_cosine,
)
from e4t_minimal.train import _draw, on_backgrounds, personalize, show


def test_values_by_hand():
    assert embedding_l2(torch.tensor([[3.0, 4.0], [0.0, 0.0]])) == 12.5
    assert sparsity_l1([torch.tensor([[1.0, -3.0]]), torch.zeros(2, 2)]) == 1.0
    before, mask = (
        torch.zeros(1, 2, 1, 2),
        torch.tensor([[[[1.0, 0.0]]]]),
    )  # two channels of two places, the left one inside
    moved = torch.tensor([[[[9.0, 3.0]], [[9.0, 1.0]]]])
    assert (
        outside_change(moved, before, mask) == 5.0
    )  # (9 + 1) / 2 of the right place; what happens on the left does not count
    assert outside_change(moved, before, torch.ones_like(mask)) == 0.0
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert weight_cosine([weight], [3 * weight]).abs() < 1e-6  # longer, but the same direction
    assert torch.allclose(weight_cosine([weight], [-weight]), torch.tensor(2.0))


def test_contrastive_wants_each_to_be_most_like_its_own():
    prompts = torch.eye(4)
    right, shuffled = contrastive(prompts, prompts), contrastive(prompts.roll(1, 0), prompts)
    assert right < 1e-3 < 10 < shuffled
    by_hand = -torch.log(
        torch.exp(torch.tensor(1 / 0.07)) / (torch.exp(torch.tensor(1 / 0.07)) + 3)
    )  # the positive stands in the denominator too
    assert torch.allclose(right, by_hand, atol=1e-6)


def test_terms_are_switched_on_by_name_and_reach_what_they_are_about(model, data):
    disturb(model.offsets)
    torch.nn.init.normal_(model.encoder.join[-1].weight, std=0.1)
    part, noise, t = _draw(model, data, 4, 0, 0)
    terms = model.loss(
        part, noise, t, {"l2": 0.1, "contrastive": 0.2, "sparsity": 0.3, "cosine": 0.4}
    )
    total = (
        terms["diffusion"]
        + 0.1 * terms["l2"]
        + 0.2 * terms["contrastive"]
        + 0.3 * terms["sparsity"]
        + 0.4 * terms["cosine"]
    )
    assert (
        torch.allclose(terms["loss"], total)
        and min(terms[k] for k in ("l2", "contrastive", "sparsity", "cosine")) > 0
    )
    offset = next(iter(model.offsets.values()))
    for name, where in {
        "contrastive": model.encoder.join[-1].weight,
        "sparsity": offset.rows.weight,
        "cosine": offset.rows.weight,
    }.items():
        assert torch.autograd.grad(terms[name], where, retain_graph=True)[0].any(), name


def test_outside_the_mask_a_personalized_model_says_what_it_said(base, faces):
    image, _, mask = faces[0]
    changes = {}
    for outside in (0.0, 50.0):
        model = E4T(base, "face")
        for state in personalize(model, image, mask, steps=6, batch=4, outside=outside):
            assert (state["terms"]["outside"] > 0) == (
                outside > 0 and state["step"] > 0
            )  # before the first step nothing has changed
        seen = model.predict(state["part"], state["noise"], state["t"])["prediction"]
        model.detach()
        with torch.no_grad():
            fresh = E4T(base, "face").predict(state["part"], state["noise"], state["t"])[
                "prediction"
            ]
        changes[outside] = outside_change(seen, fresh, state["part"]["mask"]).item()
    assert changes[50.0] < 0.7 * changes[0.0], changes


def test_without_a_mask_there_is_no_outside(base, faces):
    state = next(personalize(E4T(base, "face"), faces[0][0], None, steps=1, batch=2))
    assert state["start"] is None and state["terms"]["outside"] == 0


def test_the_subject_is_put_before_other_backgrounds(model, faces):
    image, _, mask = faces[0]
    data = show(model, image, mask, backgrounds=8)
    assert (
        data["latents"].shape[0]
        == data["view"].shape[0]
        == data["ids"].shape[0]
        == data["mask"].shape[0]
        == 8
    )
    pictures = [np.asarray(p, float) for p in on_backgrounds(image, mask, 8, 64)]
    inside = np.asarray(mask.convert("L")) == 255
    assert all(
        (p[inside] == np.asarray(image.convert("RGB"), float)[inside]).all() for p in pictures
    )
    assert np.std([p[~inside].mean(0) for p in pictures], axis=0).min() > 10
    assert torch.equal(
        data["view"][0], data["view"][7]
    )  # the encoder sees the picture that it will see when it draws
