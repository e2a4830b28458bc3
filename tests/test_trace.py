"""Looking inside: results stay the same, nothing is left behind, and what is seen is right."""

import re
import time
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import disturb
from diffusers import (
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny import KINDS, left_behind, make_pipe

from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.inspection.heat import heat_maps, tokens
from e4t_minimal.inspection.names import attention_layers, names, side_of_places
from e4t_minimal.inspection.trace import patch, trace
from e4t_minimal.inspection.views import plane
from e4t_minimal.model import E4T
from e4t_minimal.offsets import remove_offsets
from e4t_minimal.sample import sample_steps
from e4t_minimal.train import PERSONALIZATION, PRETRAINING, draw_batch, personalize

PROMPT = "a photo of S* on the beach"
QUICK = PERSONALIZATION.replace(batch=2)


@pytest.fixture(params=KINDS)
def pipe(request):
    return make_pipe(request.param)


@pytest.fixture(scope="module")
def base(tiny_folder):
    """A small one: what is seen and changed does not depend on the size."""
    return load_base(tiny_folder)


@pytest.fixture(scope="module")
def toy():
    return load_base("toy")


@pytest.fixture(params=["sd1", "e4t"])
def subject(request):
    """A pipeline, or an `E4T`."""
    return request.getfixturevalue("model") if request.param == "e4t" else make_pipe("sd1")


def run(pipe, steps=4, **options):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "a face",
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=generator,
        output_type="latent",
        **options,
    ).images


def drawn(model, picture, steps=4, seed=0):
    *_, last = sample_steps(model, [PROMPT], picture, steps=steps, seed=seed)
    return last.latents


def result_of(subject, picture):
    """Latents drawn with a pipeline or an `E4T`."""
    return run(subject) if isinstance(subject, StableDiffusionPipeline) else drawn(subject, picture)


def training_loss(model, data):
    schedule = PRETRAINING.replace(batch=4)
    return model.loss(*draw_batch(model, data, schedule, 0), {"l2": 0.1})["total"]


def gradients(model):
    """Those of everything that has one, which are cleared."""
    found = []
    for p in model.parameters():
        if p.grad is not None:
            found.append(p.grad.clone())
            p.grad = None
    return found


def all_equal(ones, others):
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def test_a_pipeline_of_any_shape_gives_the_same_with_and_without(pipe):
    plain = run(pipe)
    with trace(pipe) as t:
        assert torch.equal(run(pipe), plain)
    assert left_behind(pipe) == 0
    latents = {f"latent[{i}]" for i in (751, 501, 251, 1)}
    assert set(t.kept) == set(names(pipe)) - {"latent[t]"} | latents
    maps = t["unet.down.0.attn2[1].map"]
    assert len(maps) == 4
    assert maps[0].shape[0] == 2  # both halves in one pass
    assert torch.equal(t["latent[end]"][0], plain)
    uncond, cond = t["guidance.uncond"][-1], t["guidance.cond"][-1]
    assert torch.allclose(uncond + 3 * (cond - uncond), t["guidance.prediction"][-1], atol=1e-6)
    assert list(t.of("guidance.cond")) == [751, 501, 251, 1]
    assert list(t.of("latent[501]")) == [501]


def test_it_follows_samplers_that_ask_for_signatures(pipe):
    config = pipe.scheduler.config
    # takes a generator, if its step's signature says so
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(config)
    plain = run(pipe)
    with trace(pipe, "latent*") as t:
        assert torch.equal(run(pipe), plain)
    assert torch.equal(t["latent[end]"][0], plain)


def test_a_scheduler_with_a_step_of_its_own_gets_it_back(pipe):
    step = pipe.scheduler.step
    pipe.scheduler.step = step
    with trace(pipe, "latent*") as t:
        run(pipe)
    assert len(t["latent[end]"]) == 1
    assert vars(pipe.scheduler)["step"] is step


def test_toy_sampling_is_bit_equal(toy, faces):
    model = E4T(toy, "face")
    disturb(model.offsets)
    plain = drawn(model, faces[0][0])
    with trace(model) as t:
        assert torch.equal(drawn(model, faces[0][0]), plain)
    assert {len(t[name]) for name in t.kept if ".map" in name} == {8}
    assert len(t["placeholder.embedding"]) == 4
    assert len(t["unet.mid.attn2.to_q.weight.delta"]) == 1  # it has not changed
    assert torch.equal(t["latent[end]"][0], plain)
    for i in (751, 501, 251, 1):
        assert t.calls[f"latent[{i}]"] == [(i, None)]
    assert [part for _, part in t.calls["unet.mid"]] == ["uncond", "cond"] * 4
    assert left_behind(model) == 0
    model.detach()


