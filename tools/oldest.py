"""Writes constraints-oldest.txt: the oldest versions that pyproject.toml allows.

`make env-oldest` installs them, so that every lower bound is one that was tried.
"""

from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TARGET = ROOT / "constraints-oldest.txt"
HEAD = (
    "# The oldest versions that pyproject.toml allows, written by `python tools/oldest.py`.\n"
    "# What is not named here is as new as pip likes.\n"
)


def oldest() -> str:
    """The constraints: of every dependency its lower bound."""
    lines = []
    for line in PROJECT["dependencies"]:
        needed = Requirement(line)
        (bound,) = [each.version for each in needed.specifier if each.operator == ">="]
        lines.append(f"{needed.name}=={bound}\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    TARGET.write_text(oldest())
