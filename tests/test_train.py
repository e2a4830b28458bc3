import importlib.util
import json
import os

import pytest
import torch
from PIL import Image

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.regularizers import embedding_l2
from e4t_minimal.sample import sample
from e4t_minimal.train import (
    _draw,
    conditioning_gap,
    learn_dictionary,
    personalize,
    prepare,
    pretrain,
)


def fixed_loss(model, data):
    part, noise, t = _draw(model, data, 16, seed=99, step=0)
    with torch.no_grad():
        return model.loss(part, noise, t, {"l2": 0.01})["loss"].item()


def test_five_steps_of_pretraining_lower_the_loss(model, data):
    before = fixed_loss(model, data)
    frozen = [p.clone() for p in model.base.text_encoder.parameters()]
    states = list(pretrain(model, data, steps=5, batch=8, lr=1e-3, offsets_lr=3e-3))
    assert fixed_loss(model, data) < before
    assert [s["step"] for s in states] == [0, 1, 2, 3, 4] and {
        "terms",
        "part",
        "noise",
        "t",
    } <= set(states[0])
    assert all(torch.equal(a, b) for a, b in zip(frozen, model.base.text_encoder.parameters()))
    trained = {id(p) for p in model.parameters()}
    assert all(p.grad is None for p in model.base.unet.parameters() if id(p) not in trained)


def test_micro_batches_take_the_same_steps(base, faces):
    losses, ends = [], []
    for micro in (None, 3):
        model = E4T.from_pretrained(DATA / "e4t-face", base)
        losses.append(
            [
                s["terms"]["loss"].item()
                for s in personalize(model, faces[0][0], faces[0][2], steps=3, batch=8, micro=micro)
            ]
        )
        ends.append(torch.cat([p.detach().flatten() for p in model.parts()["offsets"]]))
        model.detach()
    assert (
        losses[0] == pytest.approx(losses[1], rel=1e-4)
        and (ends[0] - ends[1]).norm() < 1e-2 * ends[0].norm()
    )


def test_contrast_needs_the_whole_batch(model, data):
    with pytest.raises(ValueError, match="cannot be computed in micro-batches"):
        next(pretrain(model, data, steps=1, batch=4, micro=2, contrastive=0.1))


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is there"
)
def test_eight_bits_without_bitsandbytes(model, data):
    with pytest.raises(ValueError, match="needs bitsandbytes"):
        next(pretrain(model, data, steps=1, eight_bit=True))


def test_loss_is_diffusion_plus_weighted_l2_of_the_offset(model, data):
    torch.nn.init.normal_(model.encoder.join[-1].bias)
    part, noise, t = _draw(model, data, 4, 0, 0)
    terms = model.loss(part, noise, t, {"l2": 0.5})
    assert terms["l2"] > 0 and torch.allclose(terms["loss"], terms["diffusion"] + 0.5 * terms["l2"])
    assert torch.allclose(
        terms["l2"], embedding_l2(terms["embedding"] - model.placeholder.class_embedding)
    )


def test_noise_and_target_agree(base):
    x, noise, t = torch.randn(3, 8, 16, 16), torch.randn(3, 8, 16, 16), torch.tensor([0, 500, 999])
    z_t, v = base.noisy(x, noise, t)
    kept = base.scheduler.alphas_cumprod[t].sqrt()[:, None, None, None]
    lost = (1 - kept**2).sqrt()
    assert torch.allclose(z_t, kept * x + lost * noise, atol=1e-5)
    assert torch.allclose(
        kept * z_t - lost * v, x, atol=1e-4
    )  # from what the U-Net should say, the picture comes back


def test_mask_takes_the_background_out_of_the_loss(model, faces):
    images, masks = [i for i, _, _ in faces], [m for _, _, m in faces]
    data = prepare(model, images, ["a photo of S*"] * 4, masks)
    assert (
        data["mask"].shape == (4, 1, 16, 16) and 0 <= data["mask"].min() and data["mask"].max() <= 1
    )
    part, noise, t = _draw(model, data, 4, 0, 0)
    error = (lambda s: (s["prediction"] - s["target"]).square())(model.predict(part, noise, t))
    inside = torch.stack(
        [(e * m).sum() / (m.sum() * len(e)) for e, m in zip(error, part["mask"])]
    ).mean()
    assert torch.allclose(model.loss(part, noise, t, {})["diffusion"], inside, atol=1e-5)


