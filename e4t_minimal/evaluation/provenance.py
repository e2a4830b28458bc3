"""Where a number comes from: the commit of the code, and the machine that it ran on."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
import torch


def commit() -> str | None:
    """The commit that this code is, with a + if tracked files have changed since.

    None outside git, and for an installed copy that lies in somebody else's repository.
    """
    try:
        _git("ls-files", "--error-unmatch", __file__)
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
        "memory in GiB": round(psutil.virtual_memory().total / 2**30),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()
