"""What makes no sense is refused in a sentence, where it is given; each kind of it in one place."""

import io
import json
import math
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import diffusers.utils
import numpy as np
import pytest
import torch
import transformers.utils
from accelerate import Accelerator
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file
from tiny import tiny_base, tiny_e4t
from trying import attempt

from e4t_minimal.base import load_base
from e4t_minimal.encoder import Encoder, EncoderConfig
from e4t_minimal.evaluation.alternatives import ResNetEncoderConfig
from e4t_minimal.evaluation.scores import People
from e4t_minimal.helpers import checks
from e4t_minimal.helpers.pictures import as_mask, square, standardize, transparency
from e4t_minimal.helpers.runtime import generator, quiet
from e4t_minimal.model import E4T, Batch
from e4t_minimal.placeholder import Placeholder
from e4t_minimal.regularizers import TERMS
from e4t_minimal.sample import sample, sample_steps, start_noise
from e4t_minimal.scaling.architectures import save_base
from e4t_minimal.scaling.distributed import Run, pretrain_on
from e4t_minimal.scaling.fixed import FixedEmbeddingConfig, fixed_word
from e4t_minimal.scaling.folders import Pictures
from e4t_minimal.scaling.photos import open_photo
from e4t_minimal.train import (
    PERSONALIZATION,
    PRETRAINING,
    Schedule,
    fit,
    parameter_groups,
    personalize,
    prepare,
    prepare_concept,
)
from e4t_minimal.training.dictionary import DICTIONARY, fit_dictionary
from e4t_minimal.training.e4t import Recipe
from e4t_minimal.training.loop import Training, train
from e4t_minimal.world import EXPRESSIONS, Identity, Scene, draw, example, identity, named
from e4t_minimal.world.random_numbers import rng_of
from e4t_minimal.world.scenery import BACKGROUNDS, STYLES

PINK = Image.new("RGB", (64, 64), "pink")


@pytest.fixture(scope="module")
def small():
    return tiny_base()


@pytest.fixture
def e4t(small):
    model = tiny_e4t(small)
    model.picture = PINK
    yield model
    model.detach()


# ------------------------------------------------------------------------------------------ numbers

ONE = Identity.sample("face", "train", rng_of("one"))
NOWHERE = Path("nowhere")
WIDTHS = {"vision_width": 8, "vision_layers": 2, "unet_width": 8, "word_width": 8}
OPTIONS = {  # {name: (what is made with it, least, most, whether it is a whole number)}
    "steps": (PERSONALIZATION.replace, 0, checks.MANY, True),
    "batch": (PERSONALIZATION.replace, 1, 2**16, True),
    "micro": (PERSONALIZATION.replace, 1, 2**16, True),
    "lr": (PERSONALIZATION.replace, 0, 1, False),
    "offsets_lr": (PERSONALIZATION.replace, 0, 1, False),
    "t_min": (PERSONALIZATION.replace, 0, 999, True),
    "backgrounds": (PERSONALIZATION.replace, 0, 999, True),
    "seed": (PERSONALIZATION.replace, 0, checks.SEED, True),
    "vision_width": (partial(replace, EncoderConfig(**WIDTHS)), 1, 2**16, True),
    "s": (partial(replace, EncoderConfig(**WIDTHS)), 0, 100, False),
    "shift": (Scene, -32, 32, True),
    "save_every": (partial(Run, NOWHERE), 1, checks.MANY, True),
    "decay": (partial(Training, "clip", NOWHERE, 10), 0, 1, False),
    "cool": (partial(Training, "clip", NOWHERE, 10), 0, 1, False),
    "warmup": (partial(Training, "clip", NOWHERE, 10), 1, checks.MANY, True),
    "check_every": (partial(Training, "clip", NOWHERE, 10), 1, checks.MANY, True),
    "dictionary_steps": (Recipe, 0, checks.MANY, True),
    "count": (People, 1, 10_000, True),
}


@pytest.mark.parametrize("name", OPTIONS)
@given(value=st.one_of(st.floats(), st.integers(), st.text(max_size=3), st.booleans(), st.none()))
def test_any_number(name, value):
    make, low, high, whole = OPTIONS[name]
    if name == "micro" and value is None:  # all at once
        return
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    good = good and low <= value <= high  # no NaN is

    def is_kept(made) -> bool:
        return getattr(made, name) == value

    attempt("numbers", lambda: make(**{name: value}), ("ok",) if good else ("clear",), is_kept)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -99, 2**64, "5", True, 1e300])
