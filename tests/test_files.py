"""Files that others wrote, and files that we write: whole or refused, whatever stops us."""

import ast
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from trying import record
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli.app import app
from e4t_minimal.cli.writing import readable, write_pictures
from e4t_minimal.evaluation.benchmark import Record
from e4t_minimal.evaluation.records import append_records, read_records
from e4t_minimal.evaluation.results import read_report
from e4t_minimal.evaluation.study import read_votes
from e4t_minimal.helpers.files import OWN, check_apart, check_writable, replacing, replacing_folder
from e4t_minimal.helpers.reading import DEEPEST, check_alike, parse_json, read_json, read_tensors
from e4t_minimal.helpers.stored import (
    NEW,
    StoredModel,
    check_target,
    read_config,
    read_model,
    write_model,
)
from e4t_minimal.model import E4T
from e4t_minimal.scaling.convert import CARD, PublicConfig, fold_public

PACKAGE = Path(__file__).resolve().parent.parent / "e4t_minimal"


def test_nothing_else_reads_what_others_may_have_written():
    """`json.loads`, `load_file` and their like are called in one file."""
    readers = {"json.load", "json.loads", "load_file", "torch.load", "safe_open", "np.load"}
    readers |= {"pickle.load", "pickle.loads", "safetensors.torch.load_file"}
    calling = set()
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if is_call(node)]
        if readers & {ast.unparse(call.func) for call in calls}:
            calling.add(path.name)
    assert calling == {"reading.py"}


def is_call(node):
    return isinstance(node, ast.Call)


CONFIG = {"base": "toy", "class_word": "face", "token": "S*", "encoder": {"kind": "e4t", "s": 0.1}}


def changed(**changes):
    return json.dumps(CONFIG | changes)


BAD_CARDS = {
    "a list": "[]",
    "a number": "3",
    "nothing": "",
    "half": changed()[:20],
    "no base": json.dumps({name: CONFIG[name] for name in ("class_word", "token", "encoder")}),
    "a base that is a number": changed(base=3),
    "an empty token": changed(token=""),
    "an encoder that is a list": changed(encoder=[1]),
    "lists in the encoder": changed(encoder={"width": [1]}),
    "an absurd resolution": changed(resolution=16_000_000),
    "a negative resolution": changed(resolution=-64),
    "half a pixel": changed(resolution=64.5),
    "NaN": changed(s=math.nan),
    "infinite": changed().replace("0.1", "1e999"),
    "hashes that are a list": changed(files=["encoder.safetensors"]),
    "deep": changed(more="DEEP").replace('"DEEP"', "[" * 40 + "]" * 40),
    "very deep": "[" * 200_000,
    "a number of 5,000 digits": changed().replace("0.1", "9" * 5000),
}


@pytest.mark.parametrize("text", BAD_CARDS.values(), ids=BAD_CARDS.keys())
def test_a_bad_card_is_refused(tmp_path, text):
    (tmp_path / "e4t.json").write_text(text)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))} is not an E4T folder"):
        read_config(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "not text"])
def test_what_is_no_text_file_is_refused(tmp_path, kind):
    path = tmp_path / "e4t.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not an E4T folder"):
        read_config(tmp_path)


def test_a_good_card_is_read_with_what_else_it_says(tmp_path):
    (tmp_path / "e4t.json").write_text(changed(resolution=64, note={"more": [1, None]}))
    assert read_config(tmp_path) == CONFIG | {"resolution": 64, "note": {"more": [1, None]}}


def test_depth_is_counted():
    parse_json("[" * DEEPEST + "]" * DEEPEST, "x")
    with pytest.raises(ValueError, match="x is no JSON that can be read .*in each other"):
        parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x")


RECORD = {"method": "LoRA", "person": 0, "steps": 5, "identity": 0.5, "identity_plain": 0.5}
RECORD |= {"identity_background": 0.5, "prompt": 0.5, "diversity": 0.1, "seconds": 1.0}
RECORD |= {"bytes": 10, "peak_megabytes": None, "commit": "abc"}
VOTE = {"voter": "me", "person": "one", "prompt": "p", "left": "a", "right": "b", "choice": "left"}
BAD_LINES = ["3", "[1]", "null", "NaN", "hello", '"{"', "{}", '{"method": "LoRA"}']


