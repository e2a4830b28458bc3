"""Files and folders that are whole or not there: written beside, then put in place."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path):
    """A name to write a file under that takes the place of `path` once it is whole. Two processes may write the same path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(
        f".{os.getpid()}-{path.name}"
    )  # in the same folder: only there is the last step a renaming, not a copy
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | Path, names: tuple[str, ...] = ()):
    """An empty folder to write files into that are moved into `folder` once all are whole. names: files that belong together; of them,
    what has not been written this time is taken away. Whatever else lies in `folder` stays."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        folder.mkdir(exist_ok=True)
        for name in names:
            if not (new / name).exists():
                (folder / name).unlink(missing_ok=True)
        for file in new.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