def test_numbers_that_make_no_sense(name, value):
    make, _, _, _ = OPTIONS[name]
    attempt("numbers", lambda: make(**{name: value}))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PERSONALIZATION.replace(weights={"l2": math.nan}), "l2 is nan; give a number"),
        (lambda: PERSONALIZATION.replace(weights={"outside": -1}), "outside is -1; give a number"),
        (lambda: PERSONALIZATION.replace(lr=10.0), "lr is 10.0; give a number from 0 to 1"),
        (lambda: Schedule(5, 0, 0.1, 0.1, {}), "batch is 0; give a whole number from 1 to 65536"),
        (lambda: FixedEmbeddingConfig(0), "word_width is 0"),
        (lambda: ResNetEncoderConfig(8, s=math.nan), "s is nan"),
        (lambda: Training("clip", NOWHERE, 0), "steps is 0"),
        (lambda: Recipe(weights={"l2": math.inf}), "l2 is inf"),
        (lambda: Recipe(encoder="vgg"), "no encoder 'vgg'; choose one of e4t"),
        (lambda: Recipe(offsets="many"), "no kind of offsets 'many'"),
        (lambda: Recipe("cat"), "no domain 'cat'; choose one of face, critter, robot"),
        (lambda: People("cat"), "no domain 'cat'"),
        (lambda: People(split="test"), "no split 'test'; choose one of held-out"),
        (lambda: Scene(background="moon"), "no background 'moon'"),
        (lambda: Scene(style="cubist"), "no style 'cubist'"),
        (lambda: Scene(expression="bored?"), "no expression 'bored"),
        (lambda: Scene(size="huge"), "no size 'huge'; choose one of large, small"),
        (lambda: Scene(shift=1000), "shift is 1000; give a whole number from -32 to 32"),
        (lambda: Identity.sample("face", "foo", rng_of("x")), "no split 'foo'"),
        (lambda: Identity.sample("cat", "train", rng_of("x")), "no domain 'cat'"),
        (lambda: Identity("face", {}), "choose one of"),
        (lambda: replace(ONE, attributes=ONE.attributes | {"wings": "two"}), "no attribute of a"),
        (lambda: identity("face", "train", -1), "index is -1"),
        (lambda: named("cat"), "no domain 'cat'"),
        (lambda: example("face", "train", 0, plain=math.nan), "plain is nan"),
        (lambda: Pictures(NOWHERE, world=0), "world is 0"),
        (lambda: Pictures(NOWHERE, rank=2, world=2), "rank is 2"),
    ],
)
def test_options_say_what_fits(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_largest_seed_is_one_for_the_pictures_of_the_class_too(model, data):
    schedule = PERSONALIZATION.replace(steps=1, batch=2, weights={}, seed=checks.SEED)
    groups = parameter_groups(model, schedule)
    assert len(list(fit(model, data, schedule, groups, prior=data))) == 1


@pytest.mark.parametrize("showing", [True, False])
def test_bars_are_afterwards_as_they_were(showing):
    libraries = (transformers.utils.logging, diffusers.utils.logging)
    before = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries:
            library.enable_progress_bar() if showing else library.disable_progress_bar()
        with quiet():
            assert not any(library.is_progress_bar_enabled() for library in libraries)
        assert all(library.is_progress_bar_enabled() == showing for library in libraries)
    finally:
        for library, shown in zip(libraries, before, strict=True):
            library.enable_progress_bar() if shown else library.disable_progress_bar()


def test_what_is_usual_is_kept():
    seed = 156680208700286  # what other tools give
    assert generator(seed, 5).initial_seed() == (seed * 1_000_003 + 5) % 2**64
    assert generator(3, 4).initial_seed() == 3 * 1_000_003 + 4
    assert PERSONALIZATION.replace(seed=seed, lr=0, steps=0).seed == seed
    assert PERSONALIZATION.replace(seed=np.int64(7), lr=np.float32(0.5)).lr == 0.5
    assert generator(np.int64(seed), 5).initial_seed() == generator(seed, 5).initial_seed()
    assert identity("face", "held-out", np.int64(3)) == identity("face", "held-out", 3)
    for background in BACKGROUNDS:
        for style in STYLES:
            assert Scene(background, style).style == style
    drawn = [draw(ONE, Scene(shift=shift))[2].getextrema()[1] for shift in (-32, 32)]
    assert drawn == [255, 255]


def test_an_expression_of_another_domain_is_refused():
    of_faces = {word for word in EXPRESSIONS if attempt_to_draw(word)}
    assert of_faces
    assert of_faces < set(EXPRESSIONS)


def attempt_to_draw(expression):
    call = partial(draw, ONE, Scene(expression=expression))
    return attempt("numbers", call, ("clear", "ok")) == "ok"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps is 0; give a whole number from 1 to 999"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1000}, "steps is 1000"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"guidance": -2.0}, "guidance is -2.0"),
        ({"seed": -1}, "seed is -1"),
        (
            {"seed": 2**64},
            "seed is 18446744073709551616; give a whole number of at least 0, at most 9e",
        ),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"prompts": []}, "no prompt; give at least one"),
        ({"prompts": [7]}, "7 is no prompt"),
        ({"image": "me.jpg"}, "'me.jpg' is no picture"),
    ],
)
def test_drawing_with_what_makes_no_sense(e4t, options, says):
    with pytest.raises(ValueError, match=says):
        sample(e4t, **{"prompts": "a photo of S*", "steps": 1} | options)


