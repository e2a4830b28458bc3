"""Installs what the notebooks need and this machine lacks; what is there stays as it is.

`python colab.py` in Colab, where much is there already, and fits together.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# Colab's own torch fits its GPU, and its ipywidgets its page; others are loaded before this runs
KEPT = ("torch", "numpy", "pandas", "matplotlib", "pillow", "ipywidgets")


def missing() -> list[str]:
    """The project's dependencies that are not installed in a version that will do."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    needed = [*project["dependencies"], "ipywidgets>=7"]
    return [line for line in needed if not _is_there(Requirement(line))]


def _is_there(needed: Requirement) -> bool:
    found = installed(needed.name)
    if needed.name in KEPT:
        return found is not None or needed.name == "torch"
    return found is not None and needed.specifier.contains(found, prereleases=True)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def kept() -> list[str]:
    """Constraints for pip: what must not change, whatever others would like."""
    found = {name: installed(name) for name in KEPT}
    return [f"{name}=={number}\n" for name, number in found.items() if number is not None]


def install(wanted: list[str]):
    """With pip, and with nothing changed that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(kept()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints)]
        subprocess.run([*command, *wanted], check=True)


def main():
    wanted = missing()
    if wanted:
        install(wanted)
    print("installed:", ", ".join(wanted) or "nothing was missing")


if __name__ == "__main__":
    main()
