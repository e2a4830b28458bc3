"""What is installed without the clone: the wheel, in an environment of its own, elsewhere."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd=None):
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of programs of a fresh environment, which borrows this one's libraries."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", {"base": folder, "platbase": folder})
    site = Path(paths["purelib"])
    # a folder named in a .pth file lends its packages, but not what its own .pth files add
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    python = Path(paths["scripts"]) / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel)
    return Path(paths["scripts"])


def files_under(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_the_package_and_what_is_shipped(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {f"e4t_minimal/{name}" for name in files_under(ROOT / "e4t_minimal")}
    shipped = {f"e4t_minimal/data_samples/{name}" for name in files_under(ROOT / "data_samples")}
    assert names == {name for name in package if "__pycache__" not in name} | shipped


def test_the_installed_package_finds_its_data(programs, tmp_path):
    code = "import e4t_minimal as e4t; print(e4t.__file__); print(e4t.DATA)"
    file, data = run(programs / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(programs.parent)
    assert Path(data) == Path(file).parent / "data_samples"
    assert (Path(data) / "toy-sd/model_index.json").exists()


def test_the_demo_runs_in_an_empty_folder(programs, tmp_path):
    output = run(programs / "e4t", "demo", "--steps", 1, cwd=tmp_path)
    assert "identity" in output
    assert Image.open(tmp_path / "outputs/demo.png").width > 500
