"""What happens on Colab: packages some months old, this one absent, an empty folder, a set-up cell.

Slow: packages are fetched, and every notebook starts in a new Python.
"""

import json
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
ABSENT = {"dicebear", "dicebear_core", "dicebear_schema", "dicebear_styles", "resvg_py"}
OLDER = ("ipywidgets==7.7.1",)  # Colab's; others are as old as is allowed
OLD = ("transformers", "diffusers", "accelerate", "peft")


def run(*command, cwd=None):
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    environment |= {"MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def older():
    """Requirements of pip: what is some months old on Colab."""
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    return [*OLDER, *(line for line in lines if line.split("==")[0] in OLD)]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment that has what Colab has, most of it borrowed from this one."""
    borrowed = tmp_path_factory.mktemp("borrowed")
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        package = re.split(r"[-.]", path.name)[0]
        ours = package in ABSENT | {"e4t_minimal", "_e4t_minimal", "ipywidgets"}
        if not ours and path.suffix != ".pth":
            (borrowed / path.name).symlink_to(path)
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": folder, "platbase": folder})
    (Path(paths["purelib"]) / "borrowed.pth").write_text(str(borrowed))
    python = Path(paths["scripts"]) / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    run(*pip, *older())
    return python


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The address of a repository that holds this working tree."""
    folder = tmp_path_factory.mktemp("repository")
    for path in runpy.run_path(str(ROOT / "tools/address.py"))["files_of"](ROOT):
        copy(path, folder / path.relative_to(ROOT))
    for path in (ROOT / "data_samples").rglob("*.safetensors"):  # which are no texts
        copy(path, folder / path.relative_to(ROOT))
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", *who, "commit", "--quiet", "--message", "All", cwd=folder)
    return folder.as_uri()


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def first_cells(path, repository):
    """(the set-up cell, the cell after it) of a notebook, as plain Python."""
    cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    tags = [cell["metadata"].get("tags", []) for cell in cells]
    (place,) = [i for i, found in enumerate(tags) if "setup" in found]
    setup, first = ("".join(cells[i]["source"]) for i in (place, place + 1))
    address = r'"https://github\.com/[\w.-]+/[\w.-]+"'
    assert len(re.findall(address, setup)) == 1
    first = "\n".join(line for line in first.splitlines() if not line.startswith("%"))
    return re.sub(address, f'"{repository}"', setup), first


def versions(python):
    code = "import json\nfrom importlib.metadata import distributions\n"
    # a wheel may write its name resvg-py or resvg_py
    code += "names = {d.name.lower().replace('_', '-'): d.version for d in distributions()}\n"
    code += "print(json.dumps(names))"
    return json.loads(run(python, "-c", code))


WHERE = """
import e4t_minimal, torch
print("e4t_minimal:", e4t_minimal.__file__)
print("torch:", torch.__version__, torch.__file__)
"""


def test_the_first_notebook_installs_what_is_missing_and_changes_nothing(
    python, repository, tmp_path
):
    before = versions(python)
    assert before["ipywidgets"] == "7.7.1"
    assert "e4t-minimal" not in before
    assert not {"dicebear-core", "resvg-py"} & before.keys()
    setup, first = first_cells(NOTEBOOKS[0], repository)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = run(python, "-c", setup + WHERE, cwd=tmp_path)
    after = versions(python)
    print(output)
    assert f"e4t_minimal: {tmp_path / 'e4t-minimal'}" in output
    changed = {name for name, number in after.items() if before.get(name) != number}
    assert changed <= {"dicebear-core", "dicebear-schema", "dicebear-styles", "resvg-py"}
    assert {"dicebear-core", "resvg-py"} <= changed
    assert before.items() <= after.items()
    assert first
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(f"set-up: {seconds:.0f} CPU seconds")
    assert seconds < 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_the_first_cells_of_every_notebook_run(python, repository, tmp_path, path):
    setup, first = first_cells(path, repository)
    output = run(python, "-c", f"{setup}\n{first}\n{WHERE}", cwd=tmp_path)
    assert f"e4t_minimal: {tmp_path / 'e4t-minimal'}" in output
    assert f"torch: {versions(python)['torch']}" in output


def test_after_a_restart_of_the_runtime_the_set_up_cell_runs_again(python, repository, tmp_path):
    setup, _ = first_cells(NOTEBOOKS[0], repository)
    for _ in range(2):
        output = run(python, "-c", setup + WHERE, cwd=tmp_path)
        assert f"e4t_minimal: {tmp_path / 'e4t-minimal'}" in output
