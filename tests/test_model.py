"""E4T on its base: one at a time; and what is saved is what is read."""

import json
import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import disturb
from PIL import Image

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.encoder import Encoder
from e4t_minimal.model import E4T, Batch
from e4t_minimal.regularizers import embedding_l2
from e4t_minimal.sample import sample
from e4t_minimal.train import PERSONALIZATION, draw_batch, personalize, prepare

FILES = ["e4t.json", "encoder.safetensors", "offsets.safetensors", "picture.png"]


def test_a_batch_is_cut_in_all_its_fields():
    batch = Batch(torch.randn(4, 8, 2, 2), torch.randn(4, 3, 5), torch.arange(8).view(4, 2))
    part = batch[torch.tensor([2, 0])]
    assert len(batch) == 4
    assert len(part) == 2
    assert part.ids.tolist() == [[4, 5], [0, 1]]
    assert torch.equal(part.image_features, batch.image_features[[2, 0]])
    assert part.mask is None
    masked = batch.replace(mask=torch.ones(4, 1, 2, 2))
    assert masked[torch.tensor([1])].mask.shape == (1, 1, 2, 2)
    assert batch.mask is None


def test_loss_is_diffusion_plus_weighted_l2_of_the_offset(model, data):
    torch.nn.init.normal_(model.encoder.join[-1].bias)
    batch, noise, t = draw_batch(model, data, PERSONALIZATION, 0)
    losses = model.loss(batch, noise, t, {"l2": 0.5})
    prediction = model.predict(batch, noise, t)
    offset = prediction.embedding - model.placeholder.class_embedding
    assert losses["l2"] > 0
    assert torch.allclose(losses["total"], losses["diffusion"] + 0.5 * losses["l2"])
    assert torch.allclose(losses["l2"], embedding_l2(offset))
    error = (prediction.noise_prediction - prediction.target).square().mean()
    assert torch.allclose(losses["diffusion"], error)


def test_mask_takes_the_background_out_of_the_loss(model, faces):
    images, masks = [image for image, _, _ in faces], [mask for _, _, mask in faces]
    data = prepare(model, images, ["a photo of S*"] * 4, masks)
    assert data.mask.shape == (4, 1, 16, 16)
    assert data.mask.min() >= 0
    assert data.mask.max() <= 1
    batch, noise, t = draw_batch(model, data, PERSONALIZATION, 0)
    prediction = model.predict(batch, noise, t)
    error = (prediction.noise_prediction - prediction.target).square().mean(1)  # (B, h, w)
    mask = batch.mask[:, 0]
    inside = ((error * mask).sum((1, 2)) / mask.sum((1, 2))).mean()
    assert torch.allclose(model.loss(batch, noise, t, {})["diffusion"], inside, atol=1e-5)


def test_a_term_that_the_loss_does_not_have_is_named(model, data):
    batch, noise, t = draw_batch(model, data, PERSONALIZATION, 0)
    with pytest.raises(ValueError, match="no term of the loss 'batch_size'; choose one of l2, out"):
        model.loss(batch, noise, t, {"batch_size": 4})


def uses_of(model, data):
    """Everything that would look at the offsets on the base."""
    batch, noise, t = draw_batch(model, data, PERSONALIZATION.replace(batch=2), 0)
    image = model.base.decode(data.latents[:1])[0]
    schedule = PERSONALIZATION.replace(steps=1, batch=2)
    return {
        "predict": lambda: model.predict(batch, noise, t),
        "loss": lambda: model.loss(batch, noise, t, {}),
        "features": lambda: model.unet_features(batch.latents, t),
        "fold": model.fold,
        "sample": lambda: sample(model, "a photo of S*", image, steps=1),
        "sample without S*": lambda: sample(model, "a photo of a face", steps=1),
        "personalize": lambda: next(personalize(model, image, schedule)),
    }


USES = (
    "predict",
    "loss",
    "features",
    "fold",
    "sample",
    "sample without S*",
    "personalize",
)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("how", ["displaced", "detached", "displaced by one without offsets"])
def test_one_whose_offsets_do_not_hang_on_the_base_is_refused(base, faces, use, how):
    model = E4T(base, "face")
    data = prepare(model, [image for image, _, _ in faces[:2]], ["a photo of S*"] * 2)
    other = None
    if how == "detached":
        model.detach()
    else:
        other = E4T(base, "face", offsets={} if how.endswith("without offsets") else None)
    assert not model.attached
    with pytest.raises(ValueError, match="no longer hang on its base"):
        uses_of(model, data)[use]()
    if other:
        assert other.attached
        uses_of(other, data)[use]()
        other.detach()


def test_a_displaced_one_does_not_take_off_the_other_ones_offsets(base):
    first = E4T(base, "face")
    second = E4T(base, "face")
    first.detach()
    assert second.attached
    assert not first.attached
    second.detach()
    assert not second.attached


