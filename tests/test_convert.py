import json
import os

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from e4t_minimal import DATA
from e4t_minimal.scaling.convert import export, fixed, fixed_word, import_public, merged
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attention_projections
from e4t_minimal.sample import sample, start_noise


class Theirs(nn.Module):
    """Delta as mkshing/e4t-diffusion computes it, for a weight (n, m): the order of its operations, and its names."""

    def __init__(self, n, m):
        super().__init__()
        self.v = nn.Parameter(torch.ones(1))
        self.linear1, self.linear2 = nn.Linear(1, m), nn.Linear(1, n)
        self.linear_column, self.linear_row = nn.Linear(m, m), nn.Linear(n, n)

    def forward(self):
        matrix = torch.outer(self.linear1(self.v), self.linear2(self.v))  # (m, n)
        matrix = self.linear_column(matrix.T)
        return self.linear_row(matrix.T).T


@pytest.fixture
def checkpoint(base, tmp_path):
    torch.manual_seed(0)
    theirs = {
        name: Theirs(*linear.weight.shape)
        for name, linear in attention_projections(base.unet).items()
    }
    tensors = {
        f"{name.replace('.to_', '.wo_')}.{k}": v.detach()
        for name, one in theirs.items()
        for k, v in one.state_dict().items()
    }
    torch.save(tensors, tmp_path / "weight_offsets.pt")
    torch.save({"final_linear.weight": torch.zeros(2, 2)}, tmp_path / "encoder.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"domain_class_token": "face", "placeholder_token": "*s"})
    )
    return tmp_path, theirs, tensors


def test_public_offsets_fold_without_loss(base, checkpoint):
    folder, theirs, _ = checkpoint
    model, notes = import_public(folder, base)
    try:
        assert model.placeholder.class_word == "face" and len(model.offsets) == len(theirs)
        for name, one in theirs.items():
            delta = one()
            assert delta.abs().max() > 0.1 and torch.allclose(
                model.offsets[name].delta(), delta, atol=1e-5
            )
        assert any("encoder.pt is not imported" in note for note in notes)
    finally:
        model.detach()


def test_what_is_not_such_a_checkpoint_is_refused(base, checkpoint, tmp_path):
    folder, _, tensors = checkpoint
    with pytest.raises(ValueError, match="is no checkpoint"):
        import_public(tmp_path / "nothing", base)
    torch.save(dict(list(tensors.items())[1:]), folder / "weight_offsets.pt")
    with pytest.raises(ValueError, match="not whole"):
        import_public(folder, base)
    torch.save({"wo.weight": torch.zeros(1)}, folder / "weight_offsets.pt")
    with pytest.raises(ValueError, match="is no weight offset"):
        import_public(folder, base)
    torch.save(
        {k.replace("down_blocks.0", "down_blocks.7"): v for k, v in tensors.items()},
        folder / "weight_offsets.pt",
    )
    with pytest.raises(ValueError, match="another U-Net"):
        import_public(folder, base)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="class word"):
        import_public(folder, base)
    torch.save({"x": os.system}, folder / "weight_offsets.pt")  # code, not tensors
    with pytest.raises(ValueError, match="more than tensors"):
        import_public(folder, base)


def test_an_exported_concept_draws_the_same_in_stock_diffusers(base, faces, tmp_path):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    model.picture = faces[0][0]
    weights = merged(model)
    export(model, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md",
        "attention.safetensors",
        "embedding.safetensors",
    ]
    with fixed(model, faces[0][0]):
        ours = sample(model, "a photo of S* on the beach", faces[0][0], steps=5, seed=2)[0]
    anew = sample(model, "a photo of S* on the beach", faces[0][0], steps=5, seed=2)[0]
    assert ours.tobytes() != anew.tobytes()  # and outside it is predicted at every step, as before
    model.detach()

    pipe = StableDiffusionPipeline.from_pretrained(
        DATA / "toy-sd"
    )  # from here on, what the card says
    pipe.set_progress_bar_config(disable=True)
    draw = lambda: pipe(
        "a photo of S* on the beach",
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=start_noise(base, 1, seed=2),
    ).images[0]  # noqa: E731
    before = draw()
    pipe.load_textual_inversion(str(tmp_path / "out/embedding.safetensors"), token="S*")
    with_word = draw()
    missing = pipe.unet.load_state_dict(
        load_file(tmp_path / "out/attention.safetensors"), strict=False
    )
    assert missing.unexpected_keys == [] and len(weights) == len(model.offsets) == 42
    theirs = draw()
    far = lambda a, b: np.abs(np.asarray(a, int) - np.asarray(b, int))  # noqa: E731
    assert (
        far(ours, theirs).max() <= 2 < far(ours, with_word).max()
        and far(with_word, before).mean() > 1
    )
    with pytest.raises(ValueError, match="nothing was written"):
        export(model, tmp_path / "out", faces[0][0])


def test_the_exported_word_is_a_mean_of_predictions(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    one, many = fixed_word(model, faces[0][0], looks=1), fixed_word(model, faces[0][0], looks=16)
    other = fixed_word(model, faces[1][0], looks=16)
    assert (
        one.shape == (base.text_encoder.config.hidden_size,)
        and 0 < (one - many).norm() < (many - other).norm()
    )
    with pytest.raises(ValueError, match="no picture"):
        fixed_word(model)
    model.detach()
