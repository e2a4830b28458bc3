"""Two processes do what one does, and a stopped run goes on as if it had not stopped."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import datasets
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from states import rewritten

from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.scaling.checkpoint import load_state, read_facts, save_state
from e4t_minimal.scaling.distributed import Learner, Run, pretrain_on
from e4t_minimal.scaling.folders import Pictures, prompts_of
from e4t_minimal.train import PRETRAINING, draw_batch, prepare
from e4t_minimal.world import Scene, draw, identity

# a wrong gradient moves a parameter by about the learning rate a step
SCHEDULE = PRETRAINING.replace(batch=4, micro=1, lr=1e-4, offsets_lr=1e-4, seed=3)


@pytest.fixture(scope="module")
def base(tiny_folder):
    return load_base(tiny_folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces")
    for i in range(10):
        picture, _, _ = draw(identity("face", "train", i), Scene())
        picture.save(path / f"{i:02d}.png")
    (path / "broken.png").write_text("not a picture")
    (path / "notes.txt").write_text("not meant to be one")
    return path


@dataclass(frozen=True)
class Trained:
    """What a run of one process, this one, has left."""

    steps: list
    state: dict


def new_model(base, class_word="face", token="S*"):
    torch.manual_seed(SCHEDULE.seed)  # new offsets start from random constants
    return E4T(base, class_word, token)


def train(model, pictures, schedule, run):
    try:
        steps = list(pretrain_on(Accelerator(cpu=True), model, pictures, schedule, run))
    finally:
        model.detach()
    return Trained(steps, load_file(run.path))


def trained(base, folder, out, resume=False, **changes):
    pictures = Pictures(folder, seed=SCHEDULE.seed)
    run = Run(out, save_every=2, resume=resume)
    return train(new_model(base), pictures, SCHEDULE.replace(**changes), run)


def learned(state):
    return {name: state[name] for name in state if not name.startswith("optimizer.")}


def test_the_schedules_lowest_timestep_holds_here_too(base, folder, tmp_path, monkeypatch):
    seen = []
    add_noise = base.add_noise

    def watched(latents, noise, t):
        seen.extend(t.tolist())
        return add_noise(latents, noise, t)

    monkeypatch.setattr(base, "add_noise", watched)
    trained(base, folder, tmp_path / "high", steps=2, t_min=700)
    assert len(seen) == 2 * SCHEDULE.batch
    assert min(seen) >= 700


def test_two_processes_give_the_parameters_of_one(base, folder, tmp_path):
    alone = learned(trained(base, folder, tmp_path / "one", steps=3).state)
    # torchrun is what `accelerate launch` starts on GPUs; for CPUs that wants MPI
    command = "-m torch.distributed.run --standalone --nproc-per-node=2 -m e4t_minimal pretrain"
    options = "--steps 3 --batch 4 --micro 1 --lr 1e-4 --offsets-lr 1e-4 --seed 3 --cpu"
    folders = ["--base", base.name, "--out", str(tmp_path / "two")]
    arguments = [*command.split(), str(folder), *options.split(), *folders]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    path = tmp_path / "two/state.safetensors"
    assert read_facts(path)["positions"] == [[0, 3]] * 2  # they were two
    both = learned(load_file(path))
    assert both.keys() == alone.keys()
    model = new_model(base)
    model.detach()
    assert len(alone) == len(model.parameters())  # nothing that learns is left out
    assert max((both[name] - alone[name]).abs().max() for name in alone) < 1e-5
    assert (tmp_path / "two/model/e4t.json").exists()


def test_autocast_lets_all_gradients_through(base, folder):
    """Its cache, where it is on, holds copies of weights from where no gradients were wanted."""
    model = new_model(base)
    pictures = Pictures(folder, seed=SCHEDULE.seed)
    data = prepare(model, pictures.take(2), ["a photo of S*"] * 2)
    drawn = draw_batch(model, data, SCHEDULE.replace(batch=2), 0)
    torch.nn.init.normal_(model.encoder.join[-1].weight, std=0.1)
    learner = Learner(model, {"l2": 0.01})
    found = {}
    for half in (False, True):
        learner.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = learner(*drawn)
        losses["total"].backward()
        found[half] = {name: p.grad.clone() for name, p in learner.named_parameters()}
    model.detach()
    for name, wanted in found[False].items():
        got, wanted = found[True][name].flatten(), wanted.flatten()
        if wanted.norm() > 1e-6:
            assert torch.cosine_similarity(got, wanted, dim=0) > 0.9, name


@pytest.mark.parametrize("part", ["encoder", "offsets"])
def test_something_is_learned(base, folder, tmp_path, part):
    start = trained(base, folder, tmp_path / "start", steps=1, lr=0.0, offsets_lr=0.0).state
    end = trained(base, folder, tmp_path / "end", steps=3).state
    changes = [(end[name] - start[name]).abs().max() for name in end if name.startswith(part)]
    assert max(changes) > 1e-4


def test_a_stopped_run_goes_on_exactly(base, folder, tmp_path):
    whole = trained(base, folder, tmp_path / "whole", steps=4)
    trained(base, folder, tmp_path / "parts", steps=2)
    rest = trained(base, folder, tmp_path / "parts", resume=True, steps=4)
    assert [step.index for step in rest.steps] == [2, 3]
    assert rest.steps[-1].losses == whole.steps[-1].losses
    assert rest.state.keys() == whole.state.keys()
    assert all(torch.equal(rest.state[name], whole.state[name]) for name in whole.state)


def test_without_a_run_nothing_is_written(base, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = new_model(base)
    pictures = Pictures(folder, seed=SCHEDULE.seed)
    steps = pretrain_on(Accelerator(cpu=True), model, pictures, SCHEDULE.replace(steps=1))
    assert [step.index for step in steps] == [0]
    model.detach()
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def stopped(base, folder, tmp_path_factory):
    """The folder of a run that was stopped after one step."""
    out = tmp_path_factory.mktemp("stopped")
    trained(base, folder, out, steps=1)
    return out


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch", 2),
        ("lr", 1e-3),
        ("offsets_lr", 1e-3),
        ("weights", {"l2": 0.5}),
        ("t_min", 100),
        ("seed", 4),
    ],
)
def test_another_schedule_is_refused(base, folder, stopped, name, value):
    with pytest.raises(ValueError, match=f"{name} .*now .*go on with the same"):
        trained(base, folder, stopped, resume=True, **{"steps": 2, name: value})


@pytest.mark.parametrize("name, value", [("micro", 2), ("steps", 3)])
def test_steps_and_micro_may_change(base, folder, tmp_path, name, value):
    trained(base, folder, tmp_path, steps=1)
    trained(base, folder, tmp_path, resume=True, **{"steps": 2, name: value})


@pytest.mark.parametrize(
    "name, model_options, base_options, picture_options",
    [
        ("class word", {"class_word": "robot"}, {}, {}),
        ("token", {"token": "X*"}, {}, {}),
        ("dtype", {}, {"dtype": torch.bfloat16}, {}),
        ("resolution", {}, {"resolution": 64}, {}),
        ("streaming", {}, {}, {"streaming": True}),
    ],
)
def test_another_start_is_refused(
    base, folder, stopped, name, model_options, base_options, picture_options
):
    own_base = load_base(base.name, **base_options) if base_options else base
    model = new_model(own_base, **model_options)
    pictures = Pictures(folder, seed=SCHEDULE.seed, **picture_options)
    run = Run(stopped, resume=True)
    with pytest.raises(ValueError, match=f"{name} .*now .*go on with the same"):
        train(model, pictures, SCHEDULE.replace(steps=2), run)


def test_other_pictures_and_another_base_are_refused(base, folder, stopped, tmp_path):
    draw(identity("face", "train", 0), Scene())[0].save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="a folder of 10 pictures.*now .*1 pictures"):
        trained(base, tmp_path, stopped, resume=True, steps=2)
    another = replace(base, name="another")
    with pytest.raises(ValueError, match=f"base '{base.name}'.*now 'another'"):
        trained(another, folder, stopped, resume=True, steps=2)


@pytest.mark.parametrize("content", [b"half a file", b""])
def test_a_damaged_state_is_refused(base, folder, tmp_path, content):
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        trained(base, folder, tmp_path, resume=True, steps=1)
    with pytest.raises(ValueError, match="is damaged"):
        Run(tmp_path, resume=True).started_with()


@pytest.mark.parametrize(
    "change",
    [
        *({"facts": {name: None}} for name in ("step", "positions", "settings", "optimizer")),
        {"facts": {"step": -5}},
        {"facts": {"step": "1"}},
        {"facts": {"step": float("nan")}},
        {"facts": {"positions": []}},
        {"facts": {"positions": [[0, -1]]}},
        {"facts": {"positions": [3]}},
        {"facts": {"scaler": {"scale": 2.0}}},
        {"facts": {"settings": {}}},
        {"facts": {"settings": []}},
        {"drop": "optimizer"},
        {"drop": "exp_avg_sq"},
        {"drop": "encoder.join"},
        {"drop": "offsets"},
        {"encoder.more": torch.ones(2)},
        {"optimizer.0.exp_avg": torch.ones(1)},
        {"encoder.join.2.bias": torch.full((24,), float("nan"))},
        {"encoder.join.2.bias": torch.zeros(24).half()},
    ],
    ids=str,
)
def test_a_state_that_lacks_something_is_refused(base, folder, stopped, tmp_path, change):
    shutil.copy(stopped / "state.safetensors", tmp_path)
    rewritten(tmp_path / "state.safetensors", **change)
    with pytest.raises(ValueError, match="is damaged, or was made with another version"):
        trained(base, folder, tmp_path, resume=True, steps=2)


def test_a_state_without_a_scaler_is_refused(base, folder, stopped, tmp_path):
    shutil.copy(stopped / "state.safetensors", tmp_path)
    rewritten(tmp_path / "state.safetensors", facts={"scaler": None})
    with pytest.raises(ValueError, match="scaler: Field required"):
        trained(base, folder, tmp_path, resume=True, steps=2)


@pytest.mark.parametrize("name", ["seed", "batch", "lr", "weights", "processes", "pictures"])
def test_a_state_whose_settings_lack_something_is_refused(base, folder, stopped, tmp_path, name):
    shutil.copy(stopped / "state.safetensors", tmp_path)
    settings = read_facts(stopped / "state.safetensors")["settings"]
    del settings[name]
    rewritten(tmp_path / "state.safetensors", {"settings": settings})
    with pytest.raises(ValueError, match=f"was made with {name} None .now "):
        trained(base, folder, tmp_path, resume=True, steps=2)


def test_a_run_does_not_get_shorter(base, folder, tmp_path):
    trained(base, folder, tmp_path, steps=2)
    with pytest.raises(ValueError, match="has done 2 steps already"):
        trained(base, folder, tmp_path, resume=True, steps=1)


def test_a_state_of_another_version_is_refused(base, folder, tmp_path):
    optimizer = torch.optim.AdamW([torch.zeros(1)])
    save_state(tmp_path / "state.safetensors", {}, optimizer, step=1, batch=4)
    with pytest.raises(ValueError, match="another version"):
        trained(base, folder, tmp_path, resume=True, steps=2)


def test_micro_batches_of_a_process_change_nothing(base, folder, tmp_path):
    whole = learned(trained(base, folder, tmp_path / "whole", steps=1, micro=None).state)
    parts = trained(base, folder, tmp_path / "parts", steps=1, micro=3).state  # 3 pictures and 1
    assert max((whole[name] - parts[name]).abs().max() for name in whole) < 1e-5


def batches(pictures, batch, steps):
    """The pictures' bytes, batch by batch."""
    return [[picture.tobytes() for picture in pictures.take(batch)] for _ in range(steps)]


