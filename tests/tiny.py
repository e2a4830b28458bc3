"""Random bases in which everything takes milliseconds, for tests that need no good picture."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from e4t_minimal import DATA
from e4t_minimal.inspection.attention import ObservedAttention
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attached_offsets
from e4t_minimal.scaling.architectures import build, narrow, read_architecture

KINDS = {
    "sd1": ("epsilon", {"attention_head_dim": 8}),
    "sd2": ("v_prediction", {"attention_head_dim": (2, 4), "use_linear_projection": True}),
}
FEWER_BLOCKS = {
    "block_out_channels": [16, 32],
    "norm_num_groups": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


def tiny_architecture():
    parts = narrow(read_architecture("toy"), 8)
    parts["unet"] |= FEWER_BLOCKS
    parts["text_encoder"]["num_hidden_layers"] = 2
    parts["image_encoder"]["num_hidden_layers"] = 4
    return parts


def tiny_base():
    """A `Base` of the toy's kind: pictures of 32 pixels, 24 attention projections."""
    return build(tiny_architecture(), resolution=32)


def tiny_e4t(base, seed=0):
    """An `E4T` whose offsets and encoder have something to say."""
    torch.manual_seed(seed)
    model = E4T(base, "face")
    with torch.no_grad():
        for offset in model.offsets.values():
            offset.rows.weight.normal_(std=0.1)
        model.encoder.join[-1].weight.normal_(std=0.1)
    return model


def make_pipe(kind):
    """A randomly initialised Stable Diffusion with two cross-attention layers a block.

    SD 1.x has as many heads in every block; SD 2.x has not, and other projections.
    """
    torch.manual_seed(0)
    prediction, heads = KINDS[kind]
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "toy-sd/tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    text = CLIPTextModel(config).eval()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        layers_per_block=2,
        cross_attention_dim=32,
        **heads,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def left_behind(model):
    """How many things `trace` has put into a model."""
    base = getattr(model, "base", model)
    modules = [*base.unet.modules(), *base.text_encoder.modules()]
    if model is not base:
        modules += list(model.encoder.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    processors = base.unet.attn_processors.values()
    ours = sum(isinstance(processor, ObservedAttention) for processor in processors)
    taps = len(getattr(base, "taps", ()))
    return hooks + ours + taps + ("step" in vars(base.scheduler))


def weights_of(base):
    """{part.name: tensor} of all weights, without what hangs on them; no copies."""
    found = {}
    for part in ("unet", "text_encoder", "vae", "vision"):
        for name, tensor in getattr(base, part).state_dict().items():
            if ".parametrizations.weight." not in name:
                found[f"{part}.{name}"] = tensor
            elif name.endswith(".original"):
                whole = name.replace(".parametrizations.weight.original", ".weight")
                found[f"{part}.{whole}"] = tensor
    return found


def changed(base, start):
    """Names of the weights that are not, bit for bit, those of `start` (copies of `weights_of`)."""
    now = weights_of(base)
    assert set(now) == set(start)
    return [name for name, tensor in now.items() if not torch.equal(tensor, start[name])]


def untouched(base, start):
    """Whether nothing hangs on a base, and its weights are those of the start."""
    return not changed(base, start) and not attached_offsets(base.unet) and left_behind(base) == 0
