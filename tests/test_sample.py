import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.encoder import collect_features
from e4t_minimal.model import E4T
from e4t_minimal.sample import DRAWN_AT_ONCE, sample, sample_steps, start_noise

PROMPTS = ["a photo of a smiling face with pale skin on the beach", "a pencil sketch of a robot"]


def largest_difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.fixture(scope="module")
def stock():
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "toy-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by(pipe, base):
    noise = start_noise(base, 2, seed=5)
    return pipe(PROMPTS, num_inference_steps=8, guidance_scale=4.0, latents=noise).images


def test_without_s_it_is_the_stock_pipeline(base, stock):
    ours = sample(base, PROMPTS, steps=8, guidance=4.0, seed=5)
    for a, b in zip(ours, drawn_by(stock, base), strict=True):
        assert largest_difference(a, b) <= 1


def test_with_another_scheduler_too(base, stock, monkeypatch):
    scheduler = EulerDiscreteScheduler.from_config(base.scheduler.config)
    monkeypatch.setattr(stock, "scheduler", EulerDiscreteScheduler.from_config(scheduler.config))
    ours = sample(base, PROMPTS, steps=8, guidance=4.0, seed=5, scheduler=scheduler)
    for a, b in zip(ours, drawn_by(stock, base), strict=True):
        assert largest_difference(a, b) <= 1


def test_a_picture_does_not_depend_on_its_batch(base):
    both = sample(base, PROMPTS, steps=4, seed=3)
    alone = sample(base, PROMPTS[1:], steps=4, seed=4)
    assert largest_difference(both[1], alone[0]) <= 1


def test_beyond_those_drawn_at_once_every_picture_has_noise_of_its_own(tiny_folder):
    base = load_base(tiny_folder)
    pictures = sample(base, ["a photo of a face"] * (DRAWN_AT_ONCE + 1), steps=1, seed=3)
    alone = sample(base, "a photo of a face", steps=1, seed=3 + DRAWN_AT_ONCE)
    assert largest_difference(pictures[-1], alone[0]) <= 1
    assert largest_difference(pictures[-1], pictures[0]) > 1


def test_s_is_predicted_again_at_every_step(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    steps = list(sample_steps(model, ["a photo of S* on the beach"], faces[0][0], steps=4))
    embeddings = torch.cat([step.embedding for step in steps])
    assert embeddings.shape == (4, base.text_encoder.config.hidden_size)
    assert all((v - embeddings[0]).norm() > 0 for v in embeddings[1:])
    image_features = model.image_features(base.pixels([faces[0][0]]))
    for before, step in zip(steps, steps[1:], strict=False):  # S* comes from what the step saw
        t = torch.tensor([step.t])
        with torch.no_grad():
            features = model.unet_features(before.latents, t)
            _, offset = model.embedding(image_features, features)
        assert torch.allclose(step.offset, offset, atol=1e-4)
    model.detach()


def test_a_step_costs_two_passes_of_the_unet(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    with collect_features(base.unet) as collected:
        list(sample_steps(model, ["a photo of S*"], faces[0][0], steps=3))
    blocks = len(base.unet.down_blocks) + 1
    assert len(collected) == 2 * 3 * blocks
    model.detach()


def test_steps_say_where_they_are_and_hold_together(base):
    steps = list(sample_steps(base, PROMPTS, steps=4, guidance=3.0))
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert [step.t for step in steps] == [751, 501, 251, 1]
    for step in steps:
        guided = step.unconditional + 3.0 * (step.conditional - step.unconditional)
        assert torch.allclose(step.prediction, guided, atol=1e-6)
        assert step.embedding is None
        assert step.offset is None


def test_who_is_s(base, faces):
    model, image = E4T(base, "face"), faces[0][0]
    with pytest.raises(ValueError, match="no picture"):
        sample(model, "a photo of S*", steps=1)
    for prompt, says in (
        (f"a photo of a face {'on the beach ' * 12} S*", "too long"),
        ("a photo of S*s", "as a word of its own"),
    ):
        with pytest.raises(ValueError, match=says):
            sample(model, prompt, image, steps=1)
    first = next(sample_steps(model, "a photo of S*", image, steps=1))
    assert len(first.latents) == 1  # one prompt, not one per letter
    model.detach()
