import importlib.util
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.evaluation import alternatives
from e4t_minimal.evaluation.gap import conditioning_gap
from e4t_minimal.helpers.optimizers import step_scaled
from e4t_minimal.model import E4T
from e4t_minimal.train import (
    PERSONALIZATION,
    PRETRAINING,
    accumulate,
    draw_batch,
    draw_noise,
    initial_values,
    loss_function,
    personalize,
    prepare,
    pretrain,
)
from e4t_minimal.training.dictionary import DICTIONARY, fit_dictionary

BITSANDBYTES = importlib.util.find_spec("bitsandbytes")


def fixed_loss(model, data):
    batch, noise, t = draw_batch(model, data, PRETRAINING.replace(batch=16, seed=99), 0)
    with torch.no_grad():
        return model.loss(batch, noise, t, {"l2": 0.01})["total"].item()


def test_five_steps_of_pretraining_lower_the_loss(model, data):
    at_start = fixed_loss(model, data)
    frozen = [p.clone() for p in model.base.text_encoder.parameters()]
    schedule = PRETRAINING.replace(steps=5, batch=8, lr=1e-3, offsets_lr=3e-3)
    steps = list(pretrain(model, data, schedule))
    assert fixed_loss(model, data) < at_start
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert list(steps[0].losses) == ["diffusion", "l2", "total"]
    assert all(type(value) is float for value in steps[0].losses.values())
    still = zip(frozen, model.base.text_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in still)
    trained = {id(p) for p in model.parameters()}
    assert all(p.grad is None for p in model.base.unet.parameters() if id(p) not in trained)


def personalized(base, face, schedule):
    """(losses of every step, all offsets in one row), from the shipped model."""
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    losses = [step.losses["total"] for step in personalize(model, face[0], schedule, face[2])]
    offsets = torch.cat([p.detach().flatten() for p in model.parts()["offsets"]])
    model.detach()
    return losses, offsets


def test_micro_batches_take_the_same_steps(base, faces):
    schedule = PERSONALIZATION.replace(steps=3, batch=4)
    losses, offsets = personalized(base, faces[0], schedule)
    in_parts, offsets_in_parts = personalized(base, faces[0], schedule.replace(micro=3))
    assert losses == pytest.approx(in_parts, rel=1e-4)
    assert (offsets - offsets_in_parts).norm() < 1e-2 * offsets.norm()


def test_same_seed_same_steps(base, faces):
    schedule = PERSONALIZATION.replace(steps=2, batch=4)
    losses, offsets = personalized(base, faces[0], schedule)
    losses_again, offsets_again = personalized(base, faces[0], schedule)
    assert losses == losses_again
    assert torch.equal(offsets, offsets_again)
    assert personalized(base, faces[0], schedule.replace(seed=1))[0] != losses


def masks_of_many_sizes():
    """A whole picture, two thirds, a corner: (4) PIL masks of 64 x 64 pixels."""
    masks = [Image.new("L", (64, 64)) for _ in range(4)]
    for mask, box in zip(
        masks,
        ((0, 0, 64, 64), (0, 0, 64, 43), (40, 40, 64, 64), (0, 0, 20, 64)),
        strict=True,
    ):
        mask.paste(255, box)
    return masks


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_give_the_same_gradients_with_masks_of_many_sizes(model, faces, micro):
    images = [image for image, _, _ in faces]
    data = prepare(model, images, ["a photo of S*"] * 4, masks_of_many_sizes())
    schedule = PERSONALIZATION.replace(batch=4)
    learned = model.parameters()
    loss = loss_function(model, schedule, learned)
    with torch.no_grad():  # as if some steps had been taken
        for p in learned:
            p.add_(0.02 * torch.randn_like(p))
    noise, t = draw_noise(model.base, data.latents, 4, torch.Generator().manual_seed(0))
    whole = gradients(loss, data, noise, t, learned, None)
    parts = gradients(loss, data, noise, t, learned, micro)
    assert whole[0]["outside"] > 0
    assert whole[0] == pytest.approx(parts[0], rel=1e-4)
    assert (whole[1] - parts[1]).norm() < 1e-4 * whole[1].norm()