def test_training_is_bit_equal(model, data):
    disturb(model.offsets)
    plain = training_loss(model, data)
    plain.backward()
    wanted = gradients(model)
    with trace(model) as t:
        loss = training_loss(model, data)
        loss.backward()
    assert torch.equal(loss, plain)
    assert all_equal(gradients(model), wanted)
    of_e4t = {name for name in names(model) if name.split(".")[0] in ("encoder", "placeholder")}
    assert of_e4t | {"loss.diffusion", "loss.l2", "loss.total"} <= set(t.kept)
    for name in ("loss.l2", "encoder.features"):  # the pass for the features is over by then
        assert {part for _, part in t.calls[name]} == {None}
    assert "guidance.uncond" not in t.kept
    assert [part for _, part in t.calls["unet.mid"]] == ["features", "cond"]
    assert left_behind(model) == 0


def test_the_levels_of_the_vision_tower_are_seen_and_changed_one_by_one(model, data):
    levels = [name for name in names(model) if name.startswith("encoder.clip.cls")]
    with trace(model, "encoder.clip*") as t:
        training_loss(model, data)
    assert len(levels) > 1
    assert list(t.kept) == levels
    wanted = t[levels[1]][0]
    with patch(model, levels[0], torch.zeros_like), trace(model, "encoder.clip*") as t:
        training_loss(model, data)
    assert not t[levels[0]][0].any()
    assert torch.equal(t[levels[1]][0], wanted)


def test_deltas_are_kept_as_they_learn(model, faces):
    with trace(model, ("unet.mid.attn2.to_q.weight.delta", "loss.*")) as t:
        steps = personalize(model, faces[0][0], QUICK.replace(steps=3), mask=faces[0][2])
        losses = [step.losses["diffusion"] for step in steps]
    assert [x.item() for x in t["loss.diffusion"]] == losses
    norms = [x.norm().item() for x in t["unet.mid.attn2.to_q.weight.delta"]]
    assert [norm > 0 for norm in norms] == [False, True, True]


@pytest.mark.parametrize("changed", ["unet.mid", "encoder.offset", "text.hidden"])
def test_a_patch_does_not_reach_what_the_model_said_before(base, faces, changed):
    for change, moved in ((torch.clone, False), (torch.zeros_like, True)):
        model = E4T(base, "face")
        with patch(model, changed, change):
            disturb(model.offsets)
            with torch.no_grad():
                model.encoder.join[-1].bias.normal_()
            schedule = QUICK.replace(steps=1)
            step = next(personalize(model, faces[0][0], schedule, mask=faces[0][2]))
        # nothing has been learned yet: only the patch can have moved it
        assert (step.losses["outside"] > 1e-6) == moved
        model.detach()


def test_a_trace_does_not_show_what_the_model_said_before(model, faces):
    asked = ("encoder.*", "text.hidden", "unet.mid.attn2.map", "unet.mid", "guidance.*")
    with trace(model, asked) as t:
        list(personalize(model, faces[0][0], QUICK.replace(steps=2), mask=faces[0][2]))
    assert len(t["encoder.offset"]) == len(t["encoder.features"]) == 2
    assert len(t["text.hidden"]) == len(t["guidance.cond"]) == 2
    for name in ("unet.mid.attn2.map", "unet.mid"):
        assert [part for _, part in t.calls[name]] == ["features", "cond"] * 2


def test_what_is_computed_again_in_backward_is_not_a_further_call(model, data):
    disturb(model.offsets)
    with trace(model) as t:
        training_loss(model, data).backward()
    wanted = gradients(model)
    model.base.unet.enable_gradient_checkpointing()
    try:
        with trace(model) as checkpointed:
            training_loss(model, data).backward()
        in_block = gradients(model)
        with trace(model):  # closed before what is computed again
            loss = training_loss(model, data)
        loss.backward()
        after_block = gradients(model)
    finally:
        model.base.unet.disable_gradient_checkpointing()
    assert checkpointed.calls == t.calls
    assert all(all_equal(checkpointed[name], t[name]) for name in t.kept)
    assert all_equal(in_block, wanted)
    assert all_equal(after_block, wanted)


