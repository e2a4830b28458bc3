import json
import os

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from public_checkpoint import PublicOffset, public_offsets, public_tensors
from safetensors.torch import load_file

from e4t_minimal import DATA
from e4t_minimal.model import E4T
from e4t_minimal.sample import sample, start_noise
from e4t_minimal.scaling.convert import export, import_public, merged
from e4t_minimal.scaling.fixed import fixed, fixed_word

PROMPT = "a photo of S* on the beach"


@pytest.fixture
def offsets(base) -> dict[str, PublicOffset]:
    return public_offsets(base.unet)


@pytest.fixture
def folder(offsets, tmp_path):
    """A checkpoint as mkshing/e4t-diffusion writes it."""
    torch.save(public_tensors(offsets), tmp_path / "weight_offsets.pt")
    torch.save({"final_linear.weight": torch.zeros(2, 2)}, tmp_path / "encoder.pt")
    config = {"domain_class_token": "face", "placeholder_token": "*s"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def face(base):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    yield model
    model.detach()


def test_public_offsets_fold_without_loss(base, offsets, folder):
    model, notes = import_public(folder, base)
    assert model.placeholder.class_word == "face"
    assert len(model.offsets) == len(offsets)
    for name, theirs in offsets.items():
        delta = theirs()
        assert delta.abs().max() > 0.1
        assert torch.allclose(model.offsets[name].delta(), delta, atol=1e-5)
    assert any("encoder.pt is not imported" in note for note in notes)
    model.detach()


def test_a_missing_folder_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="is no checkpoint"):
        import_public(tmp_path / "nothing", base)


def test_what_is_not_such_a_checkpoint_is_refused(base, offsets, folder):
    tensors = public_tensors(offsets)
    first, *others = tensors
    elsewhere = {name.replace("down_blocks.0", "down_blocks.7"): tensors[name] for name in tensors}
    for wrong, sentence in [
        ({name: tensors[name] for name in others}, "not whole"),
        ({"wo.weight": torch.zeros(1)}, "is no weight offset"),
        (elsewhere, "another U-Net"),
        ({"x": os.system}, "more than tensors"),  # code
    ]:
        torch.save(wrong, folder / "weight_offsets.pt")
        with pytest.raises(ValueError, match=sentence):
            import_public(folder, base)


def test_offsets_of_other_widths_are_refused(base, offsets, folder):
    name = next(iter(offsets))
    torch.save(public_tensors(offsets | {name: PublicOffset(3, 5)}), folder / "weight_offsets.pt")
    with pytest.raises(ValueError, match="another U-Net: .* is 3 x 5"):
        import_public(folder, base)


def test_the_class_word_is_asked_for_if_the_checkpoint_does_not_say(base, folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="class word"):
        import_public(folder, base)
    model, _ = import_public(folder, base, "robot")
    assert model.placeholder.class_word == "robot"
    model.detach()


def difference(one, other):
    """(H, W, C) whole numbers."""
    return np.abs(np.asarray(one, int) - np.asarray(other, int))


def test_an_exported_concept_draws_the_same_in_stock_diffusers(base, face, faces, tmp_path):
    face.picture, _, _ = faces[0]
    weights = merged(face)
    out = tmp_path / "out"
    export(face, out)
    files = ["README.md", "attention.safetensors", "embedding.safetensors"]
    assert sorted(os.listdir(out)) == files
    (anew,) = sample(face, PROMPT, steps=5, seed=2)
    with fixed(face):
        (ours,) = sample(face, PROMPT, steps=5, seed=2)
    assert ours.tobytes() != anew.tobytes()
    # outside, S* is predicted at every step, as before
    assert sample(face, PROMPT, steps=5, seed=2)[0].tobytes() == anew.tobytes()
    face.detach()

    # from here on, what the card says
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "toy-sd")
    pipe.set_progress_bar_config(disable=True)

    def draw():
        noise = start_noise(base, 1, seed=2)
        return pipe(PROMPT, num_inference_steps=5, guidance_scale=4.0, latents=noise).images[0]

    plain = draw()
    pipe.load_textual_inversion(str(out / "embedding.safetensors"), token="S*")
    with_word = draw()
    tensors = load_file(out / "attention.safetensors")
    assert pipe.unet.load_state_dict(tensors, strict=False).unexpected_keys == []
    assert len(weights) == len(face.offsets) == 42
    theirs = draw()
    assert difference(ours, theirs).max() <= 2 < difference(ours, with_word).max()
    assert difference(with_word, plain).mean() > 1


def test_a_folder_with_something_in_it_is_not_written_to(face, faces, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="nothing was written"):
        export(face, tmp_path, faces[0][0])
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_the_exported_word_is_a_mean_of_predictions(base, face, faces):
    (image, _, _), (other_image, _, _), *_ = faces
    one = fixed_word(face, image, looks=1)
    many = fixed_word(face, image, looks=16)
    other = fixed_word(face, other_image, looks=16)
    assert one.shape == (base.text_encoder.config.hidden_size,)
    assert 0 < (one - many).norm() < (many - other).norm()
    with pytest.raises(ValueError, match="no picture"):
        fixed_word(face)