def test_gradients_do_not_go_into_another_one(base, faces):
    first = E4T(base, "face")
    data = prepare(first, [image for image, _, _ in faces[:2]], ["a photo of S*"] * 2)
    second = E4T(base, "face")
    batch, noise, t = draw_batch(second, data, PERSONALIZATION.replace(batch=2), 0)
    second.loss(batch, noise, t, {})["total"].backward()
    assert all(p.grad is None for p in first.parameters())
    assert any(p.grad is not None for p in second.parts()["offsets"])
    second.detach()


def test_folding_twice_is_folding_once(model, data):
    disturb(model.offsets)
    batch, noise, t = draw_batch(model, data, PERSONALIZATION.replace(batch=2), 0)
    with torch.no_grad():
        live = model.predict(batch, noise, t).noise_prediction
        model.fold()
        folded = model.predict(batch, noise, t).noise_prediction
        model.fold()
        again = model.predict(batch, noise, t).noise_prediction
    assert torch.allclose(live, folded, atol=1e-4)
    assert torch.allclose(folded, again, atol=1e-5)  # only the balance of the factors is rounded


def test_save_and_load_round_trip(base, faces, tmp_path):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    list(personalize(model, faces[0][0], PERSONALIZATION.replace(steps=2, batch=4)))
    model.save_pretrained(tmp_path / "concept", note="test")
    ours = sample(model, "a photo of S*", steps=3)[0]
    model.detach()
    assert sorted(os.listdir(tmp_path / "concept")) == FILES
    assert os.listdir(tmp_path) == ["concept"]
    assert json.loads((tmp_path / "concept/e4t.json").read_text())["note"] == "test"
    again = E4T.from_pretrained(tmp_path / "concept", load_base("toy"))
    theirs = sample(again, "a photo of S*", steps=3)[0]
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    assert difference.mean() < 1  # of 255: the encoder is stored in fp16


def test_what_is_saved_again_is_the_same(base, tmp_path):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    model.save_pretrained(tmp_path / "copy")
    again = E4T.from_pretrained(tmp_path / "copy", base)
    for name, offset in again.offsets.items():
        for ours, theirs in zip(offset.factors(), model.offsets[name].factors(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    stored = model.encoder.state_dict()
    for name, tensor in again.encoder.state_dict().items():
        assert torch.equal(tensor, stored[name])
    again.detach()


def test_what_else_lies_in_a_concept_stays_even_if_saving_breaks_off(
    base, faces, tmp_path, monkeypatch
):
    model, folder = E4T(base, "face"), tmp_path / "concept"
    model.picture = faces[0][0]
    model.save_pretrained(folder)
    (folder / "pictures").mkdir()
    (folder / "pictures/mine.txt").write_text("mine")
    written = {name: (folder / name).read_bytes() for name in FILES}

    def fail(*_):  # at the last thing that is written
        raise ZeroDivisionError

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(folder, note="another")
    assert written == {name: (folder / name).read_bytes() for name in FILES}
    assert os.listdir(tmp_path) == ["concept"]
    monkeypatch.undo()
    model.picture = None
    model.save_pretrained(folder, note="another")
    model.detach()
    assert json.loads((folder / "e4t.json").read_text())["note"] == "another"
    assert not (folder / "picture.png").exists()
    assert (folder / "pictures/mine.txt").read_text() == "mine"


@dataclass(frozen=True)
class NoConfig:
    pass


class Foreign(torch.nn.Module):
    """Of a class that nobody has registered."""

    sees_noise = False
    config = NoConfig()


class Heir(Encoder):
    """Not registered either, though its parent is."""


@pytest.mark.parametrize("of_class", [Foreign, Heir])
def test_an_encoder_of_an_unregistered_class_is_not_saved(base, tmp_path, of_class):
    encoder = Foreign() if of_class is Foreign else Heir(Encoder.for_base(base).config)
    model = E4T(base, "face", encoder=encoder)
    with pytest.raises(ValueError, match=f"class {of_class.__name__} cannot be saved"):
        model.save_pretrained(tmp_path / "concept")
    assert os.listdir(tmp_path) == []
    model.detach()


def test_an_encoder_of_an_unknown_kind_is_named(base, tmp_path):
    model = E4T(base, "face")
    model.save_pretrained(tmp_path / "concept")
    path = tmp_path / "concept/e4t.json"
    config = json.loads(path.read_text())
    config["encoder"]["kind"] = "oracle"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is of the kind 'oracle'; known are e4t"):
        E4T.from_pretrained(tmp_path / "concept", base)
    model.detach()


def test_foreign_folders_are_refused(base, tmp_path):
    with pytest.raises(ValueError, match="not an E4T folder"):
        E4T.from_pretrained(tmp_path, base)
    (tmp_path / "precious.txt").write_text("mine")
    model = E4T(base, "face")
    with pytest.raises(ValueError, match="nothing was written"):
        model.save_pretrained(tmp_path)
    model.detach()
    assert os.listdir(tmp_path) == ["precious.txt"]


def test_another_vision_tower_is_refused(base, tmp_path):
    model = E4T(base, "face")
    model.save_pretrained(tmp_path / "concept")
    model.detach()
    with pytest.raises(
        ValueError, match="made with the vision tower 'of its base', this base has 'other'"
    ):
        E4T.from_pretrained(tmp_path / "concept", replace(base, vision_name="other"))