@pytest.mark.parametrize("streaming", [False, True])
def test_all_pictures_come_and_the_broken_one_is_passed_over(folder, streaming):
    # 16 of 11: into the next epoch
    found = batches(Pictures(folder, streaming=streaming, seed=1), 4, 4)
    assert len({picture for batch in found for picture in batch}) == 10
    assert batches(Pictures(folder, streaming=streaming, seed=2), 4, 4) != found


def test_processes_share_every_batch(folder):
    whole = batches(Pictures(folder, seed=1), 4, 2)
    first = batches(Pictures(folder, seed=1, rank=0, world=2), 4, 2)
    second = batches(Pictures(folder, seed=1, rank=1, world=2), 4, 2)
    for all_four, a, b in zip(whole, first, second, strict=True):
        assert all_four == [a[0], b[0], a[1], b[1]]


@pytest.mark.parametrize("streaming", [False, True])
def test_no_picture_is_taken_by_two_processes(folder, streaming):
    first = Pictures(folder, streaming=streaming, seed=1, rank=0, world=2)
    second = Pictures(folder, streaming=streaming, seed=1, rank=1, world=2)
    (mine,), (yours,) = batches(first, 4, 1), batches(second, 4, 1)
    assert not set(mine) & set(yours)


@pytest.mark.parametrize("streaming", [False, True])
def test_seek_goes_on(folder, streaming):
    whole = batches(Pictures(folder, streaming=streaming, seed=1), 4, 4)
    first = Pictures(folder, streaming=streaming, seed=1)
    batches(first, 4, 3)
    again = Pictures(folder, streaming=streaming, seed=1)
    again.seek(first.position)
    assert batches(again, 4, 1) == whole[3:]