def without(record, name):
    return json.dumps({other: record[other] for other in record if other != name})


@pytest.mark.parametrize(
    "line",
    [
        *BAD_LINES,
        *(without(RECORD, name) for name in RECORD),
        json.dumps(RECORD | {"identity": math.nan}),
        json.dumps(RECORD | {"identity": "0.5"}),
        json.dumps(RECORD | {"identity": None}),
        json.dumps(RECORD | {"person": -1}),
        json.dumps(RECORD | {"steps": 1.5}),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match="line 2 of .*bench.jsonl"):
        read_records(path, Record)


@pytest.mark.parametrize(
    "line",
    [*BAD_LINES, *(without(VOTE, name) for name in VOTE), json.dumps(VOTE | {"choice": "middle"})],
)
def test_a_line_that_is_no_vote_is_named(tmp_path, line):
    path = tmp_path / "votes.jsonl"
    path.write_text("\n" + line + "\n" + json.dumps(VOTE) + "\n")
    with pytest.raises(ValueError, match="line 2 of .*votes.jsonl"):
        read_votes(path)


@pytest.mark.parametrize("cut", range(1, len(json.dumps(RECORD)), 7))
def test_a_line_that_a_kill_has_cut_costs_that_line_only(tmp_path, cut):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD)[:cut])
    append_records(path, [RECORD])
    assert [record.model_dump() for record in read_records(path, Record)] == [RECORD, RECORD]


def test_a_record_that_is_no_json_is_not_begun(tmp_path):
    path = tmp_path / "x.jsonl"
    for bad in (math.nan, object()):
        with pytest.raises((ValueError, TypeError)):
            append_records(path, [{"a": 1}, {"a": bad}])
    assert not path.exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"methods": 3}', '{"methods": {"E4T": {}}}'])
def test_a_report_without_methods_is_refused(tmp_path, text):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(ValueError, match="bench.json does not hold what it should"):
        read_report(tmp_path / "bench.json")


def test_a_report_counts_steps_in_numbers(tmp_path):
    report = {"methods": {"E4T": {"steps": {"10": {"identity": 1}}, "what": "x"}}, "machine": {}}
    (tmp_path / "bench.json").write_text(json.dumps(report))
    found = read_report(tmp_path / "bench.json")
    assert found["methods"]["E4T"] == {"steps": {10: {"identity": 1}}, "what": "x"}
    assert found["machine"] == {}


ONES = torch.ones(2, 3)
BAD_TENSORS = {
    "a list": [ONES],
    "a tensor": ONES,
    "keys that are numbers": {0: ONES},
    "numbers": {"a": 1.0},
    "NaN": {"a": ONES * math.nan},
    "infinite": {"a": ONES.half() * 1e6},
    "a few numbers that say they are many": {"a": torch.ones(1).expand(1_000_000, 1_000_000)},
    "sparse": {"a": ONES.to_sparse()},
    "code": {"a": os.system},
}


@pytest.mark.parametrize("content", BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_a_pt_file_that_holds_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"half a file", b"\x80\x02}", b"\xff" * 100])
def test_a_damaged_file_of_tensors_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_tensors(tmp_path / name)


def test_tensors_come_from_regular_files_alone(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    for path in (tmp_path / "x.safetensors", tmp_path):
        with pytest.raises(ValueError, match="is no regular file"):
            read_tensors(path)


@pytest.mark.parametrize(
    "found, sentence",
    [
        ({}, "1 are missing"),
        ({"a": ONES, "b": ONES}, "1 are too many"),
        ({"a": ONES[:1]}, r"\[1, 3\]"),
        ({"a": ONES[0]}, r"\[3\]"),
        ({"a": ONES.half()}, "float16"),
        ({"a": ONES.int()}, "int32"),
    ],
)
def test_other_tensors_than_there_should_be_are_named(found, sentence):
    check_alike("it", {"a": ONES}, {"a": ONES + 1})
    with pytest.raises(ValueError, match=sentence):
        check_alike("it", found, {"a": ONES})


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"domain_class_token": 3}', '{"pretrained_args": []}']
)
def test_a_bad_config_of_a_public_checkpoint_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_json(tmp_path / "config.json", PublicConfig)


