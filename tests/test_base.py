"""Nothing knows that the base is a toy: tiny pipelines of Stable Diffusion 1.x's and 2.x's shape, saved by diffusers, loaded by `load_base`."""

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessorPil

from e4t_minimal.scaling.architectures import SHIPPED, build, narrow, read_architecture, save_base
from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.scaling.plan import rehearsal
from e4t_minimal.sample import sample, start_noise
from e4t_minimal.train import backward, draw_noise, personalize, prepare, pretrain


def tiny(name):
    """1/32 of the width, fewer layers, but words as wide as the true ones: 768 and 1024."""
    small = narrow(read_architecture(name), 32)
    small["unet"]["attention_head_dim"] = 2 if name == "sd15" else [1, 2, 4, 4]
    small["unet"]["cross_attention_dim"] = small["text_encoder"]["hidden_size"] = read_architecture(
        name
    )["unet"]["cross_attention_dim"]
    small["text_encoder"] |= {"num_attention_heads": 4, "num_hidden_layers": 2}
    small["image_encoder"] |= {"num_hidden_layers": 4, "image_size": 28}
    small["unet"]["layers_per_block"] = small["vae"]["layers_per_block"] = 1
    return small


@pytest.fixture(scope="module", params=["sd15", "sd21"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    base = build(tiny(request.param), resolution=64)
    if request.param == "sd15":
        base.scheduler = PNDMScheduler.from_config(
            base.scheduler.config, skip_prk_steps=True
        )  # as Stable Diffusion 1.5 brings it
    save_base(base, path)
    return path


def test_a_saved_pipeline_is_loaded_and_personalized(folder, tmp_path):
    base = load_base(str(folder))
    width = 768 if "sd15" in folder.name else 1024
    assert base.resolution == 64 and base.text_encoder.config.hidden_size == width
    assert (
        base.scheduler.config.prediction_type == ("epsilon" if width == 768 else "v_prediction")
        and not base.scheduler.config.clip_sample
    )
    model, image = E4T(base, "face"), Image.new("RGB", (90, 64), "pink")
    states = list(personalize(model, image, steps=2, batch=2))
    assert (
        all(torch.isfinite(s["loss"]) for s in states) and len(model.offsets) == 60
    )  # 96 with two layers a block
    target = base.noisy(states[-1]["part"]["latents"], states[-1]["noise"], states[-1]["t"])[1]
    assert torch.equal(target, states[-1]["noise"]) == (width == 768)  # epsilon, or v
    model.save_pretrained(tmp_path / "me")
    ours = sample(model, "a photo of S*", steps=2)[0]
    model.detach()
    again = E4T.from_pretrained(tmp_path / "me", load_base(str(folder)))
    assert ours.size == (64, 64) == again.picture.size
    assert (
        np.abs(
            np.asarray(sample(again, "a photo of S*", steps=2)[0], int) - np.asarray(ours, int)
        ).mean()
        < 2
    )


def test_without_s_it_is_the_stock_pipeline(folder):
    from diffusers import DDIMScheduler

    base, pipe = load_base(str(folder)), StableDiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "a photo of a face",
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=start_noise(base, 1, seed=5),
    ).images[0]
    ours = sample(base, "a photo of a face", steps=3, guidance=4.0, seed=5)[0]
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_learns_in_fp32(folder, dtype):
    base = load_base(str(folder), dtype=dtype)
    assert base.dtype == base.vae.dtype == base.text_encoder.dtype == base.vision.dtype == dtype
    model, image = E4T(base, "face"), Image.new("RGB", (64, 64), "pink")
    before = [p.clone() for p in model.parameters()]
    states = list(
        pretrain(
            model, prepare(model, [image] * 2, ["a photo of S*"] * 2), steps=2, batch=2, micro=1
        )
    )
    assert all(p.dtype == torch.float32 for p in model.parameters()) and torch.isfinite(
        states[-1]["loss"]
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert sample(model, "a photo of S*", image, steps=2)[0].size == (64, 64)
    model.detach()


def test_checkpointing_and_micro_batches_give_the_same_gradients(folder):
    base = load_base(str(folder))
    model = E4T(base, "face")
    torch.nn.init.normal_(model.encoder.join[-1].weight)
    data = prepare(
        model,
        [Image.new("RGB", (64, 64), colour) for colour in ("pink", "blue", "green")],
        ["a photo of S*"] * 3,
        [Image.new("L", (64, 64), 255), Image.linear_gradient("L"), Image.new("L", (64, 64), 90)],
    )
    noise, t = draw_noise(base, data["latents"], 3, torch.Generator().manual_seed(0))

    def gradients(micro, checkpointing):
        (
            base.unet.enable_gradient_checkpointing
            if checkpointing
            else base.unet.disable_gradient_checkpointing
        )()
        for p in model.parameters():
            p.grad = None
        terms = backward(lambda *some: model.loss(*some, {"l2": 0.1}), data, noise, t, micro)
        return terms["loss"], torch.cat([p.grad.flatten() for p in model.parameters()])

    loss, whole = gradients(None, False)
    for micro, checkpointing in ((1, False), (2, True)):
        again, parts = gradients(micro, checkpointing)
        assert torch.allclose(loss, again, atol=1e-6) and whole.norm() > 0
        assert (whole - parts).norm() < 1e-4 * whole.norm()
    model.detach()


def test_another_vision_tower_with_its_own_preprocessing(folder, tmp_path):
    base = load_base(str(folder))
    pixels = base.pixels([Image.linear_gradient("L").convert("RGB").resize((200, 200))])
    before = base.cls_tokens(pixels)
    assert before.shape == (1, 2, base.vision.config.hidden_size) and pixels.shape == (1, 3, 64, 64)
    seen = []
    hook = base.vision.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    base.preprocessor = CLIPImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    base.cls_tokens(pixels)
    hook.remove()
    assert seen[0].shape == (1, 3, 28, 28)
    assert torch.allclose(
        seen[0].mean((0, 2, 3)),
        (pixels.mean() / 2 + 0.5 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7]),
        atol=0.02,
    )


def test_a_base_without_a_tower_takes_the_one_that_is_named(folder, tmp_path):
    base = load_base(str(folder))
    StableDiffusionPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        base.scheduler,
        None,
        None,
        None,
        False,
    ).save_pretrained(tmp_path / "plain")
    (
        base.vision.save_pretrained(tmp_path / "tower"),
        base.preprocessor.save_pretrained(tmp_path / "tower"),
    )
    found = load_base(str(tmp_path / "plain"), vision=str(tmp_path / "tower"))
    pixels = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(found.cls_tokens(pixels), base.cls_tokens(pixels))
    E4T(found, "face").save_pretrained(tmp_path / "domain")
    assert E4T.from_pretrained(tmp_path / "domain", found).base.tower == str(tmp_path / "tower")
    with pytest.raises(ValueError, match="made with the vision tower"):
        E4T.from_pretrained(tmp_path / "domain", base)
    with pytest.raises(ValueError, match="no CLIP at"):
        load_base(str(tmp_path / "plain"), vision=str(tmp_path / "nothing"))


def test_another_resolution(folder):
    base = load_base(str(folder), resolution=128)
    model = E4T(base, "face")
    assert sample(model, "a photo of S*", Image.new("RGB", (64, 64)), steps=1)[0].size == (128, 128)
    model.detach()
    with pytest.raises(ValueError, match="multiple of 64"):
        load_base(str(folder), resolution=100)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_architectures_are_the_true_ones(name):
    with rehearsal():
        base = build(name)
    count = {
        part: sum(p.numel() for p in getattr(base, part).parameters())
        for part in ("unet", "vae", "text_encoder", "vision")
    }
    assert count["unet"] == {"sd15": 859_520_964, "sd21": 865_910_724}[name]  # as published
    assert (
        count["text_encoder"] == {"sd15": 123_060_480, "sd21": 340_387_840}[name]
        and count["vae"] == 83_653_863
    )
    assert count["vision"] == 632_076_800 and base.resolution == {"sd15": 512, "sd21": 768}[name]
