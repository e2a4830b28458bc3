"""Nothing knows that the base is a toy: tiny pipelines of Stable Diffusion 1.x's and 2.x's shape.

They are saved by diffusers and loaded by `load_base`.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image
from tiny import tiny_architecture
from transformers import CLIPImageProcessorPil

from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.sample import sample, start_noise
from e4t_minimal.scaling.architectures import SHIPPED, build, narrow, read_architecture, save_base
from e4t_minimal.scaling.plan import rehearsal
from e4t_minimal.train import (
    PERSONALIZATION,
    PRETRAINING,
    accumulate,
    draw_batch,
    draw_noise,
    personalize,
    prepare,
    prepare_concept,
    pretrain,
)

WORD_WIDTH = {"sd15": 768, "sd21": 1024}
TARGET = {"sd15": "epsilon", "sd21": "v_prediction"}


def tiny(name):
    """1/32 of the width, fewer layers, but words as wide as the true ones."""
    small = narrow(read_architecture(name), 32)
    small["unet"]["attention_head_dim"] = 2 if name == "sd15" else [1, 2, 4, 4]
    small["unet"]["cross_attention_dim"] = WORD_WIDTH[name]
    small["text_encoder"]["hidden_size"] = WORD_WIDTH[name]
    # its words are the 2,172 of the toy, not 49,408
    small["text_encoder"] |= {"num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 2172}
    small["image_encoder"] |= {"num_hidden_layers": 4, "image_size": 28}
    small["unet"]["layers_per_block"] = small["vae"]["layers_per_block"] = 1
    return small


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    path = tmp_path_factory.mktemp(name)
    base = build(tiny(name), resolution=64)
    if name == "sd15":  # as Stable Diffusion 1.5 brings it
        config = base.scheduler.config
        base.scheduler = PNDMScheduler.from_config(config, skip_prk_steps=True)
    save_base(base, path)
    return str(path)


def numbers(image):
    return np.asarray(image, int)


def test_a_saved_pipeline_is_loaded(name, folder):
    base = load_base(folder)
    assert base.resolution == 64
    assert base.text_encoder.config.hidden_size == WORD_WIDTH[name]
    assert base.scheduler.config.prediction_type == TARGET[name]
    assert not base.scheduler.config.clip_sample


def test_and_personalized(name, folder, tmp_path):
    base = load_base(folder)
    model, image = E4T(base, "face"), Image.new("RGB", (90, 64), "pink")
    schedule = PERSONALIZATION.replace(steps=2, batch=2)
    steps = list(personalize(model, image, schedule))
    assert np.isfinite([step.losses["total"] for step in steps]).all()
    assert len(model.offsets) == 60  # 96 with two layers a block
    batch, noise, t = draw_batch(model, prepare_concept(model, image), schedule, 0)
    target = model.predict(batch, noise, t).target
    assert torch.equal(target, noise) == (TARGET[name] == "epsilon")
    model.save_pretrained(tmp_path / "me")
    ours = sample(model, "a photo of S*", steps=2)[0]
    model.detach()
    again = E4T.from_pretrained(tmp_path / "me", load_base(folder))
    assert again.picture.size == (64, 64)
    theirs = sample(again, "a photo of S*", steps=2)[0]
    assert theirs.size == (64, 64)
    assert np.abs(numbers(theirs) - numbers(ours)).mean() < 2


def test_without_s_it_is_the_stock_pipeline(folder):
    base, pipe = load_base(folder), StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    noise = start_noise(base, 1, seed=5)
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "latents": noise}
    theirs = pipe("a photo of a face", **options).images[0]
    ours = sample(base, "a photo of a face", steps=3, guidance=4.0, seed=5)[0]
    assert np.abs(numbers(ours) - numbers(theirs)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_learns_in_fp32(folder, dtype):
    base = load_base(folder, dtype=dtype)
    for part in (base, base.vae, base.text_encoder, base.vision):
        assert part.dtype == dtype
    model, image = E4T(base, "face"), Image.new("RGB", (64, 64), "pink")
    at_start = [p.clone() for p in model.parameters()]
    data = prepare(model, [image] * 2, ["a photo of S*"] * 2)
    steps = list(pretrain(model, data, PRETRAINING.replace(steps=2, batch=2, micro=1)))
    assert np.isfinite(steps[-1].losses["total"])
    learned = model.parameters()
    assert all(p.dtype == torch.float32 for p in learned)
    assert any(not torch.equal(a, b) for a, b in zip(at_start, learned, strict=True))
    assert all(torch.isfinite(p).all() for p in learned)
    assert sample(model, "a photo of S*", image, steps=2)[0].size == (64, 64)
    model.detach()


def test_what_is_no_number_is_no_picture(folder):
    base = load_base(folder)
    size = base.unet.config.sample_size
    with pytest.raises(ValueError, match="not finite .NaN or infinite.. In fp16"):
        base.decode(torch.full((1, 4, size, size), torch.nan))


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, tiny_folder):
    save_base(build(tiny_architecture(), resolution=256), tmp_path / "large")
    assert load_base(tmp_path / "large").vae.use_slicing
    assert not load_base(tiny_folder).vae.use_slicing


def test_building_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    build(tiny_architecture(), resolution=32)
    assert torch.equal(torch.rand(3), wanted)


def test_checkpointing_and_micro_batches_give_the_same_gradients(folder):
    base = load_base(folder)
    model = E4T(base, "face")
    torch.nn.init.normal_(model.encoder.join[-1].weight, std=0.1)  # a loss of about 1
    images = [Image.new("RGB", (64, 64), color) for color in ("pink", "blue", "green")]
    masks = [
        Image.new("L", (64, 64), 255),
        Image.linear_gradient("L"),
        Image.new("L", (64, 64), 190),
    ]
    data = prepare(model, images, ["a photo of S*"] * 3, masks)
    loss, whole = gradients(model, data)
    assert whole.norm() > 0
    by_ones = gradients(model, data, micro=1)
    base.unet.enable_gradient_checkpointing()
    checkpointed = gradients(model, data, micro=2)
    for loss_again, parts in (by_ones, checkpointed):
        assert loss == pytest.approx(loss_again, abs=1e-6)
        assert (whole - parts).norm() < 1e-4 * whole.norm()
    model.detach()


def gradients(model, data, micro=None):
    """(loss, the gradients of all parameters in one row), always under the same noise."""
    g = torch.Generator().manual_seed(0)
    noise, t = draw_noise(model.base, data.latents, len(data), g)
    parameters = model.parameters()
    for p in parameters:
        p.grad = None

    def loss(batch, noise, t):
        return model.loss(batch, noise, t, {"l2": 0.1})

    losses = accumulate(loss, data, noise, t, micro)
    return losses["total"], torch.cat([p.grad.flatten() for p in parameters])


def test_another_vision_tower_with_its_own_preprocessing(folder):
    base = load_base(folder)
    image = Image.linear_gradient("L").convert("RGB").resize((200, 200))
    pixels = base.pixels([image])
    assert pixels.shape == (1, 3, 64, 64)
    assert base.cls_tokens(pixels).shape == (1, 2, base.vision.config.hidden_size)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    base.preprocessor = CLIPImageProcessorPil(image_mean=mean, image_std=std)
    given = what_the_tower_is_given(base, pixels)
    assert given.shape == (1, 3, 28, 28)
    wanted = (pixels.mean() / 2 + 0.5 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(given.mean((0, 2, 3)), wanted, atol=0.02)


def what_the_tower_is_given(base, pixels):
    given = []

    def keep(module, args):
        given.append(args[0])

    hook = base.vision.register_forward_pre_hook(keep)
    base.cls_tokens(pixels)
    hook.remove()
    return given[0]


def test_a_base_without_a_tower_takes_the_one_that_is_named(folder, tmp_path, monkeypatch):
    base = load_base(folder)
    plain, tower = str(tmp_path / "plain"), str(tmp_path / "tower")
    save_without_tower(base, plain)
    base.vision.save_pretrained(tower)
    base.preprocessor.save_pretrained(tower)
    with_tower = load_base(plain, vision=tower)
    pixels = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(with_tower.cls_tokens(pixels), base.cls_tokens(pixels))
    E4T(with_tower, "face").save_pretrained(tmp_path / "domain")
    again = E4T.from_pretrained(tmp_path / "domain", with_tower)
    assert again.base.vision_name == tower
    monkeypatch.chdir(tmp_path)
    E4T.from_pretrained("domain", load_base(plain, vision="tower"))  # the same, named otherwise
    with pytest.raises(ValueError, match="made with the vision tower"):
        E4T.from_pretrained(tmp_path / "domain", base)
    with pytest.raises(ValueError, match="no CLIP at"):
        load_base(plain, vision=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="brings an image_encoder of its own"):
        load_base(folder, vision=tower)


def save_without_tower(base, path):
    pipe = StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(path)


def test_another_resolution(folder):
    base = load_base(folder, resolution=128)
    model = E4T(base, "face")
    drawn = sample(model, "a photo of S*", Image.new("RGB", (64, 64)), steps=1)[0]
    assert drawn.size == (128, 128)
    model.detach()
    with pytest.raises(ValueError, match="multiple of 64"):
        load_base(folder, resolution=100)


def test_taps_see_and_change_and_passes_say_what_they_are_for(base):
    calls = []

    def look_and_double(name, tensor):
        calls.append((name, base.running))
        return 2 * tensor

    z_t, t = torch.randn(1, 8, 16, 16), torch.tensor(500)
    hidden = torch.zeros(1, 40, base.unet.config.cross_attention_dim)
    running = []

    def keep(module, args):
        running.append(base.running)

    hook = base.unet.mid_block.register_forward_pre_hook(keep)
    base.taps.append(look_and_double)
    try:
        with torch.no_grad():
            doubled = base.predict(z_t, t, hidden, "uncond")
    finally:
        base.taps.clear()
        hook.remove()
    with torch.no_grad():
        plain = base.predict(z_t, t, hidden, "uncond")
    assert calls == [("guidance.uncond", None)]
    assert running == [("uncond", t)]
    assert torch.equal(doubled, 2 * plain)


def test_untapped_nobody_looks(base):
    def double(name, tensor):
        return 2 * tensor

    base.taps.append(double)
    try:
        assert base.tap("x", torch.ones(1)) == 2
        with pytest.raises(RuntimeError, match="on purpose"), base.untapped():
            assert base.tap("x", torch.ones(1)) == 1
            raise RuntimeError("on purpose")
        assert base.tap("x", torch.ones(1)) == 2
    finally:
        base.taps.remove(double)


def test_after_an_error_no_pass_is_running(base):
    with pytest.raises(RuntimeError):
        base.predict(torch.randn(1, 3, 16, 16), torch.tensor(500), torch.zeros(1, 40, 7))
    assert base.running is None


PUBLISHED = {  # numbers of parameters
    "sd15": {"unet": 859_520_964, "text_encoder": 123_060_480, "resolution": 512},
    "sd21": {"unet": 865_910_724, "text_encoder": 340_387_840, "resolution": 768},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_architectures_are_the_true_ones(name):
    with rehearsal():
        base = build(name)
    wanted = PUBLISHED[name]
    assert count(base.unet) == wanted["unet"]
    assert count(base.text_encoder) == wanted["text_encoder"]
    assert count(base.vae) == 83_653_863
    assert count(base.vision) == 632_076_800
    assert base.resolution == wanted["resolution"]


def count(module):
    return sum(p.numel() for p in module.parameters())