def gradients(loss, batch, noise, t, parameters, micro):
    """(losses, the gradients of all parameters in one row)."""
    for p in parameters:
        p.grad = None
    losses = accumulate(loss, batch, noise, t, micro)
    return losses, torch.cat([p.grad.flatten() for p in parameters])


def test_around_is_entered_for_all_micro_batches_but_the_last():
    entered = []
    data = torch.arange(5.0, requires_grad=True)

    class Around:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *_):
            entered.append("out")

    def loss(batch, noise, t):
        entered.append(len(t))
        return {"total": batch.mean()}

    losses = accumulate(loss, data, torch.zeros(5), torch.zeros(5), micro=2, around=Around)
    assert entered == ["in", 2, "out", "in", 2, "out", 1]
    assert losses["total"] == pytest.approx(2.0)
    assert torch.allclose(data.grad, torch.full((5,), 0.2))


def test_inside_initial_values_the_parameters_are_what_they_were():
    layer = torch.nn.Linear(3, 3)
    parameters = list(layer.parameters())
    start = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        layer.weight.add_(1.0)
    learned = layer.weight.detach().clone()
    memory = layer.weight.data_ptr()
    with initial_values(parameters, start):
        assert torch.equal(layer.weight, start[0])
    assert torch.equal(layer.weight, learned)
    assert layer.weight.data_ptr() == memory
    assert not torch.equal(start[0], learned)


def test_after_an_error_the_parameters_are_what_they_have_become():
    layer = torch.nn.Linear(3, 3)
    start = [torch.zeros_like(p) for p in layer.parameters()]
    learned = layer.weight.detach().clone()
    inside = initial_values(list(layer.parameters()), start)
    with pytest.raises(RuntimeError, match="on purpose"), inside:
        raise RuntimeError("on purpose")
    assert torch.equal(layer.weight, learned)
    assert not start[0].any()


def test_contrast_needs_the_whole_batch(model, data):
    assert "contrastive" in alternatives.TERMS
    schedule = PRETRAINING.replace(steps=1, batch=4, micro=2, weights={"contrastive": 0.1})
    with pytest.raises(ValueError, match="cannot be computed in micro-batches"):
        next(pretrain(model, data, schedule))


@pytest.mark.skipif(BITSANDBYTES is not None, reason="bitsandbytes is there")
def test_eight_bits_without_bitsandbytes(model, data):
    with pytest.raises(ValueError, match="needs bitsandbytes"):
        next(pretrain(model, data, PRETRAINING.replace(steps=1, eight_bit=True)))


@pytest.mark.parametrize("t_min", [0, 300, 999])
@pytest.mark.parametrize("share", [0.0, 0.5, 1 - 2**-24])
def test_timesteps_exist_however_they_are_rounded(base, monkeypatch, t_min, share):
    def rand(count, generator):
        return torch.full((count,), share)

    monkeypatch.setattr(torch, "rand", rand)
    for batch in (1, 2, 3, 7, 16, 24, 64, 1000):
        _, t = draw_noise(base, torch.zeros(1, 1, 1, 1), batch, torch.Generator(), t_min)
        assert t.min() >= t_min
        assert t.max() <= 999
        assert (t.diff() >= 0).all()


def test_timesteps_are_spread(base):
    g = torch.Generator().manual_seed(0)
    for _ in range(1000):
        noise, t = draw_noise(base, torch.zeros(5, 8, 2, 2), 16, g, t_min=300)
        edges = torch.linspace(300, 1000, 17)  # of sixteen parts, one timestep in each
        assert (t >= edges[:-1].floor()).all()
        assert (t < edges[1:]).all()
    assert noise.shape == (16, 8, 2, 2)


def with_target(base, kind):
    scheduler = DDIMScheduler.from_config(base.scheduler.config, prediction_type=kind)
    return replace(base, scheduler=scheduler)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_and_target_agree(base, kind):
    x, noise, t = torch.randn(3, 8, 16, 16), torch.randn(3, 8, 16, 16), torch.tensor([0, 500, 999])
    z_t, target = with_target(base, kind).add_noise(x, noise, t)
    kept = base.scheduler.alphas_cumprod[t].sqrt()[:, None, None, None]
    lost = (1 - kept**2).sqrt()
    assert torch.allclose(z_t, kept * x + lost * noise, atol=1e-5)
    wanted = {"epsilon": noise, "v_prediction": kept * noise - lost * x, "sample": x}
    assert torch.allclose(target, wanted[kind], atol=1e-5)


