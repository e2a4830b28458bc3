"""What is installed without the clone: the wheel, in an environment of its own, elsewhere.

And what a public project says of itself: version, address, licences, lower bounds.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
NEW = "some-body/another.name"


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
    scheme = "nt" if os.name == "nt" else "posix_prefix"  # "venv" is not there in Python 3.10
    paths = sysconfig.get_paths(scheme, {"base": folder, "platbase": folder})
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
    output = run(programs / "e4t", "demo", "--steps", 1, "--denoising", 2, cwd=tmp_path)
    assert "identity" in output
    assert Image.open(tmp_path / "outputs/demo.png").width > 500


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert citation["version"] == PROJECT["version"] == newest[1]
    assert str(citation["date-released"]) == newest[2]


def test_the_licences_travel_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert held == {"LICENSE", "LICENSE-TEXT"} == set(PROJECT["license-files"])


def test_the_licence_of_drawings_is_what_their_styles_say():
    styles = Path(sysconfig.get_paths()["purelib"]) / "dicebear_styles"
    said = " ".join((ROOT / "LICENSE-TEXT").read_text("utf-8").split())
    for style in ("avataaars", "bottts", "critters"):
        about = json.loads((styles / f"{style}.json").read_text("utf-8"))["meta"]
        author, licence = about["creator"]["name"], about["license"]["name"]
        name = about["source"]["name"]
        assert f"{name} by {author}, {about['source']['url'].rstrip('/')}, {licence.lower()}" in (
            said.replace("CC0", "cc0").replace("Free", "free")
        )


def test_the_oldest_constraints_are_the_lower_bounds():
    tool = runpy.run_path(str(ROOT / "tools/oldest.py"))
    assert (ROOT / "constraints-oldest.txt").read_text("utf-8") == tool["oldest"]()


@pytest.fixture
def clone(tmp_path):
    """A copy of all that git knows or would add, as a repository of its own."""
    tool = runpy.run_path(str(ROOT / "tools/address.py"))
    for path in tool["files_of"](ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    run("git", "init", "--quiet", cwd=tmp_path)
    return tmp_path


def texts_under(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def setup_cells(path):
    """The cells that notebooks/build.py writes at the head of a notebook."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if "setup" in c["metadata"].get("tags", [])]


def test_the_address_moves_everywhere_and_back(clone):
    before = texts_under(clone)
    tool = [sys.executable, clone / "tools/address.py"]
    changed = set(run(*tool, f"https://github.com/{NEW}/").split())
    after = texts_under(clone)
    assert [path for path in after if f"github.com/{ADDRESS}".encode() in after[path]] == []
    assert {str(path) for path in after if after[path] != before[path]} == changed
    assert {"pyproject.toml", "CITATION.cff", "CONTRIBUTING.md"} <= changed
    notebooks = sorted(clone.glob("notebooks/[0-9]*.ipynb"))
    assert len(notebooks) == 12
    for path in notebooks:
        badge, setup = setup_cells(path)
        link = f"https://colab.research.google.com/github/{NEW}/blob/main/notebooks/{path.name}"
        assert link in badge
        assert f'"https://github.com/{NEW}"' in setup
    code = "import build; print(build.REPOSITORY)"
    built = run(sys.executable, "-c", code, cwd=clone / "notebooks").strip()
    assert built == f"https://github.com/{NEW}"
    run(*tool, f"https://github.com/{ADDRESS}.git")
    assert texts_under(clone) == before


@pytest.mark.parametrize(
    "link, found",
    [
        ("https://github.com/a/b", "https://github.com/c/d"),
        ("https://github.com/a/b.git", "https://github.com/c/d.git"),
        ("https://github.com/a/b/actions", "https://github.com/c/d/actions"),
        ("git@github.com/a/b)", "git@github.com/c/d)"),
        ("https://img.shields.io/github/license/a/b", "https://img.shields.io/github/license/c/d"),
        ("https://mybinder.org/v2/gh/a/b/main", "https://mybinder.org/v2/gh/c/d/main"),
        ("repo=https%3A%2F%2Fgithub.com%2Fa%2Fb&", "repo=https%3A%2F%2Fgithub.com%2Fc%2Fd&"),
        ("https://a.github.io/b/", "https://c.github.io/d/"),
        *[(other, other) for other in ("https://github.com/a/b-2", "a/b", "https://github.com/a")],
    ],
)
def test_an_address_is_known_in_every_form_of_link(link, found):
    tool = runpy.run_path(str(ROOT / "tools/address.py"))
    assert tool["moved"](link.encode(), "a/b", "c/d").decode() == found


@pytest.mark.parametrize("url", ["", "github.com/a/b", "https://elsewhere.org/a/b"])
def test_what_is_no_address_is_refused(url):
    command = [sys.executable, ROOT / "tools/address.py", *([url] if url else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"{url!r} will not do; give URL=https://github.com/OWNER/NAME.\n"


def test_the_address_stands_where_it_is_made_from():
    """Python files and settings take it from pyproject.toml, and do not have it themselves."""
    tool = runpy.run_path(str(ROOT / "tools/address.py"))
    sources = [path for path in tool["files_of"](ROOT) if path.suffix in {".py", ".toml", ".cfg"}]
    holding = [path.name for path in sources if ADDRESS in path.read_text("utf-8")]
    assert holding == ["pyproject.toml"]