@pytest.mark.parametrize("name", ["unet.up.1.attn2[0].map", "unet.up.1.attn1[1].to_v", "*.delta"])
def test_what_is_computed_again_in_backward_is_patched_again(model, data, name):
    disturb(model.offsets)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.base.unet.enable_gradient_checkpointing()
        with patch(model, name, lambda x: 0.5 * x):
            training_loss(model, data).backward()
        found.append(gradients(model))
    model.base.unet.disable_gradient_checkpointing()
    assert all_equal(*found)


def test_blocks_may_close_in_any_order(subject, faces):
    picture = faces[0][0]
    plain = result_of(subject, picture)
    processors = subject_unet(subject).attn_processors
    first, second = trace(subject), trace(subject, ("*.map", "latent*", "text.hidden"))
    kept, also_kept = first.__enter__(), second.__enter__()
    result_of(subject, picture)
    first.__exit__(None, None, None)
    calls = {name: len(tensors) for name, tensors in kept.kept.items()}
    assert torch.equal(result_of(subject, picture), plain)
    second.__exit__(None, None, None)
    assert left_behind(subject) == 0
    assert subject_unet(subject).attn_processors == processors
    assert torch.equal(result_of(subject, picture), plain)
    assert {name: len(tensors) for name, tensors in kept.kept.items()} == calls
    for name, tensors in also_kept.kept.items():
        assert len(tensors) == 2 * calls[name]


def subject_unet(subject):
    return getattr(subject, "base", subject).unet


def test_an_exception_leaves_nothing(subject, faces):
    with pytest.raises(RuntimeError), trace(subject):
        assert left_behind(subject) > 20
        raise RuntimeError
    assert left_behind(subject) == 0
    for name in ("unet.mid", "unet.mid.attn1.map", "latent[end]", "text.hidden"):
        with pytest.raises(ZeroDivisionError), patch(subject, name, lambda x: 1 / 0):
            result_of(subject, faces[0][0])
        assert left_behind(subject) == 0


def test_unknown_names_are_refused(subject):
    for name in ("unet.nmid", "loss.loss", "encoder.clip.cls", "latent[foo]"):
        with pytest.raises(ValueError, match=f"{re.escape(name)}.*names"), trace(subject, name):
            pass
    assert left_behind(subject) == 0


def test_steps_have_patterns_too(model, faces):
    with trace(model, "latent[5*]") as t:
        drawn(model, faces[0][0])
    assert set(t.kept) == {"latent[501]"}


def test_a_loss_is_read_and_the_first_noise_of_a_pipeline_too(pipe, model):
    for name in ("*", "loss.outside"):
        with pytest.raises(ValueError, match="read, not changed"), patch(model, name, torch.clone):
            pass
    pipe.scheduler.set_timesteps(4)
    start = f"latent[{int(pipe.scheduler.timesteps[0])}]"
    with (
        pytest.raises(ValueError, match="give another `seed`"),
        patch(pipe, start, torch.zeros_like),
    ):
        run(pipe)
    assert left_behind(pipe) == left_behind(model) == 0


def test_compiled_models_are_refused(pipe, base):
    compiled = replace(base, unet=torch.compile(base.unet))
    with pytest.raises(ValueError, match="unet is compiled"), trace(compiled):
        pass
    pipe.unet.mid_block.compile()  # one part of it, in place
    with pytest.raises(ValueError, match="unet is compiled"), trace(pipe, "unet.up.0"):
        pass
    pipe.text_encoder = torch.compile(pipe.text_encoder)
    with pytest.raises(ValueError, match="text_encoder is compiled"), patch(pipe, "*", torch.clone):
        pass
    assert left_behind(pipe) == left_behind(base) == 0


def test_fused_projections_are_refused(pipe):
    pipe.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"), trace(pipe, "unet.mid"):
        pass
    pipe.unfuse_qkv_projections()
    with trace(pipe, "unet.mid.attn2.map") as t:
        run(pipe)
    assert len(t["unet.mid.attn2.map"]) == 4


def test_processors_that_do_more_than_attention_are_refused(pipe):
    class Another(AttnProcessor2_0):
        pass

    attention_layers(pipe.unet)["unet.mid.attn2"].set_processor(Another())
    plain = run(pipe)
    for part in ("to_q", "to_k", "to_v", "map"):
        with pytest.raises(ValueError, match="Another"), trace(pipe, f"unet.mid.attn2.{part}"):
            pass
        assert left_behind(pipe) == 0
    with trace(pipe, ("unet.mid.attn2", "unet.mid.attn1.map")):
        assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize("first", ["copy", "original"])
