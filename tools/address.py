"""Moves the project to another repository: `make address URL=https://github.com/OWNER/NAME`.

The address stands in pyproject.toml. Whatever else shows it was made from it (badges, set-up cells,
links of README, docs and CITATION), and follows it here: in every file that git knows or would add.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STANDS = re.compile(r'^Repository = "https://github\.com/(.+)"$', re.MULTILINE)
ADDRESS = re.compile(r"https://github\.com/([\w-]+/[\w.-]+)")
LARGEST = 8 * 2**20  # bytes; what is larger is no text


def address_of(root: Path) -> str:
    """OWNER/NAME of the repository, from the one place where it stands."""
    return STANDS.search((root / "pyproject.toml").read_text("utf-8"))[1]


def forms(address: str) -> list[tuple[str, str]]:
    """(what stands before, the address) in every form in which links have it."""
    owner, name = address.split("/")
    return [
        (r"github\.com/", address),
        (r"/github/(?:[a-z-]+/)*", address),  # Colab; badges, such as /github/license/
        (r"/gh/", address),  # Binder
        (r"github\.com%2[Ff]", f"{owner}%2F{name}"),  # inside another link, as nbgitpuller has it
        (r"//", f"{owner}.github.io/{name}"),  # the site
    ]


def moved(content: bytes, old: str, new: str) -> bytes:
    """A file's content with the address replaced wherever it is one."""
    for (before, form), (_, replacement) in zip(forms(old), forms(new), strict=True):
        pattern = f"({before}){re.escape(form)}(?![\\w-])".encode()
        content = re.sub(pattern, rb"\1" + replacement.encode(), content)
    return content


def files_of(root: Path) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    paths = [root / name.decode() for name in set(names.split(b"\0")) if name]
    small = [path for path in paths if path.is_file() and path.stat().st_size <= LARGEST]
    return sorted(path for path in small if not path.is_symlink())


def move(root: Path, new: str) -> list[Path]:
    """Replace the address under a folder; the files that were changed."""
    old, changed = address_of(root), []
    for path in files_of(root):
        content = path.read_bytes()
        found = moved(content, old, new)
        if found != content:
            path.write_bytes(found)
            changed.append(path)
    return changed


def main(arguments: list[str]):
    given = arguments[0].removesuffix("/").removesuffix(".git") if arguments else ""
    match = ADDRESS.fullmatch(given)
    if match is None:
        sys.exit(f"{given!r} will not do; give URL=https://github.com/OWNER/NAME.")
    for path in move(ROOT, match[1]):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
