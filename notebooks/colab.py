"""Installs what the notebooks need and this machine lacks, never torch.

`python colab.py` in Colab, where much is there already.
"""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def missing() -> list[str]:
    """The project's dependencies that are not installed in a version that will do."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    needed = [*project["dependencies"], "ipywidgets>=7"]
    return [line for line in needed if not _is_there(Requirement(line))]


def _is_there(needed: Requirement) -> bool:
    if needed.name == "torch":  # Colab's own fits its GPU
        return True
    try:
        return needed.specifier.contains(version(needed.name), prereleases=True)
    except PackageNotFoundError:
        return False


def main():
    wanted = missing()
    if wanted:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    print("installed:", ", ".join(wanted) or "nothing was missing")


if __name__ == "__main__":
    main()
