"""`e4t doctor` says ok where all is well, and what to do where it is not."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from e4t_minimal import DATA
from e4t_minimal.cli import doctor
from e4t_minimal.cli.app import app
from e4t_minimal.helpers.checksums import LIST, faults, read_checksums, write_checksums
from e4t_minimal.training.__main__ import app as training

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def lines_of(output):
    """{what: the line about it}; of several lines about one thing, the last."""
    return {line[4:].split()[0]: line for line in output.splitlines() if line[:2] in ("ok", "NO")}


def test_where_all_is_well_every_line_says_ok():
    done = run()
    assert done.exit_code == 0, done.output
    assert "NO  " not in done.output
    lines = lines_of(done.output)
    names = ("Python", "torch", "cores", "bf16", "accelerator", "memory", "weights", "drawing")
    for what in (*names, "diffusers", "transformers", "dicebear-core"):
        assert lines[what].startswith("ok")
    assert metadata.version("torch") in lines["torch"]
    assert "a face, in" in lines["drawing"]
    assert done.output.endswith("All is well.\n")


def test_the_list_names_every_shipped_file_but_the_cards():
    shipped = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.is_file()}
    cards = {name for name in shipped if name.endswith("README.md")}
    assert read_checksums(DATA).keys() == shipped - cards - {LIST}
    assert faults(DATA) == {}


def test_packing_writes_the_list(tmp_path, monkeypatch):
    for module in ("e4t_minimal", "e4t_minimal.training.pack"):
        monkeypatch.setattr(f"{module}.DATA", tmp_path)
    (tmp_path / "more.txt").write_text("more")
    done = CliRunner().invoke(training, ["pack", "faces"])
    assert done.exit_code == 0, done.output
    assert set(read_checksums(tmp_path)) == {"more.txt"} | {
        f"faces/face-{i:02d}.png" for i in range(8)
    }


def break_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    for name in ("a/model.safetensors", "b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"whole")
    write_checksums(tmp_path)
    return tmp_path


def test_every_file_that_is_not_whole_is_named(folder):
    (finding,) = doctor.weights(folder)
    assert not finding.advice
    break_a_byte(folder / "a/model.safetensors")
    (folder / "b.json").unlink()
    findings = list(doctor.weights(folder))
    assert [finding.found for finding in findings] == [
        f"{folder / 'a/model.safetensors'} is changed",
        f"{folder / 'b.json'} is missing",
    ]
    assert all("git checkout -- data_samples" in finding.advice for finding in findings)


@pytest.mark.parametrize("content", [None, b"", b"no list", b"\xff\xfe"])
def test_a_list_that_is_not_whole_is_told(folder, content):
    (folder / LIST).unlink()
    if content is not None:
        (folder / LIST).write_bytes(content)
    (finding,) = doctor.weights(folder)
    assert LIST in finding.found
    assert finding.advice


@pytest.mark.slow
def test_a_broken_weight_ends_with_status_1(tmp_path):
    """A copy of the whole, whose U-Net lost its end on the way: told twice, without a traceback."""
    for name in ("e4t_minimal", "data_samples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    unet = tmp_path / "data_samples/toy-sd/unet/diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1000])
    command = [sys.executable, "-m", "e4t_minimal", "doctor"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = lines_of(done.stdout)
    assert lines["weights"] == f"NO  {'weights':16}{unet} is changed"
    assert lines["drawing"].startswith("NO")
    assert lines["memory"].startswith("ok")
    assert done.stdout.count("-> Fetch it again") == 2
    assert "2 of these will not do" in done.stdout


@pytest.mark.parametrize(
    "versions, found, advice",
    [
        ({"torch": "1.13.1"}, "1.13.1, not >=", 'pip install "torch>='),
        ({"typer": None}, "missing", 'pip install "typer>='),
    ],
)
def test_a_package_that_will_not_do_is_told(monkeypatch, versions, found, advice):
    def version(name):
        if name not in versions:
            return metadata.version(name)
        if versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor, "metadata", SimpleNamespace(**vars(metadata)))
    monkeypatch.setattr(doctor.metadata, "version", version)
    wrong = [finding for finding in doctor.packages() if finding.advice]
    assert [finding.what for finding in wrong] == list(versions)
    assert wrong[0].found.startswith(found)
    assert advice in wrong[0].advice


def test_a_clone_that_is_not_installed_is_held_against_its_pyproject(monkeypatch):
    installed = {finding.what for finding in doctor.packages()}

    def version(name):
        if name == "e4t-minimal":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(doctor, "metadata", SimpleNamespace(**vars(metadata)))
    monkeypatch.setattr(doctor.metadata, "version", version)
    assert {finding.what for finding in doctor.packages()} == installed
    (_, found) = doctor.python()
    assert "not installed, used from" in found.found


def test_too_little_memory_is_told(monkeypatch):
    import psutil

    at_hand = SimpleNamespace(available=1e9, total=4e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: at_hand)
    (finding,) = doctor.memory()
    assert finding.found == "1.0 of 4.0 GB free"
    assert "Close other programs" in finding.advice


def test_a_check_that_breaks_off_stops_no_other(monkeypatch):
    def fail():
        raise ImportError("libtorch.so: no such file")

    for name in ("processor", "drawing"):
        monkeypatch.setattr(doctor, name, fail)
    done = run()
    assert done.exit_code == 1
    lines = lines_of(done.output)
    assert "ImportError: libtorch.so" in lines["processor"]
    assert lines["weights"].startswith("ok")
    assert "2 of these will not do" in done.output


@pytest.mark.parametrize("form", ["notebook", "code"])
def test_the_issue_forms_ask_for_the_doctors_output(form):
    text = (ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text("utf-8")
    fields = {field.get("id"): field for field in yaml.safe_load(text)["body"]}
    assert re.search("output of `.*e4t.* doctor`", fields["environment"]["attributes"]["label"])


def test_the_form_lists_every_notebook():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/notebook.yml").read_text("utf-8"))
    fields = {field.get("id"): field for field in form["body"]}
    numbers = [option[:2] for option in fields["notebook"]["attributes"]["options"]]
    assert numbers == sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
