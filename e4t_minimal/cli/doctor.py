"""`e4t doctor`: is everything here that the notebooks need, and whole? Its output goes into issues.

Every check gives findings, each with what was found and, if it will not do, what to do about it.
Nothing that is wrong here may stop the checks that come after it.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

from .. import DATA
from .options import command

PROJECT = "e4t-minimal"
NEEDED = 1.5  # GB of memory: what the demo and the notebooks take, and a little more
GIGABYTE = 1e9
INSTALL = 'Install it: pip install "{}"'
FETCH = (
    "Fetch it again: in a clone `git checkout -- data_samples`, "
    "elsewhere `pip install --force-reinstall --no-deps` as you installed it"
)


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    advice: str = ""  # what to do; "" if all is well


@command
def doctor():
    """Check versions, processor, memory and the shipped weights, and draw one picture.

    Every line says ok, or what to do. The exit status is 1 if something is wrong.
    """
    wrong = 0
    for finding in _examine():
        wrong += bool(finding.advice)
        mark = "NO" if finding.advice else "ok"
        typer.echo(f"{mark}  {finding.what:16}{finding.found}")
        if finding.advice:
            typer.echo(f"    -> {finding.advice}.")
    if wrong:
        typer.echo(f"{wrong} of these will not do; what to do stands below each.")
        raise typer.Exit(1)
    typer.echo("All is well.")


def _examine() -> Iterator[Finding]:
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": python,
        "packages": packages,
        "processor": processor,
        "memory": memory,
        "weights": lambda: weights(DATA),
        "drawing": drawing,
    }
    for what, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a doctor tells of everything
            from ..helpers.checks import reason

            yield Finding(what, f"broke off ({reason(error)})", "Mend what stands above first")


def python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.platform()}"
    advice = "" if sys.version_info >= (3, 10) else "Make an environment with Python 3.10 or newer"
    yield Finding("Python", found, advice)
    yield Finding(PROJECT, _version(PROJECT) or f"not installed, used from {DATA.parent}")


def packages() -> Iterator[Finding]:
    """Each dependency's version, held against what the project asks for."""
    from packaging.requirements import Requirement

    for line in _requirements():
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        found = _version(needed.name)
        if found is None:
            yield Finding(needed.name, "missing", INSTALL.format(line))
        elif not needed.specifier.contains(found, prereleases=True):
            yield Finding(needed.name, f"{found}, not {needed.specifier}", INSTALL.format(line))
        else:
            yield Finding(needed.name, found)


def _requirements() -> list[str]:
    """As they were installed; in a clone that is not installed, as pyproject.toml has them."""
    if _version(PROJECT) is not None:
        return metadata.requires(PROJECT)
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib
    project = tomllib.loads((DATA.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project["dependencies"]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Iterator[Finding]:
    """What computes; nothing of this can be wrong."""
    import torch

    from ..training.hardware import bf16_is_faster

    yield Finding("cores", f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}")
    faster = bf16_is_faster()
    yield Finding("bf16", "faster here: use --bf16" if faster else "no faster here: leave --bf16")
    found = "none: everything runs on the CPU, as it is meant to"
    if torch.cuda.is_available():
        found = f"{torch.cuda.get_device_name()}: --device cuda"
    elif torch.backends.mps.is_available():
        found = "Apple's GPU: --device mps"
    yield Finding("accelerator", found)


def memory() -> Iterator[Finding]:
    import psutil

    at_hand = psutil.virtual_memory()
    free, total = at_hand.available / GIGABYTE, at_hand.total / GIGABYTE
    advice = ""
    if free < NEEDED:
        advice = f"Close other programs and notebooks' kernels: {NEEDED} GB are needed"
    yield Finding("memory", f"{free:.1f} of {total:.1f} GB free", advice)


def weights(folder: Path) -> Iterator[Finding]:
    """Every shipped file, held against the checksum that it was packed with."""
    from ..helpers.checksums import faults, read_checksums

    try:
        found = faults(folder)
    except ValueError as error:
        yield Finding("weights", str(error), FETCH)
        return
    for name, fault in found.items():
        yield Finding("weights", f"{folder / name} is {fault}", FETCH)
    if not found:
        yield Finding("weights", f"{len(read_checksums(folder))} files in {folder}, all whole")


def drawing() -> Iterator[Finding]:
    """S* of a shipped face, drawn before any step; the judge has to see a face."""
    from PIL import Image

    from ..base import load_base
    from ..evaluation.judge import Judge
    from ..model import E4T
    from ..sample import sample

    start = time.perf_counter()
    try:
        model = E4T.from_pretrained(DATA / "e4t-face", load_base("toy"))
        with Image.open(DATA / "faces/face-00.png") as face:
            pictures = sample(model, "a photo of S*", face)
        seen = Judge.from_pretrained().read(pictures)[0]["domain"]
    except (ValueError, OSError) as error:
        yield Finding("drawing", str(error), FETCH)
        return
    seconds = time.perf_counter() - start
    advice = "" if seen == "face" else "Run `make test`, and put what fails into the issue, too"
    yield Finding("drawing", f"of a face: a {seen}, in {seconds:.1f} s", advice)
