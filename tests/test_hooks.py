"""What hangs on a model: it works or is refused, comes off as a whole, and serves one at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import changed, left_behind, tiny_base, tiny_e4t, untouched, weights_of
from trying import attempt

from e4t_minimal import DATA
from e4t_minimal.evaluation.scores import People, evaluate
from e4t_minimal.inspection.trace import patch, trace
from e4t_minimal.model import E4T
from e4t_minimal.offsets import (
    FoldedOffset,
    WeightOffset,
    add_offsets,
    attached_offsets,
    attention_projections,
    fold,
    new_offsets,
    remove_offsets,
    unfold,
)
from e4t_minimal.sample import sample, sample_steps
from e4t_minimal.train import PERSONALIZATION, personalize

PICTURE = Image.new("RGB", (32, 32), "pink")
PROMPT = "a photo of S* on the beach"
QUICK = PERSONALIZATION.replace(steps=1, batch=2)


@pytest.fixture(scope="module")
def shared():
    base = tiny_base()
    return base, {name: tensor.clone() for name, tensor in weights_of(base).items()}


@pytest.fixture
def tiny(shared):
    """A tiny base, which every test has to leave as it found it."""
    base, start = shared
    yield base
    assert untouched(base, start)


@pytest.fixture
def model(tiny):
    model = tiny_e4t(tiny)
    yield model
    model.detach()


def drawn(model, steps=2, **options):
    *_, last = sample_steps(model, PROMPT, PICTURE, steps=steps, **options)
    return last.latents


def traced(model):
    with trace(model, "unet.mid"):
        pass


def patched(model):
    with patch(model, "text.hidden", torch.clone):
        pass


# everything that would look at what hangs on a model
USES = {
    "draw": drawn,
    "draw without S*": lambda model: sample(model, "a face", steps=1),
    "personalize": lambda model: list(personalize(model, PICTURE, QUICK)),
    "fold": E4T.fold,
    "another E4T": lambda model: E4T(model.base, "face"),
    "trace": traced,
    "patch": patched,
}


def wrap(module):
    return torch.compile(module)


def in_place(module):
    module.compile()
    return module


def one_layer(module):
    list(module.modules())[-1].compile()
    return module


@pytest.mark.parametrize("how", [wrap, in_place, one_layer])
@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_a_compiled_model_is_refused_wherever_hooks_would_be_passed_by(model, part, how):
    base, module = model.base, getattr(model.base, part)
    setattr(base, part, how(module))
    try:
        for call in USES.values():
            attempt("a compiled model", lambda call=call: call(model))
        if part == "unet":
            attempt("a compiled model", model.detach)
    finally:
        setattr(base, part, module)
        for each in module.modules():
            each._compiled_call_impl = None
    assert model.attached


def test_fused_projections_are_refused_and_keep_nothing(model):
    unet, plain = model.base.unet, drawn(model)
    with torch.no_grad():
        unet.fuse_qkv_projections()
    for call in [*USES.values(), E4T.detach, lambda model: remove_offsets(model.base.unet)]:
        attempt("fused projections", lambda call=call: call(model))
    unet.unfuse_qkv_projections()
    assert torch.equal(drawn(model), plain)
    for layer in unet.modules():  # diffusers leaves the fused ones there
        for name in ("to_qkv", "to_kv"):
            if hasattr(layer, name):
                delattr(layer, name)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("first", ["copy", "original"])
def test_a_deep_copy_and_its_original_part(model, first, merge):
    plain = drawn(model)
    copy = deepcopy(model)
    one, other = (copy, model) if first == "copy" else (model, copy)

    def take_off():
        remove_offsets(one.base.unet, merge and first == "copy")
        return drawn(other)

    attempt("a deep copy", take_off, ("ok",), right=lambda found: torch.equal(found, plain))
    assert not one.attached
    assert other.attached
    other.fold()
    assert torch.allclose(drawn(other), plain, atol=1e-4)


def test_of_two_that_share_a_base_the_older_one_says_so(model):
    newer = tiny_e4t(model.base, seed=1)
    wanted = drawn(newer)
    for name, call in USES.items():
        if name not in ("another E4T", "trace", "patch"):
            attempt("a displaced E4T", lambda call=call: call(model))
    model.detach()  # takes off its own alone
    assert newer.attached
    assert torch.equal(drawn(newer), wanted)
    newer.detach()
    for each in (model, newer):
        attempt("a detached E4T", lambda each=each: drawn(each))


@pytest.mark.parametrize("prompt", [PROMPT, "a photo of a face"])
@pytest.mark.parametrize("how", ["displaced", "detached"])
def test_also_in_the_middle_of_a_drawing_or_a_training(model, prompt, how):
    loops = [
        sample_steps(model, prompt, PICTURE, steps=3),
        personalize(model, PICTURE, QUICK.replace(steps=3)),
    ]
    for loop in loops:
        if not model.attached:
            add_offsets(model.base.unet, model.offsets)
        next(loop)
        other = E4T(model.base, "face") if how == "displaced" else model
        other.detach()
        attempt(f"{how} on the way", lambda loop=loop: next(loop))
        assert next(loop, None) is None  # it is over


class Refusing(WeightOffset):
    """Breaks off when it is hung on a weight."""

    error = RuntimeError

    def forward(self, weight):
        raise self.error("no")


def breaking(unet, place, kind):
    """Offsets of which one, somewhere in the middle, does not fit or breaks off."""
    offsets = new_offsets(unet)
    name = list(offsets)[place]
    n, m = offsets[name].shape
    if kind == "height 1":
        offsets[name] = FoldedOffset(torch.ones(1, 3), torch.ones(m, 3))
    elif kind == "another shape":
        offsets[name] = WeightOffset(n + 1, m)
    elif kind == "another name":
        offsets["another"] = offsets.pop(name)
    else:
        offsets[name] = Refusing(n, m)
        offsets[name].error = kind
    return offsets


@pytest.mark.parametrize("place", [0, 11, 23])
@pytest.mark.parametrize(
    "kind", ["height 1", "another shape", "another name", RuntimeError, KeyboardInterrupt]
)
def test_all_offsets_hang_or_none(model, kind, place):
    plain, before = drawn(model), attached_offsets(model.base.unet)
    offsets = breaking(model.base.unet, place, kind)
    if isinstance(kind, str):
        attempt("offsets that do not fit", lambda: add_offsets(model.base.unet, offsets))
    else:
        with pytest.raises(kind):
            add_offsets(model.base.unet, offsets)
    after = attached_offsets(model.base.unet)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert torch.equal(drawn(model), plain)


@pytest.mark.parametrize(
    ("left", "right"), [((8, 3), (8, 1)), ((8, 1), (8, 3)), ((3,), (3,)), ((8, 3), (3,))]
)
def test_tensors_that_make_no_delta_are_refused(left, right):
    tensors = {"a.left": torch.ones(left), "a.right": torch.ones(right)}
    attempt("tensors of an offset", lambda: unfold(tensors))


def test_an_e4t_that_cannot_be_made_leaves_the_one_before(model):
    for options in ({"class_word": "no word"}, {"token": "face"}, {"offsets": {"a": None}}):
        options = {"class_word": "face"} | options
        attempt("an E4T that cannot be made", lambda options=options: E4T(model.base, **options))
        assert model.attached


def test_merged_weights_are_those_of_the_copy_alone(model):
    plain, copy = drawn(model), deepcopy(model.base)
    remove_offsets(copy.unet, merge=True)
    assert not attached_offsets(copy.unet)
    wanted = attention_projections(model.base.unet)
    for name, linear in attention_projections(copy.unet).items():
        assert torch.equal(linear.weight, wanted[name].weight)
    assert torch.equal(drawn(model), plain)


def test_two_drawings_at_once_in_two_threads_are_right(model):
    jobs = [{"steps": 3, "seed": 1}, {"steps": 5, "seed": 2}, {"steps": 4, "seed": 3}]
    alone = [drawn(model, **job) for job in jobs]
    barrier = threading.Barrier(len(jobs))

    def draw(job):
        barrier.wait()
        return drawn(model, **job)

    def at_once():
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(draw, jobs))

    def right(found):
        return all(map(torch.equal, found, alone))

    attempt("drawings at once, in threads", at_once, ("ok",), right)
    base = model.base
    assert left_behind(base) == 0
    assert base.running is None


def test_a_look_and_a_drawing_at_once_are_right(model, faces):
    picture, looks = model.base.pixels([faces[0][0]]), []
    z_t, t = torch.zeros(1, 8, 16, 16), torch.tensor([500])
    seen = model.image_features(picture)

    def look():
        return model.embedding(seen, model.unet_features(z_t, t))[0]

    def at_once():
        with ThreadPoolExecutor(2) as pool, torch.no_grad():
            drawing = pool.submit(drawn, model, steps=4)
            while not drawing.done():
                looks.append(look())
            return drawing.result()

    with torch.no_grad():
        alone, word = drawn(model, steps=4), look()

    def right(found):
        return torch.equal(found, alone) and all(torch.equal(one, word) for one in looks)

    attempt("a look during a drawing, in threads", at_once, ("ok",), right)
    assert left_behind(model.base) == 0


def test_two_drawings_in_turns_are_right(model):
    alone = [drawn(model, steps=steps, seed=steps) for steps in (3, 4)]
    loops = [sample_steps(model, PROMPT, PICTURE, steps=n, seed=n) for n in (3, 4)]
    last = [None, None]

    def in_turns():
        for turn in range(8):
            step = next(loops[turn % 2], None)
            if step is not None:
                last[turn % 2] = step.latents
        return last

    def right(found):
        return all(map(torch.equal, found, alone))

    attempt("drawings at once, in turns", in_turns, ("ok",), right)


def test_a_schedule_has_fewer_steps_than_timesteps(model):
    last = model.base.scheduler.config.num_train_timesteps
    attempt("numbers of steps", lambda: sample(model, PROMPT, PICTURE, steps=last))
    first = next(sample_steps(model, PROMPT, PICTURE, steps=last - 1))
    assert first.t == last - 1


class Stop(BaseException):
    """As KeyboardInterrupt is."""


@pytest.mark.parametrize("error", [RuntimeError, Stop])
@pytest.mark.parametrize("where", ["the gap", "the drawing"])
def test_evaluate_leaves_the_base_as_it_was(base, monkeypatch, error, where):
    start = {name: tensor.clone() for name, tensor in weights_of(base).items()}

    def stop(*_):
        raise error("stopped")

    if where == "the gap":
        monkeypatch.setattr("e4t_minimal.evaluation.scores.conditioning_gap", stop)
    floor = [{"identity": 0.5}]
    with pytest.raises(error, match="stopped"):
        evaluate(base, DATA / "e4t-face", People(count=1), (0,), floor=floor, sampling=stop)
    assert untouched(base, start)


def test_the_check_sees_what_is_left(shared):
    base, start = shared
    model = tiny_e4t(base)
    assert not untouched(base, start)
    model.fold()
    assert isinstance(next(iter(fold(model.offsets).values())), FoldedOffset)
    assert changed(base, start) == []  # what hangs on a weight does not change it
    model.detach()
    with trace(base):
        assert not untouched(base, start)
    weight = base.unet.conv_in.weight.data
    weight += 1
    assert changed(base, start) == ["unet.conv_in.weight"]
    weight.copy_(start["unet.conv_in.weight"])
    assert np.isfinite(weight.sum().item())