def test_seeds_of_other_tools_draw(small):
    seed = 156680208700286
    assert start_noise(small, 2, seed).isfinite().all()
    assert len(sample(small, "a photo", steps=1, seed=checks.SEED - 1)) == 1


def test_so_many_looks(e4t):
    with pytest.raises(ValueError, match="looks is 0"):
        fixed_word(e4t, PINK, looks=0)


# ------------------------------------------------------------- trainings that are finite no longer


class Broken:
    """A term of the loss that is of no help from its n-th call on."""

    def __init__(self, good, value=math.nan):
        self.good, self.value = good, value

    def __call__(self, model, batch, prediction):
        self.good -= 1
        usual = prediction.offset.float().square().sum()
        return usual if self.good >= 0 else usual * self.value


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_stops_before_it_learns_nonsense(e4t, monkeypatch, value):
    monkeypatch.setitem(TERMS, "l2", Broken(2, value))
    data = prepare_concept(e4t, PINK)
    schedule = PERSONALIZATION.replace(steps=5, batch=2, weights={"l2": 1.0})
    kept = []
    loop = fit(e4t, data, schedule, parameter_groups(e4t, schedule))
    with pytest.raises(ValueError, match=rf"stopped at step 2: loss is (nan|{value})"):
        for _ in loop:
            kept.append(parameters(e4t))
    assert len(kept) == 2
    assert torch.equal(parameters(e4t), kept[-1])
    assert not torch.equal(kept[0], kept[1])
    assert not e4t.encoder.training


def test_gradients_can_be_the_first_to_break(e4t, monkeypatch):
    def root(model, batch, prediction):  # 0, whose slope is infinite
        return (prediction.offset * 0).abs().sum().sqrt()

    monkeypatch.setitem(TERMS, "l2", root)
    schedule = PERSONALIZATION.replace(steps=1, batch=2, weights={"l2": 1.0}, backgrounds=0)
    start = parameters(e4t)
    with pytest.raises(ValueError, match="gradients is nan"):
        list(fit(e4t, prepare_concept(e4t, PINK), schedule, parameter_groups(e4t, schedule)))
    assert torch.equal(parameters(e4t), start)


def test_on_many_devices_the_last_state_stays(e4t, monkeypatch, tmp_path):
    for i in range(2):
        PINK.save(tmp_path / f"{i}.png")
    monkeypatch.setitem(TERMS, "l2", Broken(2))
    schedule = PRETRAINING.replace(steps=5, batch=2)
    run = Run(tmp_path / "run", save_every=1)
    with pytest.raises(ValueError, match="stopped at step 2: loss is nan"):
        list(pretrain_on(Accelerator(cpu=True), e4t, Pictures(tmp_path), schedule, run))
    state = load_file(run.path)
    assert all(tensor.isfinite().all() for tensor in state.values())
    learned = torch.cat([tensor.flatten() for tensor in state.values()])
    assert len(learned) > 0
    assert parameters(e4t).isfinite().all()
    weights = e4t.encoder.state_dict()
    assert torch.equal(state["encoder.join.2.weight"], weights["join.2.weight"])


def test_the_toys_trainers_stop_too(tmp_path):
    layer = torch.nn.Linear(2, 1)
    training = Training("clip", tmp_path, 5, check_every=1)

    def loss_of_step(g, step):
        return layer(torch.ones(1, 2)).sum() * (math.nan if step == 2 else 1.0)

    def check():
        return {"weight": layer.weight.sum()}

    groups = [{"params": list(layer.parameters()), "lr": 0.1}]
    with pytest.raises(ValueError, match="stopped at step 2: loss is nan"):
        train(layer, groups, loss_of_step, training, check)
    assert layer.weight.isfinite().all()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert not list(tmp_path.rglob("*.safetensors"))  # nothing was due yet


def test_the_dictionary_stops_too(e4t):
    data = prepare(e4t, [PINK] * 2, ["S*"] * 2)
    words = torch.full((2, e4t.base.text_encoder.config.hidden_size), math.nan)
    start = parameters(e4t)
    with pytest.raises(ValueError, match="stopped at step 0: loss is nan"):
        list(fit_dictionary(e4t, data, words, DICTIONARY.replace(steps=2, batch=2)))
    assert torch.equal(parameters(e4t), start)