def test_from_v_the_picture_comes_back(base):
    assert base.scheduler.config.prediction_type == "v_prediction"
    x, noise, t = torch.randn(3, 8, 16, 16), torch.randn(3, 8, 16, 16), torch.tensor([0, 500, 999])
    z_t, v = base.add_noise(x, noise, t)
    kept = base.scheduler.alphas_cumprod[t].sqrt()[:, None, None, None]
    lost = (1 - kept**2).sqrt()
    assert torch.allclose(kept * z_t - lost * v, x, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_scheduler_draws_with_what_the_target_asks_for(base, kind):
    """Told the target itself, one step of DDIM takes away the noise and nothing else."""
    of_kind = with_target(base, kind)
    x, noise = torch.randn(2, 8, 16, 16).clamp(-1, 1), torch.randn(2, 8, 16, 16)
    of_kind.scheduler.set_timesteps(20)
    t = of_kind.scheduler.timesteps[3]
    z_t, target = of_kind.add_noise(x, noise, t.expand(2))
    result = of_kind.scheduler.step(target, t, z_t)
    assert torch.allclose(result.pred_original_sample, x, atol=1e-3)


def test_a_base_that_predicts_something_else_is_refused(base):
    foreign = with_target(base, "flow")
    with pytest.raises(ValueError, match="predicts 'flow'"):
        foreign.add_noise(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4), torch.tensor([5]))


def test_dictionary_comes_closer_to_the_words(model, data):
    words = torch.randn(4, model.base.text_encoder.config.hidden_size) * 0.1
    schedule = DICTIONARY.replace(steps=30, batch=4)
    losses = [step.losses["total"] for step in fit_dictionary(model, data, words, schedule)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in model.parts()["offsets"])


def test_fresh_model_has_no_gap_and_shipped_one_has(base, model, data):
    assert conditioning_gap(model, data) == 0
    model.detach()
    shipped = E4T.from_pretrained(DATA / "e4t-face", base)
    assert conditioning_gap(shipped, data) > 0.1
    shipped.detach()


def test_masks_that_fit_nothing_are_refused(model, faces):
    image, mask = faces[0][0], Image.new("L", (64, 64))
    with pytest.raises(ValueError, match="mask shows nothing"):
        next(personalize(model, image, mask=mask))
    white = Image.new("L", (64, 64), 255)
    with pytest.raises(ValueError, match="The mask is 64 x 64, its picture 32 x 32"):
        next(personalize(model, image.resize((32, 32)), mask=white))
    wide = Image.new("RGBA", (192, 64))
    wide.paste(image, (0, 0))  # what it shows lies outside the middle
    with pytest.raises(ValueError, match="shows nothing in the middle square"):
        next(personalize(model, wide))
    assert model.picture is None


def test_what_does_not_exist_is_named(model, data, tmp_path):
    with pytest.raises(ValueError, match="no term of the loss 'batch_size'"):
        next(pretrain(model, data, PRETRAINING.replace(weights={"batch_size": 4}, batch=2)))
    with pytest.raises(ValueError, match="'gpu' cannot be used here"):
        load_base("toy", device="gpu")
    with pytest.raises(ValueError, match="No Stable Diffusion"):
        load_base(str(tmp_path))


def test_gradients_are_clipped_to_length_1(model, data, monkeypatch):
    loss = E4T.loss

    def large(*args):
        return {name: 1e6 * value for name, value in loss(*args).items()}

    monkeypatch.setattr(E4T, "loss", large)
    list(pretrain(model, data, PRETRAINING.replace(steps=1, batch=2)))
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1.0, rel=1e-3)


def test_in_fp16_a_step_with_infinite_gradients_is_left_out_and_said():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([p], lr=1.0), torch.amp.GradScaler("cpu")
    scaler.scale(p * torch.inf).sum().backward()
    with pytest.warns(UserWarning, match="Step 7 was left out"):
        step_scaled(scaler, optimizer, 7)
    assert p == 1
