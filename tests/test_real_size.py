"""Stable Diffusion 1.5 and ViT-H/14 in their true size, with random weights. Minutes and gigabytes: `make test-slow`."""

import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from e4t_minimal.scaling.architectures import build
from e4t_minimal.evaluation.bench import peak_megabytes
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attention_projections
from e4t_minimal.sample import sample
from e4t_minimal.train import personalize


@pytest.mark.slow
def test_stable_diffusion_in_its_true_size(tmp_path):
    start = time.perf_counter()

    def done(what):
        print(
            f"{what}: {time.perf_counter() - start:.0f} s, peak {peak_megabytes() * 2**20 / 1e9:.1f} GB",
            flush=True,
        )

    base = build("sd15", dtype=torch.bfloat16)
    base.unet.enable_gradient_checkpointing()
    done("built")
    assert (
        sum(p.numel() for p in base.unet.parameters()) == 859_520_964
        and sum(p.numel() for p in base.vision.parameters()) == 632_076_800
    )
    model = E4T(base, "face")
    model.fold()
    shapes = {
        name: (tuple(o.left.shape), tuple(o.right.shape)) for name, o in model.offsets.items()
    }
    assert len(shapes) == 96 and shapes.keys() == attention_projections(base.unet).keys()
    assert all(
        re.fullmatch(
            r"(down_blocks\.[012]\.attentions\.[01]|mid_block\.attentions\.0|up_blocks\.[123]\.attentions\.[012])"
            r"\.transformer_blocks\.0\.attn[12]\.to_[qkv]",
            name,
        )
        for name in shapes
    )
    assert shapes["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"] == (
        (320, 3),
        (768, 3),
    )
    assert shapes["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] == (
        (1280, 3),
        (1280, 3),
    )
    before = [p.clone() for p in model.parameters()]
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    )  # nothing takes more room as a PNG
    state = next(personalize(model, noise, steps=1, batch=2, micro=1))
    done("one step of personalization, batch 2")
    assert torch.isfinite(state["loss"]) and any(
        not torch.equal(a, b) for a, b in zip(before, model.parameters())
    )
    assert state["part"]["view"].shape == (2, 16, 1280) and state["part"]["latents"].shape == (
        2,
        4,
        64,
        64,
    )
    assert sample(model, "a photo of S*", steps=2)[0].size == (512, 512)
    done("two sampling steps")
    model.save_pretrained(tmp_path / "concept")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "concept").iterdir()}
    print(sizes)
    assert sizes["offsets.safetensors"] <= 2e6 and sum(sizes.values()) <= 25e6
    assert peak_megabytes() <= 20_000
