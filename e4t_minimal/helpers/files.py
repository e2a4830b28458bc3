"""Files and folders that are whole or not there."""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

OWN = ".e4t-"  # how the names of our temporaries begin; they lie beside what they will become
PATIENCE = 60  # seconds to wait for another process that writes to the same place


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` once it is whole."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file was to be written there.")
    with locked(path), existing(path.parent), temporary(path) as new:
        yield new / path.name
        follow_umask(new)
        (new / path.name).replace(path)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` once it is whole."""
    folder = Path(folder)
    with locked(folder), existing(folder.parent), temporary(folder) as new:
        whole = new / folder.name
        whole.mkdir()
        yield whole
        follow_umask(whole)
        if folder.exists():
            shutil.rmtree(folder)
        whole.rename(folder)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Inside, no other process of this machine and user writes to `path`.

    ValueError after a minute of waiting.
    """
    called = hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()
    user = os.getuid() if hasattr(os, "getuid") else ""
    # not beside the path: a lock's empty file stays behind
    locks = Path(tempfile.gettempdir()) / f"e4t-locks-{user}"
    locks.mkdir(mode=0o700, exist_ok=True)
    lock = FileLock(locks / called[:32])
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(
            f"Another process has been writing to {path} for {PATIENCE} seconds. Try again when it "
            "is done, or choose another name."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def existing(folder: Path) -> Iterator[None]:
    """Inside, the folder is there; after an error, what was made for it is gone again."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):  # somebody else may have put something there
                each.rmdir()
        raise


@contextmanager
def temporary(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which is locked; gone at the end, with those of killed runs."""
    own = re.compile(re.escape(f"{OWN}{target.name}-") + "[a-z0-9_]{8}")
    for stale in target.parent.iterdir():
        if own.fullmatch(stale.name):
            shutil.rmtree(stale, ignore_errors=True)
    # in the same folder: only there is the last step a renaming, not a copy
    new = Path(tempfile.mkdtemp(prefix=f"{OWN}{target.name}-", dir=target.parent))
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def follow_umask(folder: Path):
    """Let others read the files of a folder if they may read what this user writes.

    safetensors gives its files to their owner alone, whatever the umask says.
    """
    usual = folder / f"{OWN}usual"
    usual.touch()
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def check_apart(target: str | Path, **sources: str | Path | None):
    """ValueError if what is to be written would lie over something that is read, or around it.

    sources: what is read, by what to call it.
    """
    target = Path(os.path.realpath(target))
    for what, source in sources.items():
        if source is None:
            continue
        source = Path(os.path.realpath(source))
        if source.exists() and target in (source, *source.parents):
            raise ValueError(
                f"{target} is or holds what is read ({what}); nothing was written. Choose another "
                "name to write to."
            )


def check_writable(path: str | Path):
    """ValueError if nothing can be made at `path`: better now than after a training."""
    there = Path(os.path.realpath(path))
    if there.is_file():
        there = there.parent  # a file can be replaced if its folder can be written to
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{path} cannot be made: {there} is in the way. Choose another name.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"Nothing may be written to {there}. Choose another place.")


def check_new(folder: str | Path) -> Path:
    """The folder's absolute path if it is not there or empty, and can be written; or ValueError."""
    folder = Path(os.path.realpath(folder))
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken or folder == Path.cwd():
        raise ValueError(
            f"{folder} is not a new or empty folder of its own; nothing was written. "
            "Choose another name."
        )
    check_writable(folder)
    return folder


def check_file(path: str | Path | None, **sources: str | Path | None):
    """ValueError if no file can be written at `path`, or if it is one of the sources."""
    if path is None:
        return
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, where a file is to be written. Choose another name.")
    check_apart(path, **sources)
    above = Path(os.path.realpath(path)).parents if Path(path).exists() else ()
    for what, source in sources.items():
        if source is not None and Path(os.path.realpath(source)) in above:
            raise ValueError(f"{path} is one of the files that are read ({what}). Choose another.")
    check_writable(path)