def test_public_offsets_that_would_have_to_be_repeated_are_refused():
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.wo_q"
    sizes = {"linear1": (3, 2), "linear2": (4, 2), "linear_column": (3, 3), "linear_row": (4, 4)}
    good = {f"{layer}.v": torch.ones(2)}
    for linear, size in sizes.items():
        good[f"{layer}.{linear}.weight"] = torch.ones(size)
        good[f"{layer}.{linear}.bias"] = torch.ones(size[0])
    assert len(fold_public(good)) == 1
    with pytest.raises(ValueError, match="nothing to import"):
        fold_public({})
    for name in good:
        for wrong in (torch.ones(1), torch.ones(1, 1), torch.tensor(1.0)):
            with pytest.raises(ValueError, match=r"mid_block.*attn1\.to_q do not fit"):
                fold_public(good | {name: wrong})


@pytest.fixture
def copy(tmp_path):
    """A copy of a shipped E4T."""
    shutil.copytree(DATA / "e4t-face", tmp_path / "copy")
    return tmp_path / "copy"


def halved(tensor):
    return tensor[: len(tensor) // 2]


@pytest.mark.parametrize("file", ["encoder.safetensors", "offsets.safetensors"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor * math.nan,
        lambda tensor: tensor * math.inf,
        lambda tensor: tensor[:1],
        halved,
        lambda tensor: tensor[None],
        lambda tensor: tensor.int(),
    ],
    ids=["NaN", "infinite", "height 1", "half as high", "one dimension more", "whole numbers"],
)
def test_tensors_that_are_not_as_the_base_needs_are_refused(base, copy, file, change):
    tensors = read_tensors(copy / file)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, copy / file)
    with pytest.raises(ValueError, match="is damaged|another U-Net"):
        E4T.from_pretrained(copy, base)


@pytest.mark.parametrize("encoder", [{"width": 2**16}, {"vision_width": 10**12}])
def test_absurd_sizes_are_refused_before_memory_is_asked_for(base, copy, encoder):
    config = json.loads((copy / "e4t.json").read_text())
    config["encoder"] |= encoder
    (copy / "e4t.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is damaged"):
        E4T.from_pretrained(copy, base)


def stored(value, picture=True, **more):
    tensors = {"a": torch.full((2, 3), float(value))}
    image = Image.new("RGB", (8, 8), (value, 0, 0)) if picture else None
    return StoredModel(CONFIG | {"value": value} | more, tensors, tensors, image)


def value_of(found):
    """The one number that everything in an E4T folder says; AssertionError if it is two."""
    values = {found.config["value"]}
    for tensors in (found.encoder, found.offsets):
        values |= set(tensors["a"].flatten().tolist())
    if found.picture is not None:
        values.add(found.picture.getpixel((0, 0))[0])
    (value,) = values
    assert (found.picture is not None) == found.config["has_picture"]
    return value


def save(folder, value, picture):
    write_model(folder, stored(value, picture, has_picture=picture))


@pytest.mark.parametrize("name", ["encoder.safetensors", "offsets.safetensors", "picture.png"])
@pytest.mark.parametrize("change", ["mixed", "gone", "shortened"])
def test_files_of_two_versions_are_not_taken_for_one(tmp_path, name, change):
    save(tmp_path / "one", 1, True)
    save(tmp_path / "two", 2, True)
    path = tmp_path / "one" / name
    if change == "mixed":
        shutil.copy(tmp_path / "two" / name, path)
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"damaged .*{name} is not the one"):
        read_model(tmp_path / "one")


