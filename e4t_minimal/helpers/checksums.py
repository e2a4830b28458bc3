"""SHA256SUMS: what the shipped files hold, so that `e4t doctor` finds one that is not whole.

The list has the form of `sha256sum`: inside the folder, `sha256sum -c SHA256SUMS` reads it too.
"""

import hashlib
from pathlib import Path

LIST = "SHA256SUMS"
FREE = {LIST, "README.md", ".DS_Store"}  # cards may be edited


def write_checksums(folder: Path):
    """List every file under the folder but the cards."""
    lines = [f"{checksum(folder / name)}  {name}\n" for name in sorted(_files_under(folder))]
    (folder / LIST).write_bytes("".join(lines).encode())  # the same bytes on every system


def read_checksums(folder: Path) -> dict[str, str]:
    """{path inside the folder: SHA-256}; ValueError if there is no list that can be read."""
    try:
        lines = (folder / LIST).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{folder / LIST} is missing or damaged.") from None
    pairs = [line.split("  ", 1) for line in lines]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{folder / LIST} is damaged.")
    return {name: value for value, name in pairs}


def faults(folder: Path) -> dict[str, str]:
    """{path inside the folder: "missing" or "changed"} of what is not as its list says."""
    found = {}
    for name, value in read_checksums(folder).items():
        if not (folder / name).is_file():
            found[name] = "missing"
        elif checksum(folder / name) != value:
            found[name] = "changed"
    return found


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files_under(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in FREE]
    return [path.relative_to(folder).as_posix() for path in files]