def test_a_row_without_a_picture_is_passed_over(folder):
    pictures = Pictures(folder)
    empty = pictures.rows.select([0]).map(lambda row: {"image": None})
    pictures.rows = datasets.concatenate_datasets([pictures.rows, empty])
    (found,) = batches(pictures, 12, 1)
    (expected,) = batches(Pictures(folder), 11, 1)
    assert set(found) == set(expected)


def test_an_optimizer_may_count_in_plain_numbers(tmp_path):
    """As 8-bit Adam does, which this machine cannot run."""
    parameter = torch.nn.Parameter(torch.ones(2))
    one = torch.optim.SGD([parameter])
    other = torch.optim.SGD([parameter])
    one.state[parameter] = {"step": 7, "average": torch.ones(2)}
    save_state(tmp_path / "state.safetensors", {}, one, seed=3)
    assert load_state(tmp_path / "state.safetensors", other, {}) == {}
    assert read_facts(tmp_path / "state.safetensors") == {"seed": 3}
    assert other.state[parameter]["step"] == 7
    assert torch.equal(other.state[parameter]["average"], torch.ones(2))


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        Pictures(tmp_path)
    (tmp_path / "x.png").write_text("not a picture")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="1 left out: x.png"):
            Pictures(tmp_path, streaming=streaming).take(1)
    (tmp_path / "x.png").unlink()
    Image.new("RGB", (64, 64)).save(tmp_path / "y.png")
    with pytest.raises(ValueError, match="multiple of 2"):
        Pictures(tmp_path, world=2).take(3)


def test_prompts_name_nobody_and_depend_on_the_step():
    first, second = prompts_of(0, 8, "S*"), prompts_of(1, 8, "S*")
    assert all("S*" in prompt for prompt in first + second)
    assert first != second
    assert first == prompts_of(0, 8, "S*")


def test_pictures_are_prepared_as_many_at_once_as_memory_allows(model, faces, monkeypatch):
    pictures = [picture for picture, _, _ in faces]
    whole = prepare(model, pictures, ["a photo of S*"] * 4)
    sizes = []
    encode = model.base.encode

    def counted(pixels):
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(model.base, "encode", counted)
    parts = prepare(model, pictures, ["a photo of S*"] * 4, at_once=3)
    assert sizes == [3, 1]
    assert torch.allclose(parts.latents, whole.latents, atol=1e-4)
    assert torch.allclose(parts.image_features, whole.image_features, atol=1e-4)