def test_what_cannot_be_stored_is_not_written(tmp_path):
    save(tmp_path / "one", 1, True)
    for bad in (math.nan, math.inf):
        for part in ("encoder", "offsets"):
            wrong = stored(2)
            getattr(wrong, part)["a"][0] = bad
            with pytest.raises(ValueError, match="not finite, or too large"):
                write_model(tmp_path / "one", wrong)
            with pytest.raises(ValueError, match="not finite, or too large"):
                write_model(tmp_path / "new", wrong)
    with pytest.raises(ValueError):
        write_model(tmp_path / "new", stored(2, note=math.nan))
    with pytest.raises(ValueError, match="resolution"):  # of the card, not read again
        write_model(tmp_path / "one", stored(2, resolution="x"))
    with pytest.raises(ValueError, match="'class_word' is the model's own entry"):
        write_model(tmp_path / "one", stored(2), class_word="robot")
    assert value_of(read_model(tmp_path / "one")) == 1
    assert os.listdir(tmp_path) == ["one"]


def test_a_card_may_say_more(tmp_path):
    write_model(tmp_path / "one", stored(1), seed=np.int64(3), note="hers")
    config = read_model(tmp_path / "one").config
    assert (config["seed"], config["note"]) == (3, "hers")


def killed_at(point, function):
    """Run a function in a child that dies, as by SIGKILL, before its n-th action on files.

    Whether it died.
    """
    child = os.fork()
    if child == 0:
        actions = iter(range(1, 10_000))

        def count(event, _):
            acts = event in ("open", "shutil.rmtree", "tempfile.mkdtemp")
            if (acts or event.startswith("os.")) and next(actions) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills need POSIX")
@pytest.mark.parametrize(
    "before, after", [(None, True), (None, False), (True, True), (True, False), (False, True)]
)
def test_a_save_that_is_killed_at_any_point_leaves_one_whole_version(tmp_path, before, after):
    """before, after: whether the version has a picture; None: there was none."""
    folder, point, died = tmp_path / "me", 0, True
    seen = set()
    while died:
        point += 1
        shutil.rmtree(folder, ignore_errors=True)
        if before is not None:
            save(folder, 1, before)
            (folder / "pictures").mkdir()
            (folder / "pictures" / "mine.png").write_text("mine")
        died = killed_at(point, lambda: save(folder, 2, after))
        try:
            seen.add(value_of(read_model(folder)))
        except ValueError as error:
            assert "not an E4T folder" in str(error)
            seen.add(None)
        record("a save that is killed", "ok")
        if point % 4 == 0:  # the same command may run again
            save(folder, 2, after)
            assert value_of(read_model(folder)) == 2
            left = set(os.listdir(folder))
            assert ("pictures" in left, "picture.png" in left) == (before is not None, after)
            assert not [name for name in left if name.startswith(OWN)]
    assert point > 15
    assert seen == {None if before is None else 1, 2}
    assert os.listdir(tmp_path) == ["me"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits need POSIX")
def test_a_full_disk_costs_nothing(tmp_path):
    import resource

    save(tmp_path / "me", 1, True)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        tensors = {"a": torch.ones(10_000)}
        try:
            write_model(tmp_path / "me", StoredModel(CONFIG, tensors, tensors))
        except (OSError, SafetensorError):
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert value_of(read_model(tmp_path / "me")) == 1
    assert not [name for name in os.listdir(tmp_path / "me") if name.startswith(OWN)]


def test_a_half_folder_of_ours_is_ours(tmp_path):
    (tmp_path / "me" / f"{OWN}{NEW}-abcdefgh").mkdir(parents=True)
    save(tmp_path / "me", 3, False)
    assert not [name for name in os.listdir(tmp_path / "me") if name.startswith(OWN)]
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "picture.png").write_text("yours")
    with pytest.raises(ValueError, match="nothing was written"):
        save(tmp_path / "yours", 3, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children need POSIX")
def test_two_that_write_to_one_target_do_not_mix(tmp_path):
    save(tmp_path / "me", 0, True)
    children = []
    for value in (1, 2):
        children.append(os.fork())
        if children[-1] == 0:
            for i in range(15):
                save(tmp_path / "me", value, i % 2 == 0)
            os._exit(0)
    alive = set(children)
    while alive:
        assert value_of(read_model(tmp_path / "me")) in (0, 1, 2)
        for child in list(alive):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                alive.remove(child)
    assert os.listdir(tmp_path) == ["me"]


def test_a_file_is_replaced_as_a_whole_and_what_kills_left_goes(tmp_path):
    path = tmp_path / "new" / "a.json"
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with replacing(path) as new:
        new.write_text("whole")
    (path.parent / f"{OWN}a.json-abcd_fgh").mkdir()
    (path.parent / f"{OWN}a.json-of-another-abcd_fgh").mkdir()
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "whole"
    assert sorted(os.listdir(path.parent)) == [f"{OWN}a.json-of-another-abcd_fgh", "a.json"]
    with pytest.raises(ValueError, match="is a folder"), replacing(tmp_path):
        pass


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("one", "two"):
        with replacing_folder(tmp_path / "it") as new:
            (new / f"{text}.txt").write_text(text)
        assert os.listdir(tmp_path / "it") == [f"{text}.txt"]
        with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "it") as new:
            (new / "three.txt").write_text("three")
            raise ZeroDivisionError
        assert os.listdir(tmp_path / "it") == [f"{text}.txt"]
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask, mode):
    """safetensors alone would give every file to its owner only."""
    before = os.umask(umask)
    try:
        save(tmp_path / "me", 1, True)
        with replacing(tmp_path / "one.safetensors") as new:
            save_file({"a": torch.ones(1)}, new)
        with replacing_folder(tmp_path / "folder") as new:
            save_file({"a": torch.ones(1)}, new / "model.safetensors")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*")}
    names = {"encoder.safetensors", "offsets.safetensors", "picture.png", "e4t.json"}
    assert modes == dict.fromkeys({*names, "one.safetensors", "model.safetensors"}, mode)


