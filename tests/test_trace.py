import time

import pytest
import torch
from conftest import disturb
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from e4t_minimal import DATA
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attention_projections
from e4t_minimal.sample import sample_steps
from e4t_minimal.inspection.hooks import layers
from e4t_minimal.inspection.trace import heat_maps, names, patch, tokens, trace
from e4t_minimal.train import _draw, personalize

PROMPT = "a photo of S* on the beach"
KINDS = {
    "sd1": ("epsilon", dict(attention_head_dim=8)),
    "sd2": ("v_prediction", dict(attention_head_dim=(2, 4), use_linear_projection=True)),
}


@pytest.fixture(params=KINDS)
def pipe(request):
    """A randomly initialised Stable Diffusion with two cross-attention layers a block: SD 1.x has heads in common, SD 2.x per block, and other projections."""
    torch.manual_seed(0)
    prediction, heads = KINDS[request.param]
    tokenizer = CLIPTokenizer.from_pretrained(DATA / "toy-sd/tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
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


def run(pipe, **how):
    return pipe(
        "a face",
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **how,
    ).images


def hooks(model):
    """Everything that `trace` could leave behind."""
    base = getattr(model, "base", model)
    parts = [base.unet, base.text_encoder] + ([model.encoder] if base is not model else [])
    return (
        sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks)
            for part in parts
            for m in part.modules()
        )
        + ("step" in vars(base.scheduler))
        + sum(
            callable(x) and not isinstance(x, torch.nn.Module)
            for name, x in vars(model).items()
            if name in ("embedding", "loss", "predict", "features")
        )
    )


def drawn(model, picture, steps=4):
    *_, last = sample_steps(model, [PROMPT], picture, steps=steps)
    return last["latents"]


def test_a_pipeline_of_any_shape_gives_the_same_with_and_without(pipe):
    before = run(pipe)
    with trace(pipe) as t:
        assert torch.equal(run(pipe), before)
    assert hooks(pipe) == 0
    assert set(t.kept) == {n for n in names(pipe) if "[t]" not in n} | {
        "latent[751]",
        "latent[501]",
        "latent[251]",
        "latent[1]",
    }
    assert (
        len(t["unet.down.0.attn2[1].map"]) == 4 and t["unet.down.0.attn2[1].map"][0].shape[0] == 2
    )  # both halves in one pass
    assert torch.equal(t["latent[end]"][0], before)
    uncond, cond = t["guidance.uncond"][-1], t["guidance.cond"][-1]
    assert torch.allclose(uncond + 3 * (cond - uncond), t["guidance.prediction"][-1], atol=1e-6)
    assert list(t.of("guidance.cond")) == [751, 501, 251, 1]


def test_it_follows_samplers_that_ask_for_signatures(pipe):
    from diffusers import EulerAncestralDiscreteScheduler

    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(
        pipe.scheduler.config
    )  # takes a generator, if its step's signature says so
    before = run(pipe)
    with trace(pipe, "latent*") as t:
        assert torch.equal(run(pipe), before) and torch.equal(t["latent[end]"][0], before)


def test_toy_sampling_and_training_are_bit_equal(model, data, faces):
    disturb(model.offsets)
    before = drawn(model, faces[0][0])
    with trace(model) as t:
        assert torch.equal(drawn(model, faces[0][0]), before)
    assert {len(t[n]) for n in t.kept if ".map" in n} == {8} and len(
        t["placeholder.embedding"]
    ) == 4
    assert len(t["unet.mid.attn2.to_q.weight.delta"]) == 1  # it has not changed
    plain = model.loss(*_draw(model, data, 4, 0, 0), {"l2": 0.1})["loss"]
    plain.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for p in model.parameters():
        p.grad = None
    with trace(model) as t:
        loss = model.loss(*_draw(model, data, 4, 0, 0), {"l2": 0.1})["loss"]
        loss.backward()
    assert torch.equal(loss, plain) and all(
        torch.equal(a, p.grad)
        for a, p in zip(gradients, [p for p in model.parameters() if p.grad is not None])
    )
    assert {
        "loss.diffusion",
        "loss.l2",
        "encoder.clip.cls[1]",
        "encoder.features",
        "encoder.offset",
    } <= set(t.kept)
    assert {part for name in ("loss.l2", "encoder.features") for _, part in t.calls[name]} == {
        None
    }  # the look at the features is over by then
    assert not any("guidance" in n for n in t.kept) and [
        part for _, part in t.calls["unet.mid"]
    ] == ["features", "cond"]
    assert hooks(model) == 0


