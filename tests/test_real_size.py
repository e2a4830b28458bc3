"""Stable Diffusion 1.5 and ViT-H/14 in their true size, with random weights.

Minutes and gigabytes: `make test-slow`.
"""

import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from e4t_minimal.evaluation.benchmark import peak_megabytes
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attention_projections
from e4t_minimal.sample import sample
from e4t_minimal.scaling.architectures import build
from e4t_minimal.train import PERSONALIZATION, personalize, prepare_concept

ATTENTION = re.compile(
    r"(down_blocks\.[012]\.attentions\.[01]|mid_block\.attentions\.0"
    r"|up_blocks\.[123]\.attentions\.[012])\.transformer_blocks\.0\.attn[12]\.to_[qkv]"
)


@pytest.mark.slow
def test_stable_diffusion_in_its_true_size(tmp_path):
    start = time.perf_counter()

    def done(what):
        seconds = time.perf_counter() - start
        print(f"{what}: {seconds:.0f} s, peak {peak_megabytes() * 2**20 / 1e9:.1f} GB", flush=True)

    base = build("sd15", dtype=torch.bfloat16)
    base.unet.enable_gradient_checkpointing()
    done("built")
    assert sum(p.numel() for p in base.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in base.vision.parameters()) == 632_076_800
    model = E4T(base, "face")
    model.fold()
    check_offsets(model)

    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels)  # nothing takes more room as a PNG
    batch = prepare_concept(model, noise)
    assert batch.image_features.shape == (1, 16, 1280)
    assert batch.latents.shape == (1, 4, 64, 64)
    parameters = [p.clone() for p in model.parameters()]
    schedule = PERSONALIZATION.replace(steps=1, batch=2, micro=1)
    (step,) = personalize(model, noise, schedule)
    done("one step of personalization, batch 2")
    assert np.isfinite(step.losses["total"])
    changed = [
        not torch.equal(was, now) for was, now in zip(parameters, model.parameters(), strict=True)
    ]
    assert any(changed)

    (picture,) = sample(model, "a photo of S*", steps=2)
    assert picture.size == (512, 512)
    done("two sampling steps")
    model.save_pretrained(tmp_path / "concept")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "concept").iterdir()}
    print(sizes)
    assert sizes["offsets.safetensors"] <= 2e6
    assert sum(sizes.values()) <= 25e6
    assert peak_megabytes() <= 20_000


def check_offsets(model):
    """One for each of Q, K and V of 32 attention layers, of rank 3."""
    offsets = model.offsets
    assert len(offsets) == 96
    assert offsets.keys() == attention_projections(model.base.unet).keys()
    assert all(ATTENTION.fullmatch(name) for name in offsets)
    shapes = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768),
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (1280, 1280),
    }
    for name, (n, m) in shapes.items():
        assert offsets[name].left.shape == (n, 3)
        assert offsets[name].right.shape == (m, 3)
