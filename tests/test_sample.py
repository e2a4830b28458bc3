import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from e4t_minimal import DATA
from e4t_minimal.model import E4T
from e4t_minimal.sample import sample, sample_steps, start_noise

PROMPTS = ["a photo of a smiling face with pale skin on the beach", "a pencil sketch of a robot"]


def test_without_s_it_is_the_stock_pipeline(base):
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "toy-sd")
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS, num_inference_steps=8, guidance_scale=4.0, latents=start_noise(base, 2, seed=5)
    ).images
    ours = sample(base, PROMPTS, steps=8, guidance=4.0, seed=5)
    for a, b in zip(ours, theirs):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_a_picture_does_not_depend_on_its_batch(base):
    both, alone = sample(base, PROMPTS, steps=4, seed=3), sample(base, PROMPTS[1:], steps=4, seed=4)
    assert np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int)).max() <= 1


def test_s_is_predicted_again_at_every_step(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    states = [
        dict(s) for s in sample_steps(model, ["a photo of S* on the beach"], faces[0][0], steps=4)
    ]
    embeddings = torch.cat([s["embedding"] for s in states])
    assert embeddings.shape == (4, base.text_encoder.config.hidden_size)
    assert all((embeddings[i] - embeddings[0]).norm() > 0 for i in range(1, 4))
    z, t = (
        states[1]["latents"],
        states[2]["t"],
    )  # what step 2 saw: its features are guidance's own pass
    assert torch.allclose(torch.cat(states[2]["found"], -1), model.features(z, t), atol=1e-4)
    model.detach()


def test_who_is_s(base, faces):
    model = E4T(base, "face")
    with pytest.raises(ValueError, match="no picture"):
        sample(model, "a photo of S*", steps=1)
    for prompt, says in (
        (f"a photo of a face {'on the beach ' * 12} S*", "too long"),
        ("a photo of S*s", "as a word of its own"),
    ):
        with pytest.raises(ValueError, match=says):
            sample(model, prompt, faces[0][0], steps=1)
    assert (
        len(next(sample_steps(model, "a photo of S*", faces[0][0], steps=1))["latents"]) == 1
    )  # one prompt, not one per letter
    model.detach()
