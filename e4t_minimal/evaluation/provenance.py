"""Where a number comes from: the commit of the code, and the machine that it ran on."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def commit() -> str | None:
    """The commit that this code is, with a + if tracked files have changed since.

    None outside git.
    """
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changes else head


def machine() -> dict:
    """What seconds depend on: cores, threads, memory (GiB), versions of the libraries."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory in GiB": _gibibytes(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _gibibytes() -> int | None:
    """The machine's memory; None on Windows."""
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