@pytest.mark.parametrize(("micro", "processes"), [(2, 1), (None, 2), (2, 2)])
def test_terms_of_whole_batches_say_so_themselves(micro, processes):
    def compares(model, batch, prediction):
        return 0

    terms = {"mine": compares, "l2": TERMS["l2"]}
    schedule = PRETRAINING.replace(batch=4, micro=micro, weights={"mine": 1.0})
    checks.whole_batch(terms, schedule, processes)
    compares.whole_batch = True
    with pytest.raises(ValueError, match="'mine' compares all pictures of a batch"):
        checks.whole_batch(terms, schedule, processes)
    checks.whole_batch(terms, schedule.replace(micro=4))
    checks.whole_batch(terms, schedule.replace(weights={"mine": 0.0}), processes)
    checks.whole_batch(terms, schedule.replace(weights={"l2": 1.0}), processes)


# ------------------------------------------------------------- what does not belong together


def of_length(latents=2, **others):
    lengths = {"image_features": 2, "ids": 2} | others
    return Batch(
        torch.zeros(latents, 8, 4, 4), **{k: torch.zeros(n, 1) for k, n in lengths.items()}
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: prepare(model, [PINK], ["S*"] * 2), "1 pictures, 2 prompts"),
        (lambda model: prepare(model, [PINK] * 2, "S*"), "2 pictures, 1 prompts"),
        (lambda model: prepare(model, [PINK], ["S*"], [PINK] * 2), "1 prompts, 2 masks"),
        (lambda model: prepare(model, [], ["S*"]), "0 pictures, 1 prompts"),
        (lambda model: prepare(model, [PINK], []), "no prompt"),
        (lambda model: of_length(latents=3), "3 latents, 2 image_features"),
        (lambda model: of_length(mask=1), "1 mask"),
        (
            lambda model: next(
                fit_dictionary(model, prepare(model, [PINK], ["S*"]), torch.zeros(3, 16))
            ),
            "3 words",
        ),
    ],
)
def test_as_many_of_each(e4t, call, says):
    with pytest.raises(ValueError, match=says):
        call(e4t)


def test_as_many_is_kept(e4t):
    assert len(prepare(e4t, [PINK] * 2, ["S*"] * 2, [PINK] * 2)) == 2
    assert len(of_length(mask=2, initial=2)) == 2


@pytest.mark.parametrize(
    "changes", [{"vision_width": 1}, {"vision_layers": 1}, {"unet_width": 1}, {"word_width": 1}]
)
def test_an_encoder_of_other_widths(small, changes):
    config = Encoder.config_for(small)
    wider = {name: getattr(config, name) + more for name, more in changes.items()}
    with pytest.raises(ValueError, match="base of other widths than 'random'"):
        E4T(small, "face", encoder=Encoder(replace(config, **wider)))


@pytest.mark.parametrize("blocks", [0, -1, 99])
def test_so_many_blocks(small, blocks):
    with pytest.raises(ValueError, match=f"blocks is {blocks}; give a whole number from 1 to 3"):
        Encoder.for_base(small, blocks=blocks)


# ------------------------------------------------------------------------ bases of other families


