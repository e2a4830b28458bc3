"""Installs what the notebooks need and this machine lacks, never torch: `python colab.py` in Colab, where much is there already."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


def missing() -> list[str]:
    """The project's dependencies that are not installed in a version that will do."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    out = []
    for line in [*project["dependencies"], "ipywidgets>=7"]:
        needed = Requirement(line)
        try:
            fits = needed.specifier.contains(version(needed.name), prereleases=True)
        except PackageNotFoundError:
            fits = False
        if not fits and needed.name != "torch":
            out.append(line)
    return out


if __name__ == "__main__":
    if wanted := missing():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    print("installed:", ", ".join(wanted) or "nothing was missing")