def test_deltas_are_kept_as_they_learn(model, faces):
    with trace(model, ("unet.mid.attn2.to_q.weight.delta", "loss.*")) as t:
        losses = [
            s["terms"]["diffusion"].item()
            for s in personalize(model, faces[0][0], faces[0][2], steps=3, batch=2)
        ]
    assert [x.item() for x in t["loss.diffusion"]] == losses
    assert [x.norm().item() > 0 for x in t["unet.mid.attn2.to_q.weight.delta"]] == [
        False,
        True,
        True,
    ]


def test_a_patch_does_not_reach_what_the_model_said_before(base, faces):
    for change, moved in ((lambda x: x, False), (lambda x: 0 * x, True)):
        model = E4T(base, "face")
        with patch(model, "unet.mid", change):
            state = next(personalize(model, faces[0][0], faces[0][2], steps=1, batch=2))
        assert (
            state["terms"]["outside"].item() > 1e-6
        ) == moved  # nothing has been learned yet: only the patch can have moved it
        model.detach()


def test_exceptions_leave_nothing(pipe, model):
    for one in (pipe, model):
        with pytest.raises(RuntimeError), trace(one):
            assert hooks(one) > 20
            raise RuntimeError
        assert hooks(one) == 0
        with pytest.raises(ValueError, match="nmid.*names"), trace(one, "unet.nmid"):
            pass
        with pytest.raises(ZeroDivisionError), patch(one, "unet.mid", lambda x: 1 / 0):
            run(one) if one is pipe else drawn(one, model.base.decode(torch.zeros(1, 8, 16, 16))[0])
        assert hooks(one) == 0
    for name in ("*", "loss.outside"):
        with pytest.raises(ValueError, match="read, not changed"), patch(model, name, lambda x: x):
            pass
    pipe.scheduler.set_timesteps(4)
    with (
        pytest.raises(ValueError, match="give another `seed`"),
        patch(pipe, f"latent[{int(pipe.scheduler.timesteps[0])}]", lambda x: 0 * x),
    ):
        run(pipe)
    assert hooks(pipe) == hooks(model) == 0


def plain_maps(pipe, name):
    """softmax(Q K^T / sqrt(d)) as diffusers itself computes it for its plain processor."""
    layer, found = layers(pipe.unet)[name], []

    def remember(*args):
        found.append(type(layer).get_attention_scores(layer, *args))
        return found[-1]

    layer.get_attention_scores = remember
    layer.set_processor(AttnProcessor())
    run(pipe)
    del layer.get_attention_scores
    return [x.unflatten(0, (-1, layer.heads)) for x in found]


@pytest.mark.parametrize("name", ["unet.down.0.attn2[0]", "unet.up.1.attn2[2]", "unet.mid.attn1"])
def test_maps_are_those_of_the_plain_softmax_under_fused_kernels_and_fused_projections(pipe, name):
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    seen = []
    for fused in (False, True):
        if fused:
            pipe.fuse_qkv_projections()
        with trace(pipe, f"{name}.map") as t:
            run(pipe)
        seen.append(t[f"{name}.map"])
        assert all((x.sum(-1) - 1).abs().max() < 1e-5 for x in seen[-1])
    pipe.unfuse_qkv_projections()
    wanted = plain_maps(pipe, name)
    assert len(wanted) == 4
    for found in seen:
        assert max((a - b).abs().max() for a, b in zip(found, wanted)) <= 1e-5


def test_heat_maps_for_every_token(pipe):
    with trace(pipe, "*attn2*.map") as t:
        run(pipe)
    heat = heat_maps(t, 8)
    assert (
        heat.shape == (1, len(tokens(pipe, "a face")), 8, 8)
        and tokens(pipe, "a face")[0] == pipe.tokenizer.bos_token
    )
    by_head = (
        sum(heat_maps(t, 8, heads=[i]) for i in range(2))
        if layers(pipe.unet)["unet.down.0.attn2[0]"].heads == 2
        else None
    )
    first, rest = heat_maps(t, 8, times=[751]), heat_maps(t, 8, times=[501, 251, 1])
    assert torch.allclose(first + rest, heat, atol=1e-4)
    full = heat_maps(
        t, 8, "unet.down.0.attn2*.map"
    )  # these have 64 places already: nothing is enlarged, each pixel shares 1 among its tokens
    layer = layers(pipe.unet)["unet.down.0.attn2[0]"]
    assert torch.allclose(full.sum(1), torch.full((1, 8, 8), 2.0 * 4 * layer.heads), atol=1e-3)
    assert by_head is None or by_head.shape == heat.shape
    with pytest.raises(ValueError, match="No map"):
        heat_maps(t, 8, "unet.down.1*")