def test_dictionary_comes_closer_to_the_words(model, data):
    words = torch.randn(4, model.base.text_encoder.config.hidden_size) * 0.1
    losses = [s["loss"].item() for s in learn_dictionary(model, data, words, steps=30, batch=4)]
    assert losses[-1] < 0.5 * losses[0]


def test_fresh_model_has_no_gap_and_shipped_one_has(base, model, data):
    assert conditioning_gap(model, data) == 0
    model.detach()
    shipped = E4T.from_pretrained(DATA / "e4t-face", base)
    assert conditioning_gap(shipped, data) > 0.1
    shipped.detach()


def test_same_seed_same_steps(base, faces):
    losses = []
    for _ in range(2):
        model = E4T.from_pretrained(DATA / "e4t-face", base)
        losses.append(
            [
                s["terms"]["loss"].item()
                for s in personalize(model, faces[0][0], faces[0][2], steps=2, batch=4)
            ]
        )
        model.detach()
    assert losses[0] == losses[1]


def test_save_and_load_round_trip(base, faces, tmp_path):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    for _ in personalize(model, faces[0][0], steps=2, batch=4):
        pass
    model.save_pretrained(tmp_path / "concept", note="test")
    ours = sample(model, "a photo of S*", steps=3)[0]
    model.detach()
    files = sorted(os.listdir(tmp_path / "concept"))
    assert files == [
        "e4t.json",
        "encoder.safetensors",
        "offsets.safetensors",
        "picture.png",
    ] and os.listdir(tmp_path) == ["concept"]
    assert json.loads((tmp_path / "concept/e4t.json").read_text())["note"] == "test"
    again = E4T.from_pretrained(tmp_path / "concept", load_base("toy"))
    theirs = sample(again, "a photo of S*", steps=3)[0]
    difference = (torch.tensor(list(ours.tobytes())) - torch.tensor(list(theirs.tobytes()))).abs()
    assert difference.float().mean() < 1  # of 255: the encoder is stored in fp16


def test_what_else_lies_in_a_concept_stays_even_if_saving_breaks_off(
    base, faces, tmp_path, monkeypatch
):
    model, folder = E4T(base, "face"), tmp_path / "concept"
    model.picture = faces[0][0]
    model.save_pretrained(folder)
    (folder / "pictures").mkdir()
    (folder / "pictures/mine.txt").write_text("mine")
    before = {
        file: (folder / file).read_bytes()
        for file in ("e4t.json", "offsets.safetensors", "picture.png")
    }
    monkeypatch.setattr(
        "e4t_minimal.model.square", lambda *_: 1 / 0
    )  # the last thing that is written
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(folder, note="another")
    assert before == {file: (folder / file).read_bytes() for file in before} and os.listdir(
        tmp_path
    ) == ["concept"]
    model.picture = None
    model.save_pretrained(folder, note="another")
    model.detach()
    assert (
        json.loads((folder / "e4t.json").read_text())["note"] == "another"
        and not (folder / "picture.png").exists()
    )
    assert (folder / "pictures/mine.txt").read_text() == "mine"


def test_masks_that_fit_nothing_are_refused(model, faces):
    image, mask = faces[0][0], Image.new("L", (64, 64))
    with pytest.raises(ValueError, match="shows nothing in the middle square"):
        next(personalize(model, image, mask, steps=1))
    with pytest.raises(ValueError, match="The mask is 64 x 64, its picture 32 x 32"):
        next(personalize(model, image.resize((32, 32)), mask, steps=1))
    wide = Image.new("RGBA", (192, 64))
    wide.paste(image, (0, 0))  # what it shows lies outside the middle
    with pytest.raises(ValueError, match="shows nothing in the middle square"):
        next(personalize(model, wide, steps=1))
    assert model.picture is None


def test_a_term_that_the_loss_does_not_have_is_named(model, data):
    with pytest.raises(ValueError, match="no term 'batch_size'"):
        next(pretrain(model, data, steps=1, batch=2, batch_size=4))


def test_a_foreign_device_is_named():
    with pytest.raises(ValueError, match="'gpu' cannot be used here"):
        load_base("toy", device="gpu")


def test_foreign_folders_are_refused(base, tmp_path):
    with pytest.raises(ValueError, match="not an E4T folder"):
        E4T.from_pretrained(tmp_path, base)
    with pytest.raises(ValueError, match="No Stable Diffusion"):
        load_base(str(tmp_path))
    (tmp_path / "precious.txt").write_text("mine")
    model = E4T(base, "face")
    with pytest.raises(ValueError, match="nothing was written"):
        model.save_pretrained(tmp_path)
    model.detach()
    assert os.listdir(tmp_path) == ["precious.txt"]