def test_who_waits_too_long_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("e4t_minimal.helpers.files.PATIENCE", 0.1)
    code = "import sys, time\nfrom e4t_minimal.helpers.files import replacing\n"
    code += "with replacing(sys.argv[1]) as new:\n print(flush=True)\n time.sleep(60)"
    with started(code, tmp_path / "a.json") as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="Another process"), replacing(tmp_path / "a.json"):
            pass
        other.kill()


def started(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_sentence_and_leaves_nothing(tmp_path, number):
    code = "import signal, sys, time\nfrom e4t_minimal.helpers.errors import one_sentence\n"
    # a program started in the background of a shell would ignore SIGINT
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "with one_sentence('e4t'):\n from e4t_minimal.helpers.files import replacing\n"
    code += " with replacing(sys.argv[1]) as new:\n"
    code += "  new.write_text('half')\n  print(flush=True)\n  time.sleep(60)"
    with started(code, tmp_path / "a.json") as program:
        program.stdout.readline()
        program.send_signal(number)
        _, said = program.communicate(timeout=60)
    assert program.returncode == 128 + number
    assert said.startswith(f"e4t: stopped by {number.name}")
    assert said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_signal_during_the_first_import_ends_in_a_sentence(tmp_path):
    program = started("from e4t_minimal.__main__ import main; main()")
    with program:
        time.sleep(0.5)
        program.send_signal(signal.SIGTERM)
        out, said = program.communicate(timeout=60)
    assert "Traceback" not in said
    assert program.returncode in (128 + signal.SIGTERM, -signal.SIGTERM, 0, 2)


ERRORS = {
    "bad value": (ValueError("no such thing"), 2, "no such thing"),
    "full disk": (OSError(28, "No space left on device"), 2, "No space left"),
    "full disk, tensors": (SafetensorError("I/O error: no space"), 2, "file of tensors"),
    "no memory": (MemoryError(), 2, "not enough memory"),
    "no memory on the CPU": (RuntimeError("can't allocate memory: 4 TB"), 2, "not enough memory"),
    "no memory on the GPU": (torch.OutOfMemoryError("CUDA out of memory"), 2, "not enough memory"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "stopped by SIGINT"),
}


def test_another_fault_of_the_gpu_is_no_lack_of_memory(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("e4t_minimal.evaluation.speed.measure", fail)
    done = CliRunner().invoke(app, ["speed"])
    assert "illegal memory access" in str(done.exception)
    assert "not enough memory" not in done.stderr


@pytest.mark.parametrize("error, status, sentence", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("program", ["e4t", "training"])
def test_what_goes_wrong_ends_in_a_sentence(monkeypatch, program, error, status, sentence):
    from e4t_minimal.training import __main__ as training

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("e4t_minimal.evaluation.speed.measure", fail)
    monkeypatch.setattr("e4t_minimal.training.pack.faces", fail)
    if program == "e4t":
        done = CliRunner().invoke(app, ["speed"])
    else:
        done = CliRunner().invoke(training.app, ["pack", "faces"])
    assert done.exit_code == status
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    record("an error in a program", "clear")


def test_an_error_of_ours_stays_a_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("e4t_minimal.evaluation.speed.measure", fail)
    assert isinstance(CliRunner().invoke(app, ["speed"]).exception, RuntimeError)


def test_a_report_that_is_not_a_number_is_no_success(monkeypatch, tmp_path):
    monkeypatch.setattr("e4t_minimal.evaluation.speed.measure", lambda *_: {"ratio": math.nan})
    done = CliRunner().invoke(app, ["speed", "--json", str(tmp_path / "speed.json")])
    assert done.exit_code == 2
    assert os.listdir(tmp_path) == []


@pytest.fixture
def targets(tmp_path, monkeypatch, portrait):
    """A folder of things that one might write to by mistake; nothing is loaded or trained."""
    monkeypatch.chdir(tmp_path)
    for name in ("load_base", "E4T"):
        module = "base" if name == "load_base" else "model"
        monkeypatch.setattr(f"e4t_minimal.{module}.{name}", lambda *_, **__: pytest.fail("loaded"))
    shutil.copytree(DATA / "e4t-face", "domain")
    save(tmp_path / "concept", 1, True)
    Path("a-file").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("photos").mkdir()
    shutil.copy(portrait, "photos/me.png")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "personalize portrait.png --weights domain --out domain",
        "personalize portrait.png --weights domain --out .",
        "personalize portrait.png --weights domain --out a-file",
        "personalize portrait.png --weights domain --out a-file/me",
        "personalize portrait.png --weights domain --out loop",
        "personalize portrait.png --weights domain --out loop/me",
        "personalize portrait.png --weights domain --out photos",
        "personalize portrait.png --weights domain --out portrait.png",
        "personalize concept/picture.png --weights domain --out concept",
        "personalize portrait.png --mask concept/picture.png --out concept",
        "demo portrait.png --out portrait.png",
        "demo portrait.png --out photos",
        "demo portrait.png --out loop/demo.png",
        "export concept --out concept",
        "export concept --out photos",
        "export concept --out a-file",
        "import-weights photos --base toy --class-word face --out photos",
        "evaluate --weights domain --json domain/e4t.json --identities 2",
        "evaluate --weights domain --json photos --identities 2",
        "evaluate --weights domain --json a-file/x.json --identities 2",
        "evaluate --weights photos --identities 2",
        "speed --json a-file/x.json",
        "plan --base toy --json photos",
        "pretrain photos --out photos --cpu",
        "pretrain photos --out domain --weights domain --cpu",
        "pretrain photos --out a-file --cpu",
        "pretrain photos --out loop --cpu",
        "bench --domain cat",
        "bench --weights cat",
        "bench --identities 999999",
        "bench --out a-file",
        "bench --out loop",
    ],
)
def test_a_bad_target_is_told_before_anything_is_loaded(targets, command):
    before = snapshot(targets)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("e4t: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert snapshot(targets) == before
    record("a bad target", "clear")


def snapshot(folder):
    """{path: content} of everything in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {path: path.read_bytes() if path.is_file() else None for path in files}


def test_a_target_around_a_source_is_refused_and_one_beside_it_is_not(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for target in (tmp_path / "a" / "b", tmp_path / "a", tmp_path):
        with pytest.raises(ValueError, match=r"what is read \(weights\)"):
            check_apart(target, weights=tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match=r"what is read \(weights\)"):
        check_apart(tmp_path / "link", weights=tmp_path / "a")
    check_apart(tmp_path / "a" / "c", weights=tmp_path / "a" / "b", base=None)
    check_apart(tmp_path / "a" / "b" / "c", weights=tmp_path / "a" / "b")


def test_what_can_be_made_is_allowed_and_not_made(tmp_path):
    check_writable(tmp_path / "x" / "y" / "z")
    assert check_target(tmp_path / "x" / "y") == tmp_path / "x" / "y"
    assert os.listdir(tmp_path) == []


def test_no_picture_is_overwritten(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    write_pictures(tmp_path, [red, red], ["a photo of S*", "S* in space"])
    write_pictures(tmp_path, [blue], ["a photo of S*"])
    names = ["00-a-photo-of-S.png", "01-S-in-space.png", "02-a-photo-of-S.png"]
    assert sorted(os.listdir(tmp_path)) == names
    colors = [Image.open(tmp_path / name).getpixel((0, 0)) for name in names]
    assert colors == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize(
    "prompt, name",
    [
        ("a photo of S* on the beach", "a-photo-of-S-on-the-beach"),
        ("фото S* на пляже", "фото-S-на-пляже"),
        ("海辺のS*の写真", "海辺のS-の写真"),
        ("समुद्र तट पर S*", "समुद्र-तट-पर-S"),
        ("ภาพถ่ายของ S*", "ภาพถ่ายของ-S"),
        ("صورة S* على الشاطئ", "صورة-S-على-الشاطئ"),
        ("cafe\u0301 S*", "café-S"),
        ("../../etc/S*", "etc-S"),
        ("a\0b\nc/d\\e:f", "a-b-c-d-e-f"),
        ("\udcff *", "picture"),
        ("", "picture"),
    ],
)
def test_a_name_says_the_prompt_in_any_script(prompt, name):
    assert readable(prompt) == name


@pytest.mark.parametrize("letter", ["x", "ж", "写", "\U0001f1e6x"])
def test_a_name_is_never_too_long_for_a_file(tmp_path, letter):
    write_pictures(tmp_path, [Image.new("RGB", (4, 4))], [letter * 500])
    (name,) = os.listdir(tmp_path)
    assert 100 < len(name.encode()) < 200


def test_a_relative_base_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "bases" / "sd").mkdir(parents=True)
    (tmp_path / "bases" / "sd" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    write_model("outputs/me", stored(1, base="bases/sd"))
    written = json.loads(Path("outputs/me/e4t.json").read_text())
    assert written["base"] == str(tmp_path / "bases" / "sd")
    Path("outputs/me/e4t.json").write_text(json.dumps(written | {"base": "bases/sd"}))  # as once
    monkeypatch.chdir("/")
    assert read_config(tmp_path / "outputs/me")["base"] == str(tmp_path / "bases" / "sd")
    for base in ("toy", "somebody/sd", "/nowhere/sd"):
        write_model(tmp_path / "other", stored(1, base=base))
        assert read_config(tmp_path / "other")["base"] == base


@pytest.mark.parametrize(
    "base", ["/a b/sd", "/it's/sd", '/"q"/sd', "C:\\new\\toy", "/{x}/`y`/sd", "/a\nb", "/я/写"]
)
def test_the_code_of_an_export_is_valid_for_any_path(base):
    card = CARD.format(token='S"*', base=base, size=4)
    (code,) = re.findall("```python\n(.*?)\n```", card, re.DOTALL)
    assigned = next(node for node in ast.parse(code).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value) == (base, 'S"*')


class Schema(BaseModel):
    a: int


def test_a_schema_is_strict():
    assert parse_json('{"a": 1}', "x", Schema) == Schema(a=1)
    for text in ('{"a": "1"}', '{"a": 1.0}', '{"a": true}', "{}"):
        with pytest.raises(ValueError, match="x does not hold what it should: a: "):
            parse_json(text, "x", Schema)