def test_of_a_deep_copy_and_its_original_each_is_itself(model, faces, first):
    disturb(model.offsets)
    plain = drawn(model, faces[0][0])
    copy = deepcopy(model)
    with trace(copy) as t:
        assert torch.equal(drawn(copy, faces[0][0]), plain)
    assert left_behind(copy) == left_behind(model) == 0
    assert len(t["unet.mid.attn2.map"]) == 8
    one, other = (copy, model) if first == "copy" else (model, copy)
    remove_offsets(one.base.unet)  # the classes of their layers were the same
    assert torch.equal(drawn(other, faces[0][0]), plain)
    assert not one.attached
    assert other.attached
    other.detach()
    assert torch.equal(drawn_by_base(one.base), drawn_by_base(other.base))


def drawn_by_base(base):
    *_, last = sample_steps(base, ["a face"], steps=1)
    return last.latents


def test_a_processor_that_was_set_meanwhile_stays(pipe):
    mine = AttnProcessor()
    layer = attention_layers(pipe.unet)["unet.mid.attn2"]
    with trace(pipe, "*.map"):
        layer.set_processor(mine)
    assert layer.get_processor() is mine
    assert left_behind(pipe) == 0


def plain_maps(pipe, name):
    """softmax(Q K^T / sqrt(d)) as diffusers itself computes it for its plain processor."""
    layer = attention_layers(pipe.unet)[name]
    scores = type(layer).get_attention_scores
    found = []

    def remember(*args):
        found.append(scores(layer, *args))
        return found[-1]

    layer.get_attention_scores = remember
    layer.set_processor(AttnProcessor())
    run(pipe)
    del layer.get_attention_scores
    return [x.unflatten(0, (-1, layer.heads)) for x in found]


@pytest.mark.parametrize(
    "processor", [AttnProcessor2_0(), AttnProcessor(), SlicedAttnProcessor(1)], ids=type
)
@pytest.mark.parametrize("name", ["unet.down.0.attn2[0]", "unet.up.1.attn2[2]", "unet.mid.attn1"])
def test_maps_are_those_of_the_plain_softmax_whatever_the_kernel(pipe, name, processor):
    pipe.to(torch.float64)  # in single precision the kernels of some processors differ by 1e-5
    pipe.unet.set_attn_processor(processor)
    plain = run(pipe)
    with trace(pipe, f"{name}.map") as t:
        assert (run(pipe) - plain).abs().max() <= 1e-9
    with trace(pipe, ("unet.*.0", f"{name}", "guidance*", "latent*", "text.hidden")):
        assert torch.equal(run(pipe), plain)  # no layer has another processor
    found = t[f"{name}.map"]
    assert max((x.sum(-1) - 1).abs().max() for x in found) < 1e-5
    wanted = plain_maps(pipe, name)
    assert len(wanted) == len(found) == 4
    assert max((a - b).abs().max() for a, b in zip(found, wanted, strict=True)) <= 1e-5


def test_a_masked_layer_is_computed_as_diffusers_does(pipe):
    layers = attention_layers(pipe.unet)
    torch.manual_seed(1)
    name = "unet.mid.attn2"
    x, context = torch.randn(2, 16, 64), torch.randn(2, 7, 32)
    mask = torch.zeros(2, 1, 7)
    mask[:, :, 5:] = -10000.0
    plain = layers[name](x, context, mask)
    with trace(pipe, f"{name}.*"):
        assert torch.equal(layers[name](x, context, mask), plain)
    seen = []

    def keep(weights):
        seen.append(weights)
        return weights

    with patch(pipe, f"{name}.map", keep):
        assert torch.allclose(layers[name](x, context, mask), plain, atol=1e-5)
    assert not seen[0][..., 5:].any()


def test_heat_maps_for_every_token(pipe):
    with trace(pipe, "*attn2*.map") as t:
        run(pipe)
    layer = attention_layers(pipe.unet)["unet.down.0.attn2[0]"]
    words = tokens(pipe, "a face")
    heat = heat_maps(t, 8)
    assert heat.shape == (1, len(words), 8, 8)
    assert words[0] == pipe.tokenizer.bos_token
    first, others = heat_maps(t, 8, times=[751]), heat_maps(t, 8, times=[501, 251, 1])
    assert torch.allclose(first + others, heat, atol=1e-4)
    # these have 64 places already: nothing is enlarged, each pixel shares 1 among its tokens
    full = heat_maps(t, 8, "unet.down.0.attn2*.map")
    assert torch.allclose(full.sum(1), torch.full((1, 8, 8), 2.0 * 4 * layer.heads), atol=1e-3)
    by_head = [heat_maps(t, 8, "unet.down.0.attn2*", heads=[i]) for i in range(layer.heads)]
    assert torch.allclose(sum(by_head), full, atol=1e-4)
    with pytest.raises(ValueError, match="No map"):
        heat_maps(t, 8, "unet.down.1*")


