import numpy as np
import pytest
import torch

from e4t_minimal.helpers.pictures import on_backgrounds
from e4t_minimal.model import E4T
from e4t_minimal.regularizers import TERMS, embedding_l2, outside_change
from e4t_minimal.train import (
    PERSONALIZATION,
    draw_batch,
    loss_function,
    personalize,
    prepare_concept,
)


def test_length_by_hand():
    assert embedding_l2(torch.tensor([[3.0, 4.0], [0.0, 0.0]])) == 12.5


def test_change_outside_by_hand():
    # two channels of two places, the left one inside
    initial, mask = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    moved = torch.tensor([[[[9.0, 3.0]], [[9.0, 1.0]]]])
    # (9 + 1) / 2 of the right place; what happens on the left does not count
    assert outside_change(moved, initial, mask) == 5.0
    assert outside_change(moved, initial, torch.ones_like(mask)) == 0.0


def test_every_picture_counts_alike_however_much_of_it_lies_outside():
    torch.manual_seed(0)
    initial, moved = torch.randn(2, 3, 5, 8, 8)  # (pictures, C, h, w) twice
    mask = torch.zeros(3, 1, 8, 8)
    mask[0, :, :7], mask[1, :, :2], mask[2, :, :, 3:] = 1.0, 0.5, 1.0
    alone = [outside_change(moved[[i]], initial[[i]], mask[[i]]) for i in range(3)]
    assert torch.allclose(outside_change(moved, initial, mask), torch.stack(alone).mean())


def test_a_term_of_ones_own(model, data, monkeypatch):
    def length_of_v(model, batch, prediction):
        return prediction.embedding.square().sum(-1).mean()

    monkeypatch.setitem(TERMS, "length", length_of_v)
    batch, noise, t = draw_batch(model, data, PERSONALIZATION, 0)
    losses = model.loss(batch, noise, t, {"l2": 0.1, "length": 0.5})
    assert list(losses) == ["diffusion", "l2", "length", "total"]
    wanted = losses["diffusion"] + 0.1 * losses["l2"] + 0.5 * losses["length"]
    assert torch.allclose(losses["total"], wanted)
    length = model.placeholder.class_embedding.square().sum()
    assert losses["length"].item() == pytest.approx(length.item(), rel=1e-5)


def test_outside_the_mask_a_personalized_model_says_what_it_said(base, faces):
    held, free = (change_outside(base, faces[0], weight) for weight in (50.0, 0.0))
    assert held < 0.7 * free


def change_outside(base, face, weight):
    """How far six steps move the prediction outside the mask, if moving costs `weight`."""
    image, _, mask = face
    weights = {"l2": 0.1, "outside": weight}
    schedule = PERSONALIZATION.replace(steps=6, batch=4, weights=weights)
    torch.manual_seed(0)
    model = E4T(base, "face")
    for step in personalize(model, image, schedule, mask):
        # before the first step nothing has changed
        assert (step.losses["outside"] > 0) == (weight > 0 and step.index > 0)
    data = prepare_concept(model, image, mask)
    batch, noise, t = draw_batch(model, data, schedule, 5)
    with torch.no_grad():
        learned = model.predict(batch, noise, t).noise_prediction
        fresh = E4T(base, "face")
        initial = fresh.predict(batch, noise, t).noise_prediction
    fresh.detach()
    return outside_change(learned, initial, batch.mask).item()


def test_without_a_mask_there_is_no_outside(base, faces):
    model = E4T(base, "face")
    schedule = PERSONALIZATION.replace(steps=2, batch=2)
    for step in personalize(model, faces[0][0], schedule):
        assert step.losses["outside"] == 0
    model.detach()


def test_the_subject_is_put_before_other_backgrounds(model, faces):
    image, _, mask = faces[0]
    data = prepare_concept(model, image, mask, backgrounds=8)
    assert len(data) == 8
    assert len(data.image_features) == len(data.ids) == len(data.mask) == 8
    # the encoder sees the picture that it will see when it draws
    assert torch.equal(data.image_features[0], data.image_features[7])
    inside = np.asarray(mask.convert("L")) == 255
    before_others = [np.asarray(picture, float) for picture in on_backgrounds(image, mask, 8, 64)]
    subject = np.asarray(image.convert("RGB"), float)[inside]
    assert all((picture[inside] == subject).all() for picture in before_others)
    mean_colors = [picture[~inside].mean(0) for picture in before_others]
    assert np.std(mean_colors, axis=0).min() > 10


@pytest.mark.parametrize("needs_initial", [True, False])
def test_a_term_that_needs_the_initial_prediction_gets_it(model, faces, needs_initial, monkeypatch):
    seen = []

    def term(model, batch, prediction):
        seen.append(batch.initial)
        return prediction.noise_prediction.float().mean()

    term.needs_initial = needs_initial
    monkeypatch.setitem(TERMS, "own", term)
    image, _, mask = faces[0]
    schedule = PERSONALIZATION.replace(weights={"own": 1.0}, batch=2)
    drawn = draw_batch(model, prepare_concept(model, image, mask), schedule, 0)
    learned = model.parameters()
    with torch.no_grad():
        at_first = model.predict(*drawn).noise_prediction
        loss = loss_function(model, schedule, learned)
        for p in learned:  # as if some steps had been taken
            p.add_(0.02 * torch.randn_like(p))
        loss(*drawn)
        assert not torch.allclose(model.predict(*drawn).noise_prediction, at_first, atol=1e-3)
    (initial,) = seen
    assert (initial is not None) == needs_initial
    if needs_initial:
        assert torch.allclose(initial, at_first, atol=1e-5)