def test_swap_s_on_the_way(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    ours, theirs = (
        [s["embedding"] for s in sample_steps(model, [PROMPT], faces[i][0], steps=4)]
        for i in (0, 1)
    )
    before = drawn(model, faces[0][0])
    loop = sample_steps(model, [PROMPT], faces[0][0], steps=4)
    next(loop), next(loop)
    with patch(model, "placeholder.embedding", lambda v: theirs[2]):
        state = next(loop)
    assert torch.equal(state["embedding"], theirs[2]) and not torch.equal(theirs[2], ours[2])
    state = next(loop)
    assert not torch.equal(state["latents"], before) and hooks(model) == 0
    model.detach()


def test_zero_a_head_scale_delta_change_a_map(model, faces):
    disturb(model.offsets)
    name, before = "unet.mid.attn2", drawn(model, faces[0][0])
    layer = layers(model.base.unet)[name]

    def first_head(x):  # (B, T, heads * d) with its first head at zero
        x = x.unflatten(-1, (layer.heads, -1)).clone()
        x[..., 0, :] = 0
        return x.flatten(-2)

    def first_map(x):  # (B, heads, N, T): a head that looks nowhere
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)

    with patch(model, f"{name}.to_v", first_head):
        by_value = drawn(model, faces[0][0])
    with patch(model, f"{name}.map", first_map):
        by_map = drawn(model, faces[0][0])
    assert torch.allclose(by_value, by_map, atol=1e-4) and not torch.allclose(
        by_value, before, atol=1e-3
    )
    with patch(model, "*.delta", lambda delta: 0 * delta), trace(model, "*.mid*.delta") as t:
        without = drawn(model, faces[0][0])
    with patch(model, "*.delta", lambda delta: delta):
        assert torch.allclose(drawn(model, faces[0][0]), before, atol=1e-5)
    assert len(t.kept) == 6 and hooks(model) == 0
    for linear in attention_projections(model.base.unet).values():
        (
            linear.parametrizations.weight[0].rows.weight.data.zero_(),
            linear.parametrizations.weight[0].rows.bias.data.zero_(),
        )
    assert torch.allclose(drawn(model, faces[0][0]), without, atol=1e-4) and not torch.allclose(
        without, before, atol=1e-3
    )


def test_table_and_file(pipe, tmp_path):
    with trace(pipe, ("unet.mid", "guidance.cond"), device="cpu") as t:
        run(pipe)
    table = t.table().set_index("name")
    assert (
        table.loc["unet.mid", "shape"] == "B=2 C=64 h=4 w=4"
        and table.loc["unet.mid", "calls"] == 4
        and table.loc["unet.mid", "NaNs"] == 0
    )
    assert table.loc["unet.mid", "norm"] == pytest.approx(torch.stack(t["unet.mid"]).norm().item())
    t.save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert (
            torch.equal(file.get_tensor("unet.mid/3"), t["unet.mid"][3])
            and file.metadata()["unet.mid/3"] == "(1, 'both')"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(ValueError, match="kept were: .*unet.mid"):
        t["unet.up.0"]


def test_all_taps_of_a_run_cost_less_than_half_of_it(base, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    prompts, spent = [PROMPT] * 2, {True: [], False: []}

    def seconds(traced):
        start = time.process_time()
        if traced:
            with trace(model):
                list(sample_steps(model, prompts, faces[0][0], steps=20))
        else:
            list(sample_steps(model, prompts, faces[0][0], steps=20))
        return time.process_time() - start

    for traced in (False, True) * 3:
        spent[traced].append(seconds(traced))
    print(
        f"with all taps {min(spent[True]):.2f} s, without {min(spent[False]):.2f} s: {min(spent[True]) / min(spent[False]):.2f}x"
    )
    assert min(spent[True]) <= 1.5 * min(spent[False])
    model.detach()