@pytest.fixture(scope="module")
def original(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    save_base(small, folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "base")


def edit(name, **changes):
    """A function of a folder that changes entries of one of its JSON files."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def other_unet(**changes):
    """A function of a folder that puts another U-Net into it, with weights."""

    def change(folder):
        config = UNet2DConditionModel.load_config(folder, subfolder="unet")
        UNet2DConditionModel.from_config(config | changes).save_pretrained(folder / "unet")

    return change


def weights(part, change_tensors):
    """A function of a folder that changes {name: tensor} of a part in place."""

    def change(folder):
        (path,) = (folder / part).glob("*.safetensors")
        tensors = load_file(path)
        change_tensors(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return change


def drop(tensors):
    del tensors[min(tensors)]


def poison(tensors):
    tensors[min(tensors)].flatten()[0] = math.nan


def rename(tensors):
    for name in list(tensors):
        tensors[f"of_another.{name}"] = tensors.pop(name)


NONE = [None, None]
FAMILIES = {
    "SDXL": (edit("model_index.json", _class_name="StableDiffusionXLPipeline"), "is a StableDiffu"),
    "Flux": (edit("model_index.json", _class_name="FluxPipeline"), "is a FluxPipeline. What fits"),
    "no class": (edit("model_index.json", _class_name=None), "What fits is a Stable Diffusion"),
    "inpainting": (other_unet(in_channels=17), "reads 17 channels and writes 8"),
    "pix2pix": (other_unet(in_channels=16), "reads 16 channels"),
    "learned variance": (other_unet(out_channels=16), "writes 16"),
    "words of another width": (other_unet(cross_attention_dim=40), "reads words of width 40"),
    "classes": (other_unet(class_embed_type="timestep"), "wants more than a prompt"),
    "absurd sample_size": (edit("unet/config.json", sample_size=2_000_000), "sample_size is 20000"),
    "sample_size 0": (edit("unet/config.json", sample_size=0), "sample_size is 0"),
    "no sample_size": (edit("unet/config.json", sample_size=None), "sample_size is None"),
    "two sample_sizes": (edit("unet/config.json", sample_size=[8, 9]), "sample_size is "),
    "scaling factor 0": (edit("vae/config.json", scaling_factor=0), "scaling_factor is 0"),
    "scaling factor NaN": (edit("vae/config.json", scaling_factor=math.nan), "scaling_factor is n"),
    "absurd model_max_length": (
        edit("tokenizer/tokenizer_config.json", model_max_length=10**30, max_length=None),
        "model_max_length is 1000000000000000",
    ),
    "no preprocessor": (edit("model_index.json", feature_extractor=NONE), "feature_extractor"),
    "a missing weight": (weights("unet", drop), "1 weights of the UNet2DConditionModel are miss"),
    "no text": (weights("text_encoder", drop), "1 weights of the CLIPTextModel are missing"),
    "a foreign text encoder": (weights("text_encoder", rename), "of the CLIPTextModel are missing"),
    "a foreign tower": (weights("image_encoder", rename), "of the CLIPVisionModelWithProj"),
    "NaN in the VAE": (weights("vae", poison), "of the AutoencoderKL is not finite"),
    "NaN in the U-Net": (weights("unet", poison), "of the UNet2DConditionModel is not finite"),
    "a part is gone": (lambda folder: shutil.rmtree(folder / "vae"), "No Stable Diffusion at"),
    "broken JSON": (lambda folder: (folder / "unet/config.json").write_text("{"), "No Stable Diff"),
    "an empty file": (lambda folder: (folder / "model_index.json").write_text(""), "No Stable Di"),
    "flow": (edit("scheduler/scheduler_config.json", prediction_type="flow"), "predicts 'flow'"),
}


@pytest.mark.parametrize("change, says", FAMILIES.values(), ids=FAMILIES)
def test_a_base_that_does_not_fit(folder, change, says):
    change(folder)
    with pytest.raises(ValueError, match=says) as found:
        load_base(folder)
    assert len(str(found.value)) < 600


def test_a_base_that_fits_is_loaded(folder):
    assert load_base(folder).resolution == 32
    edit("model_index.json", _class_name="StableDiffusionImg2ImgPipeline")(folder)
    assert load_base(folder).resolution == 32


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", r"(?s)in a single file.*python -c .*from_single_file"),
        ("it's v1.5.ckpt", r"(?s)in a single file.*python -c "),
        ("notes.txt", "is a file, and not a folder"),
        ("nothing", "No Stable Diffusion at"),
    ],
)
def test_files_are_no_bases(tmp_path, name, says):
    if "." in name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=says):
        load_base(tmp_path / name)


def test_the_command_that_converts_is_one(tmp_path):
    path = tmp_path / "it's v1.5.ckpt"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="single file") as found:
        load_base(path)
    command = str(found.value).splitlines()[1]
    said = os.popen(command.replace("python -c", "printf %s", 1)).read()
    compile(said, "command", "exec")
    assert repr(str(path)) in said


def test_a_lack_of_memory_is_not_called_a_wrong_folder(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", fail)
    with pytest.raises(MemoryError):
        load_base(folder)


def test_an_error_without_a_word_has_a_line(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", fail)
    with pytest.raises(ValueError, match="RuntimeError: no reason given"):
        load_base(folder)


# ------------------------------------------------------------------------------------------ prompts

LONG = "a photo of a face on the beach " * 8


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a photo of S*S*", "not as a word of its own"),
        ("a photo of S*s", "not as a word of its own"),
        ("a photo of s*", "not as a word of its own"),
        ("S* and S*S*", "not as a word of its own"),
        (f"{LONG} S*", "too long: S\\* comes after the 38 tokens"),
        (f"S* {LONG} S*", "too long"),
        ("a photo of S* (smiling)", r"no token for '\(', '\)'"),
        ("une photo de S* à la plage", "no token for 'à'"),
        ("S* の写真", "no token for 'の', '写', '真'"),
        ("S* 😀", "no token for '😀'"),
        ("S* <|endoftext|> on the beach", r"no token for '<\|endoftext\|>'"),
    ],
)
@pytest.mark.filterwarnings("ignore:The base reads 38 tokens")
def test_prompts_that_would_not_be_read(e4t, prompt, says):
    with pytest.raises(ValueError, match=says):
        sample(e4t, prompt, steps=1)


def test_seeds_of_numpy_draw_what_python_s_draw(small):
    assert torch.equal(start_noise(small, 2, np.int64(3)), start_noise(small, 2, 3))


def test_schedules_share_no_weights():
    schedule = PERSONALIZATION.replace(steps=1)
    schedule.weights["l2"] = 99.0
    assert PERSONALIZATION.weights["l2"] == 0.1


def test_a_base_is_not_saved_with_offsets_on_it(tmp_path):
    base = tiny_base()
    model = tiny_e4t(base)
    with pytest.raises(ValueError, match="offsets hang on this base"):
        save_base(base, tmp_path / "base")
    assert not (tmp_path / "base").exists()
    model.detach()
    save_base(base, tmp_path / "base")
    assert load_base(tmp_path / "base").resolution == base.resolution


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_schedulers_for_another_kind_of_answer(small, scheduler):
    with pytest.raises(ValueError, match="does not fit the base, which says 'v_prediction'"):
        sample(small, "a face", steps=1, scheduler=scheduler())


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, CMStochasticIterativeScheduler])
def test_schedulers_that_scale_in_another_way(small, scheduler):
    made = scheduler.from_config(small.scheduler.config)
    with pytest.raises(ValueError, match=f"This {scheduler.__name__} does not fit the base"):
        sample(small, "a face", steps=2, scheduler=made)


@pytest.mark.parametrize("prompt", ["S*", "S*, smiling", "a photo of S*.", "S*'s face", "S*-S*!"])
def test_punctuation_beside_s(small, prompt):
    word = Placeholder(small, "face")
    ids = word.tokenize([prompt])
    assert (ids == word.id).sum() == prompt.count("S*")


def test_words_that_are_parts_of_others_are_left_alone(small):
    word = Placeholder(small, "face", "sks")
    assert (word.tokenize(["asks sks"]) == word.id).sum() == 1
    with pytest.raises(ValueError, match="does not mention sks"):
        word.tokenize(["asks"])


@pytest.mark.parametrize("prompt", [f"S* {LONG}", LONG])
def test_words_that_are_cut_off_are_named(small, prompt):
    word = Placeholder(small, "face")
    with pytest.warns(UserWarning, match="reads 38 tokens of a prompt: '.*the beach' at the end"):
        word.tokenize([prompt], required=False)


@pytest.mark.parametrize("count", [36, 37, 38])
def test_what_just_fits_is_no_reason_to_warn(small, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.tokenize(" ".join(["face"] * count))


def test_a_base_alone_does_not_know_s(small):
    with pytest.raises(ValueError, match=r"A base alone does not know S\*"):
        sample(small, ["a photo of a face", "a photo of S*"], steps=1)


# --------------------------------------------------------------------------------------- schedulers


def test_schedulers_that_add_noise_draw_the_same_again(small):
    scheduler = EulerAncestralDiscreteScheduler.from_config(small.scheduler.config)
    draw_two = partial(latents, small, ["a face", "a robot"], scheduler=scheduler)
    first = draw_two(seed=3)
    assert torch.equal(first, draw_two(seed=3))
    alone = latents(small, ["a robot"], scheduler=scheduler, seed=4)
    assert torch.allclose(first[1:], alone, atol=1e-4)
    assert not torch.allclose(first, draw_two(seed=5), atol=0.1)


def latents(model, prompts, **options):
    *_, last = sample_steps(model, prompts, steps=4, **options)
    return last.latents


def test_two_drawings_at_once_do_not_share_a_scheduler(small):
    alone = [step.latents for step in sample_steps(small, "a face", steps=4)]
    first, second = sample_steps(small, "a face", steps=4), sample_steps(small, "a face", steps=2)
    mixed = []
    for step in first:
        mixed.append(step.latents)
        next(second, None)
    assert all(torch.equal(a, b) for a, b in zip(alone, mixed, strict=True))
    assert isinstance(small.scheduler, DDIMScheduler)


# ----------------------------------------------------------------------------------------- pictures


def with_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return reopened(halves(60, 40), "JPEG", exif=exif.tobytes(), quality=95)


def halves(width, height):
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", (width, height), "red")
    picture.paste("blue", (width // 2, 0, width, height))
    return picture


def reopened(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return Image.open(file)


def corner(picture):
    return picture.getpixel((2, 2))


def is_red(pixel):
    return pixel[0] > 200 and pixel[2] < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whoever_opens_them(orientation):
    picture, notes = standardize(with_exif(orientation))
    assert picture.size == ((60, 40) if orientation < 5 else (40, 60))
    assert bool(notes) == (orientation > 1)
    assert is_red(corner(picture)) == (orientation in (1, 4, 5, 6))
    again, nothing = standardize(picture)
    assert again.tobytes() == picture.tobytes()
    assert nothing == []


def test_a_tiff_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture, _ = standardize(reopened(halves(60, 40), "TIFF", exif=exif))
    assert picture.size == (40, 60)
    assert is_red(corner(picture))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x02x\x00\x00\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01"
        b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00",
    ],
    ids=["cut off", "garbage", "empty", "text", "turned 99 ways"],
)
def test_broken_exif_stops_nothing(exif, tmp_path):
    halves(60, 60).save(tmp_path / "x.jpg", exif=exif, quality=95)
    picture, _ = open_photo(tmp_path / "x.jpg")
    assert is_red(corner(picture))
    assert is_red(corner(standardize(Image.open(tmp_path / "x.jpg"))[0]))


@given(st.binary(max_size=40))
def test_any_exif_stops_nothing(exif):
    def is_the_picture(found):
        return found[0].size == (60, 60) and found[0].getextrema()[0][1] > 200

    file = reopened(halves(60, 60), "JPEG", exif=b"Exif\x00\x00" + exif, quality=95)
    attempt("pictures", lambda: standardize(file), ("ok",), is_the_picture)


GREYS = {  # what a middle grey looks like in each form: (array or picture, grey that is expected)
    "8 bits": (np.full((40, 40), 128, np.uint8), 128),
    "16 bits": (np.full((40, 40), 128 * 256, np.uint16), 128),
    "12 bits in 16": (np.full((40, 40), 2048, np.uint16), 128),
    "32 bits": (np.full((40, 40), 2**30, np.int32), 64),
    "8 bits in 32": (np.full((40, 40), 128, np.int32), 128),
    "floats": (np.full((40, 40), 0.5, np.float32), 128),
}


@pytest.mark.parametrize("array, grey", GREYS.values(), ids=GREYS)
def test_many_bits(array, grey):
    for picture in (Image.fromarray(array), reopened(Image.fromarray(array), "TIFF")):
        found, _ = standardize(picture)
        assert found.mode == "RGB"
        assert found.getpixel((0, 0)) == (grey, grey, grey)


def test_floats_of_any_size_and_some_that_are_none():
    array = np.linspace(-3000, 5000, 1600, dtype=np.float32).reshape(40, 40)
    array[5, 5] = np.nan
    array[6, 6] = np.inf
    found, notes = standardize(reopened(Image.fromarray(array), "TIFF"))
    grey = np.asarray(found.convert("L"))
    assert grey[0, 0] == grey[5, 5] == grey[6, 6] == 0
    assert grey[-1, -1] == 255
    assert "from -3000 to 5000" in notes[0]
    nothing = Image.fromarray(np.full((40, 40), np.nan, np.float32))
    with pytest.raises(ValueError, match="holds no numbers"):
        standardize(nothing)


def with_profile(picture, **options):
    """A picture that says its colours are of another space; here: of one whose red is our green."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = srgb.index(b"rXYZ"), srgb.index(b"gXYZ")
    names = [text.encode("utf-16-be") for text in ("sRGB", "GRBs")]
    swapped = bytearray(srgb)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    return reopened(picture, icc_profile=bytes(swapped).replace(*names), **options)


def test_colour_profiles_are_honoured():
    with_another = with_profile(Image.new("RGB", (40, 40), "red"))
    picture, notes = standardize(with_another)
    red, green, _ = picture.getpixel((0, 0))
    assert green > 200
    assert red < 60
    (note,) = notes
    assert note.startswith("its colours brought from GRBs")
    assert note.endswith("to sRGB")
    assert "icc_profile" not in picture.info
    assert standardize(picture)[1] == []


def test_transparency_stays_through_a_profile():
    picture = Image.new("RGBA", (40, 40), "red")
    picture.paste((0, 0, 0, 0), (0, 0, 20, 40))
    found, _ = standardize(with_profile(picture))
    assert transparency(found).getbbox() == (20, 0, 40, 40)


@pytest.mark.parametrize("profile", [b"nonsense", b"\x00" * 200])
def test_a_profile_that_cannot_be_read(profile):
    picture, notes = standardize(reopened(halves(40, 40), icc_profile=profile))
    assert is_red(corner(picture))
    assert notes == ["its colour profile cannot be read: taken as sRGB"]


def test_srgb_stays_as_it_is():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture, notes = standardize(reopened(halves(40, 40), icc_profile=srgb))
    assert picture.tobytes() == halves(40, 40).tobytes()
    assert notes == []


def cut_out(mode):
    """A red square on nothing, as RGBA, LA or P."""
    picture = Image.new("RGBA", (64, 64))
    picture.paste("red", (16, 16, 48, 48))
    if mode != "P":
        return picture.convert(mode)
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 255, 0, 255, 0, 0])
    palette.paste(1, (16, 16, 48, 48))
    return reopened(palette, transparency=0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_stays_so_when_it_is_saved(e4t, tmp_path, mode):
    assert square(cut_out(mode), 64).getpixel((0, 0)) == (255, 255, 255)
    assert square(cut_out(mode), 64, keep_transparency=True).getpixel((0, 0))[3] == 0
    e4t.picture = cut_out(mode)
    e4t.save_pretrained(tmp_path / "concept")
    saved = Image.open(tmp_path / "concept/picture.png")
    assert saved.size == (32, 32)
    assert [saved.getpixel(place)[3] for place in ((2, 2), (16, 16))] == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_masks_own_transparency_counts(mode):
    assert as_mask(white(cut_out(mode))).getbbox() == (16, 16, 48, 48)


def white(picture):
    """The same shape in white, also where it is transparent."""
    paper = Image.new("RGBA", picture.size, "white")
    paper.putalpha(picture.convert("RGBA").getchannel("A"))
    return paper


def dot(size=64):
    picture = Image.new("RGBA", (size, size))
    picture.putpixel((size // 2, size // 2), (255, 0, 0, 255))
    return picture


@pytest.mark.parametrize(
    ("picture", "mask", "says"),
    [
        (dot(), None, "transparent everywhere, or almost"),
        (Image.new("RGBA", (64, 64)), None, "transparent everywhere"),
        (PINK, Image.new("L", (64, 64)), "its brightest pixel is 0 of 255"),
        (PINK, Image.new("L", (64, 64), 1), "its brightest pixel is 1 of 255"),
        (PINK, dot(), "mask shows nothing"),
        (PINK, Image.fromarray(np.full((64, 64), np.nan, np.float32)), "holds no numbers"),
        (PINK, Image.new("L", (64, 32), 255), "The mask is 64 x 32, its picture 64 x 64"),
        (with_exif(6), Image.new("L", (60, 40), 255), "The mask is 60 x 40, its picture 40 x 60"),
        ("me.jpg", None, "'me.jpg' is no picture"),
    ],
)
def test_pictures_and_masks_that_show_nothing(e4t, picture, mask, says):
    offsets = dict(e4t.offsets)
    with pytest.raises(ValueError, match=says):
        next(personalize(e4t, picture, mask=mask))
    assert e4t.offsets == offsets  # nothing was folded
    assert e4t.picture is PINK


def test_a_turned_picture_is_learned_upright(e4t):
    prepare_concept(e4t, with_exif(6), Image.new("L", (40, 60), 255))
    assert e4t.picture.size == (40, 60)
    assert is_red(corner(e4t.picture))


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png is not a file"):
        open_photo(tmp_path / "x.png")
    with pytest.raises(ValueError, match="is not a file"):
        open_photo(tmp_path)


@pytest.mark.parametrize("name", ["x.heic", "renamed.jpg"])
@pytest.mark.parametrize("opened", [False, True])
def test_heic_says_what_it_needs(tmp_path, name, opened):
    content = b"\x00\x00\x00\x18ftypheic" + b"\x00" * 50
    (tmp_path / name).write_bytes(content)
    source = io.BytesIO(content) if opened else tmp_path / name
    with pytest.raises(ValueError, match="pip install pillow-heif|cannot be read"):
        open_photo(source, name=name)


# ------------------------------------------------------------------------------ folders of pictures


@pytest.fixture
def mixed(tmp_path):
    """Two pictures, one of them deeper, and what lies about in folders."""
    for path in ("a.png", "more/b.PNG", ".ipynb_checkpoints/c.png", "._a.png", "more/.d.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        PINK.save(tmp_path / path)
    for path in ("notes.txt", "broken.png", "empty.jpg", "film.mp4", "x.heic"):
        (tmp_path / path).write_bytes(b"x" if path != "empty.jpg" else b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    return tmp_path


def test_what_is_left_out_is_counted_and_named(mixed):
    pictures = Pictures(mixed)
    assert pictures.description == "a folder of 2 pictures"
    (note,) = pictures.notes
    assert note.startswith("2 used, 7 left out: broken.png, empty.jpg, film.mp4, ")
    assert note.endswith(", ...")
    assert len(pictures.take(4)) == 4


def test_nothing_is_left_out(tmp_path):
    PINK.save(tmp_path / "a.png")
    assert Pictures(tmp_path).notes == []


def test_a_folder_of_other_things(mixed):
    (mixed / "a.png").unlink()
    shutil.rmtree(mixed / "more")
    with pytest.raises(ValueError, match="holds no pictures .*, 7 left out: broken.png"):
        Pictures(mixed)


def test_a_picture_that_breaks_off_is_named_when_it_is_read(tmp_path):
    PINK.save(tmp_path / "a.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    pictures = Pictures(tmp_path)
    with pytest.warns(UserWarning, match="left out: .*b.png cannot be read"):
        taken = pictures.take(2)
    assert [corner(picture) for picture in taken] == [corner(PINK)] * 2


def test_a_wrong_column_is_told_before_anything_is_fetched(monkeypatch):
    class Builder:
        class info:  # noqa: N801
            features = {"picture": None, "text": None}

    def fetch(*args, **kwargs):
        raise AssertionError("fetched")

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: Builder)
    monkeypatch.setattr(datasets, "load_dataset", fetch)
    with pytest.raises(ValueError, match="no column 'image'; choose one of picture, text"):
        Pictures("someone/faces")
    with pytest.raises(AssertionError, match="fetched"):
        Pictures("someone/faces", column="picture")
    Builder.info.features = None  # not known before it is there
    with pytest.raises(AssertionError, match="fetched"), suppress(KeyError):
        Pictures("someone/faces")
