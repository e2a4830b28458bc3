"""Two processes do what one does, and a stopped run goes on as if it had not stopped."""

import os
import subprocess
import sys

import datasets
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from e4t_minimal.scaling.checkpoint import load_state, save_state
from e4t_minimal.scaling.folders import Pictures, prompts_of
from e4t_minimal.scaling.distributed import pretrain_on
from e4t_minimal.model import E4T
from e4t_minimal.world import Scene, draw, identity

HOW = dict(
    batch=4, micro=1, lr=1e-4, offsets_lr=1e-4, seed=3
)  # a wrong gradient moves a parameter by about lr a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces")
    for i in range(10):
        draw(identity("face", "train", i), Scene())[0].save(path / f"{i:02d}.png")
    (path / "broken.png").write_text("not a picture")
    (path / "notes.txt").write_text("not meant to be one")
    return path


def run(base, folder, out, steps, resume=False, **how):
    """One process, in this one."""
    torch.manual_seed(HOW["seed"])
    model = E4T(base, "face")
    states = [
        {k: s[k] for k in ("step", "terms")}
        for s in pretrain_on(
            Accelerator(cpu=True),
            model,
            Pictures(folder, seed=HOW["seed"]),
            steps,
            folder=out,
            save_every=2,
            resume=resume,
            **HOW | how,
        )
    ]
    model.detach()
    return states, load_file(out / "state.safetensors")


def test_two_processes_give_the_parameters_of_one(base, folder, tmp_path):
    _, alone = run(base, folder, tmp_path / "one", 3)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in HOW.items()]
    # torchrun is what `accelerate launch` starts on GPUs; for CPUs that wants MPI
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "e4t_minimal",
        "pretrain",
        str(folder),
        "--steps=3",
        "--out",
        str(tmp_path / "two"),
        "--cpu",
        *options,
    ]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = load_file(tmp_path / "two/state.safetensors")
    assert (
        load_state(tmp_path / "two/state.safetensors", torch.optim.AdamW([torch.zeros(1)]))[1][
            "positions"
        ]
        == [[0, 3]] * 2
    )  # they were two
    learned = [name for name in alone if not name.startswith("optimizer.")]
    assert both.keys() == alone.keys() and len(learned) > 200
    torch.manual_seed(HOW["seed"])
    start = E4T(base, "face")
    start.detach()
    for part, now in (
        ("encoder", start.encoder.state_dict()),
        (
            "offsets",
            torch.nn.ModuleDict(
                {k.replace(".", "/"): v for k, v in start.offsets.items()}
            ).state_dict(),
        ),
    ):
        assert (
            max((alone[f"{part}.{name}"] - now[name]).abs().max() for name in now) > 1e-4
        )  # something was learned
    assert max((both[name] - alone[name]).abs().max() for name in learned) < 1e-5
    assert (tmp_path / "two/model/e4t.json").exists()


def test_a_stopped_run_goes_on_exactly(base, folder, tmp_path):
    whole, expected = run(base, folder, tmp_path / "whole", 4)
    run(base, folder, tmp_path / "parts", 2)
    rest, found = run(base, folder, tmp_path / "parts", 4, resume=True)
    assert [s["step"] for s in rest] == [2, 3] and rest[-1]["terms"]["loss"] == whole[-1]["terms"][
        "loss"
    ]
    assert found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in found
    )
    with pytest.raises(ValueError, match="go on with the same"):
        run(base, folder, tmp_path / "parts", 6, resume=True, batch=2)
    (tmp_path / "parts/state.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged"):
        run(base, folder, tmp_path / "parts", 6, resume=True)


def test_micro_batches_of_a_process_change_nothing(base, folder, tmp_path):
    _, whole = run(base, folder, tmp_path / "whole", 1, micro=None)
    _, parts = run(base, folder, tmp_path / "parts", 1, micro=3)  # 3 rows and 1
    assert all(
        (whole[name] - parts[name]).abs().max() < 1e-5
        for name in whole
        if not name.startswith("optimizer.")
    )


def names(pictures, batch, steps):
    return [[picture.tobytes() for picture in pictures.take(batch)] for _ in range(steps)]


@pytest.mark.parametrize("streaming", [False, True])
def test_processes_share_every_batch_and_seek_goes_on(folder, streaming):
    whole = names(
        Pictures(folder, streaming=streaming, seed=1), 4, 4
    )  # 16 of 11: into the next epoch
    assert (
        len({x for batch in whole for x in batch}) == 10
    )  # all of them; the broken one is passed over
    parts = [
        names(Pictures(folder, streaming=streaming, seed=1, rank=rank, world=2), 4, 2)
        for rank in range(2)
    ]
    if not streaming:  # a stream passes over the broken one in its own process
        assert [[x for pair in zip(a, b) for x in pair] for a, b in zip(*parts)] == whole[:2]
    assert not {x for batch in parts[0] for x in batch[:1]} & {
        x for batch in parts[1][:1] for x in batch
    }
    first = Pictures(folder, streaming=streaming, seed=1)
    names(first, 4, 3)
    again = Pictures(folder, streaming=streaming, seed=1)
    again.seek(first.position)
    assert names(again, 4, 1) == whole[3:]
    assert names(Pictures(folder, streaming=streaming, seed=2), 4, 4) != whole


def test_a_row_without_a_picture_is_passed_over(folder):
    pictures = Pictures(folder)
    pictures.rows = datasets.concatenate_datasets(
        [pictures.rows, pictures.rows.select([0]).map(lambda row: {"image": None})]
    )
    assert set(names(pictures, 12, 1)[0]) == set(names(Pictures(folder), 11, 1)[0])


def test_an_optimizer_may_count_in_plain_numbers(tmp_path):
    """As 8-bit Adam does, which this machine cannot run."""
    parameter = torch.nn.Parameter(torch.ones(2))
    one, other = torch.optim.SGD([parameter]), torch.optim.SGD([parameter])
    one.state[parameter] = {"step": 7, "average": torch.ones(2)}
    save_state(tmp_path / "state.safetensors", {}, one, seed=3)
    assert load_state(tmp_path / "state.safetensors", other) == ({}, {"seed": 3})
    assert other.state[parameter]["step"] == 7 and torch.equal(
        other.state[parameter]["average"], torch.ones(2)
    )


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        Pictures(tmp_path)
    (tmp_path / "x.png").write_text("not a picture")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="can be read"):
            Pictures(tmp_path, streaming=streaming).take(1)
    with pytest.raises(ValueError, match="multiple of 2"):
        Pictures(tmp_path, world=2).take(3)


def test_prompts_name_nobody_and_depend_on_the_step():
    some = [prompts_of(step, 8, "S*") for step in range(3)]
    assert (
        all("S*" in prompt for batch in some for prompt in batch)
        and some[0] != some[1]
        and some == [prompts_of(step, 8, "S*") for step in range(3)]
    )
