"""Do the addresses that texts and notebooks name still answer?

python docs/links.py    # asks each once; needs a network, nothing else
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("*.md", "docs/*.md", "teaching/**/*.md", "notebooks/*.ipynb", "notebooks/exercises/*.toml")
BROWSER = {"User-Agent": "Mozilla/5.0"}  # some servers turn programs away
ALIVE = {401, 403, 405, 429}  # there, but not for a program


def addresses(text: str) -> set[str]:
    """What a text in Markdown links to on other servers."""
    return set(re.findall(r"\]\((https?://[^)\s#]+)", text))


def named() -> dict[str, list[str]]:
    """{address: the files that name it}"""
    found = {}
    for pattern in TEXTS:
        for path in sorted(ROOT.glob(pattern)):
            for address in addresses(_text_of(path)):
                found.setdefault(address, []).append(path.relative_to(ROOT).as_posix())
    return found


def _text_of(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def fault(address: str) -> str:
    """Why an address does not answer; "" if it does."""
    try:
        with urlopen(Request(address, headers=BROWSER), timeout=30):
            return ""
    except HTTPError as error:
        return "" if error.code in ALIVE else f"{error.code} {error.reason}"
    except OSError as error:
        return str(error)


def main() -> int:
    found = named()
    with ThreadPoolExecutor(8) as pool:
        faults = dict(zip(found, pool.map(fault, found), strict=True))
    bad = {address: reason for address, reason in faults.items() if reason}
    for address, reason in bad.items():
        print(f"{address}: {reason} (in {', '.join(found[address])})")
    print(f"{len(found)} addresses, {len(bad)} of them do not answer")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