@given(height=st.integers(1, 99), width=st.integers(1, 99), level=st.integers(0, 3))
def test_the_places_of_every_level_are_found(height, width, level):
    side = (height, width)
    for _ in range(level):  # what diffusers' convolutions with stride 2 make of it
        side = tuple((length - 1) // 2 + 1 for length in side)
    assert side_of_places(side[0] * side[1], (height, width)) == side


@pytest.mark.parametrize("scheduler", [PNDMScheduler, HeunDiscreteScheduler])
def test_schedulers_that_look_twice_at_a_timestep(pipe, scheduler):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    plain = run(pipe)
    wanted = pipe.scheduler.timesteps.tolist()
    assert len(set(wanted)) < len(wanted)  # they do
    names = ("latent*", "guidance.cond", "unet.mid.attn2.map")
    with trace(pipe, names) as t:
        run(pipe, 2)  # is not mixed up with the next
        assert torch.equal(run(pipe), plain)
    looks = t.last_drawing("guidance.cond")
    assert [at for at, _ in looks] == [int(at) for at in wanted]
    latents = [t.calls[name] for name in t.kept if name.startswith("latent[")]
    assert sum(map(len, latents)) == len(wanted) + 3 + 2  # two steps look three times; the ends
    assert torch.equal(t["latent[end]"][-1], plain)
    for at in wanted:
        assert (int(at), None) in t.calls[f"latent[{int(at)}]"]
    maps = [weights for _, weights in t.last_drawing("unet.mid.attn2.map")]
    assert len(maps) == len(wanted)
    heads = torch.stack(maps).sum((0, 2))  # (1, N, T)
    heat = heat_maps(t, 4, "unet.mid.attn2.map")
    assert torch.allclose(heat.flatten(2), heads.transpose(1, 2), atol=1e-4)


def test_heat_maps_and_planes_have_the_shape_of_the_picture(pipe):
    with trace(pipe, "*.map") as t:
        run(pipe, 1, height=8, width=32)  # latents of 4 x 16
    assert t.latents == (4, 16)
    layer = "unet.down.0.attn2[0].map"
    _, weights = t.last_drawing(layer)[0]
    by_hand = weights.sum(1).transpose(1, 2).unflatten(-1, (4, 16))
    assert torch.allclose(heat_maps(t, 4, layer), by_hand, atol=1e-5)
    deeper = heat_maps(t, 8, "unet.mid.attn2.map")
    assert deeper.shape[-2:] == (8, 32)
    shown = plane(weights, layer, 1, 2, t.latents)
    assert torch.equal(shown, weights[0, 1, :, 2].view(4, 16))
    with trace(pipe, layer) as t:
        run(pipe, 1)
        t.latents = (4, 8)
    with pytest.raises(ValueError, match="64 places belong to no level"):
        heat_maps(t, 8, layer)


def test_swap_s_on_the_way(toy, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", toy)
    ours, theirs = (
        [step.embedding for step in sample_steps(model, [PROMPT], faces[i][0], steps=4)]
        for i in (0, 1)
    )
    plain = drawn(model, faces[0][0])
    loop = sample_steps(model, [PROMPT], faces[0][0], steps=4)
    next(loop)
    next(loop)
    with patch(model, "placeholder.embedding", lambda v: theirs[2]):
        step = next(loop)
    assert torch.equal(step.embedding, theirs[2])
    assert not torch.equal(theirs[2], ours[2])
    step = next(loop)
    assert not torch.equal(step.latents, plain)
    assert left_behind(model) == 0
    model.detach()


def test_a_latent_is_changed_on_the_way(model, faces):
    plain = drawn(model, faces[0][0])
    with patch(model, "latent[501]", torch.zeros_like), trace(model, "latent*") as t:
        changed = drawn(model, faces[0][0])
    assert not t["latent[501]"][0].any()
    assert not torch.allclose(changed, plain, atol=1e-2)
    with patch(model, "latent[end]", torch.zeros_like):
        assert not drawn(model, faces[0][0]).any()


def test_zero_a_head_by_its_values_or_by_its_map(model, faces):
    name = "unet.mid.attn2"
    heads = attention_layers(model.base.unet)[name].heads
    plain = drawn(model, faces[0][0])

    def first_head(x):  # (B, T, heads * d) with its first head at zero
        x = x.unflatten(-1, (heads, -1)).clone()
        x[..., 0, :] = 0
        return x.flatten(-2)

    def first_map(x):  # (B, heads, N, T): a head that looks nowhere
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)

    with patch(model, f"{name}.to_v", first_head):
        by_value = drawn(model, faces[0][0])
    with patch(model, f"{name}.map", first_map):
        by_map = drawn(model, faces[0][0])
    assert torch.allclose(by_value, by_map, atol=1e-4)
    assert not torch.allclose(by_value, plain, atol=1e-3)


def test_change_delta(model, faces):
    disturb(model.offsets)
    plain = drawn(model, faces[0][0])
    with patch(model, "*.delta", torch.zeros_like), trace(model, "*.mid*.delta") as t:
        without = drawn(model, faces[0][0])
    with patch(model, "*.delta", torch.clone):
        assert torch.allclose(drawn(model, faces[0][0]), plain, atol=1e-5)
    assert len(t.kept) == 6
    assert not any(delta.any() for deltas in t.kept.values() for delta in deltas)
    assert left_behind(model) == 0
    with torch.no_grad():
        for offset in model.offsets.values():
            offset.rows.weight.zero_()
            offset.rows.bias.zero_()
    assert torch.allclose(drawn(model, faces[0][0]), without, atol=1e-4)
    assert not torch.allclose(without, plain, atol=1e-3)


@pytest.mark.parametrize("first_out", [0, 1])
def test_changes_of_one_delta_follow_each_other(model, faces, first_out):
    disturb(model.offsets)
    picture = faces[0][0]
    with patch(model, "*.delta", torch.zeros_like):
        without = drawn(model, picture)
    patches = [patch(model, "*.delta", torch.zeros_like), patch(model, "*.delta", torch.clone)]
    for one in patches:
        one.__enter__()
    assert torch.equal(drawn(model, picture), without)
    patches.pop(first_out).__exit__(None, None, None)
    assert torch.equal(drawn(model, picture), without) == (first_out == 1)
    patches.pop().__exit__(None, None, None)
    assert left_behind(model) == 0


@pytest.mark.parametrize("name", ["unet.mid.attn2.map", "unet.mid"])
def test_what_is_kept_stays_when_the_tensor_is_changed_in_place(model, faces, name):
    with trace(model, name) as t, patch(model, name, torch.Tensor.zero_):
        drawn(model, faces[0][0])
    assert all(tensor.any() for tensor in t[name])


def test_of_two_drawings_it_is_the_last_whatever_their_number_of_steps(model, faces):
    with trace(model, ("latent[*]", "*attn2.map")) as t:
        for seed in (0, 1):
            last = drawn(model, faces[0][0], steps=1, seed=seed)
    (end,) = t.last_drawing("latent[end]")
    assert torch.equal(end[1], last)
    assert {len(t.last_drawing(name)) for name in t.kept} == {1}


def test_table_and_file(pipe, tmp_path):
    with trace(pipe, ("unet.mid", "guidance.cond"), device="cpu") as t:
        run(pipe)
    line = t.table().set_index("name").loc["unet.mid"]
    assert line["shape"] == "B=2 C=64 h=4 w=4"
    assert line["calls"] == 4
    assert line["NaNs"] == 0
    assert line["norm"] == pytest.approx(torch.stack(t["unet.mid"]).norm().item())
    t.save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("unet.mid/3"), t["unet.mid"][3])
        assert file.metadata()["unet.mid/3"] == "(1, 'both')"
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(ValueError, match="kept were: .*unet.mid"):
        t["unet.up.0"]


def test_all_taps_of_a_run_cost_less_than_half_of_it(toy, faces):
    model = E4T.from_pretrained(DATA / "e4t-face", toy)
    prompts = [PROMPT] * 2
    with_taps, without = [], []

    def seconds():
        start = time.process_time()
        list(sample_steps(model, prompts, faces[0][0], steps=5))
        return time.process_time() - start

    for _ in range(3):
        without.append(seconds())
        with trace(model):
            with_taps.append(seconds())
    model.detach()
    ratio = min(with_taps) / min(without)
    print(f"with all taps {min(with_taps):.2f} s, without {min(without):.2f} s: {ratio:.2f}x")
    assert ratio <= 1.5
