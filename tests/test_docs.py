"""The README's tables are what `e4t evaluate` and `e4t bench` have written.

`python tests/test_docs.py` prints them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from e4t_minimal.evaluation.results import read_report, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "docs/results"
DOMAINS = ("face", "critter", "robot")
STEPS = {"0": "before any step", "5": "5 steps", "15": "15 steps"}


def with_interval(found: dict) -> str:
    return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def mean(found: dict) -> str:
    return f"{found['mean']:.2f}"


def domains() -> list[str]:
    """One column for each domain."""
    paths = [ROOT / f"docs/evaluation-{domain}.json" for domain in DOMAINS]
    reports = [json.loads(path.read_text()) for path in paths]

    def line(title: str, of: Callable[[dict], str]) -> str:
        return f"| {title} | " + " | ".join(of(report) for report in reports) + " |"

    def after(steps: str, score: str, as_text: Callable[[dict], str]) -> Callable[[dict], str]:
        return lambda report: as_text(report["steps"][steps][score])

    def floor(score: str, as_text: Callable[[dict], str]) -> Callable[[dict], str]:
        return lambda report: as_text(report["floor"][score])

    return [
        line("", lambda report: report["domain"]),
        "| --- | --- | --- | --- |",
        line("identity: class word alone (the floor)", floor("identity", with_interval)),
        *(
            line(f"identity: S\\*, {title}", after(steps, "identity", with_interval))
            for steps, title in STEPS.items()
        ),
        line(
            "the same, as a share of the way from floor to ceiling",
            after("15", "normalised", with_interval),
        ),
        line(
            "identity: the picture itself, through the autoencoder (the ceiling)",
            lambda report: mean(report["ceiling"]),
        ),
        line("prompt: S\\*, 15 steps", after("15", "prompt", with_interval)),
        line("diversity of eight photos: class word", floor("diversity", mean)),
        line("diversity of eight photos: S\\*, 15 steps", after("15", "diversity", mean)),
    ]


def methods() -> list[str]:
    """One line for each method."""
    found = table(read_report(RESULTS / "bench-face.json")["methods"])
    columns = [column for column in found["E4T"] if column != "diversity"]
    lines = ["| steps | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for method, cells in found.items():
        lines.append(f"| {method} | " + " | ".join(cells[column] for column in columns) + " |")
    return lines


@pytest.mark.parametrize("line", domains() + methods())
def test_readme_says_what_was_measured(line):
    assert line in README


def test_readme_says_how_far_a_small_batch_gets():
    """LoRA and DreamBooth with a small batch, to E4T's identity of the same six people."""
    ten = read_report(RESULTS / "bench-face.json")["methods"]["E4T"]["steps"][10]
    small = read_report(RESULTS / "bench-face-batch-2.json")["methods"]
    goal = sum(ten["each"][:6]) / 6
    steps, seconds = {}, {}
    for method, found in small.items():
        reached = [n for n, at in found["steps"].items() if at["identity"]["mean"] >= goal]
        steps[method] = reached[0]
        at = found["steps"][reached[0]]
        seconds[method] = round(at["seconds"]["mean"] / ten["seconds"]["mean"])
    said = f"takes LoRA {steps['LoRA']} steps and DreamBooth {steps['DreamBooth']} to get as far"
    assert said in " ".join(README.split())
    # "as long as E4T and three times as long"
    assert (seconds["LoRA"], seconds["DreamBooth"]) == (1, 3)


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 20
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_readmes_list_of_the_package_is_whole():
    parts = {path.name for path in (ROOT / "e4t_minimal").iterdir() if path.suffix == ".py"}
    parts = {name for name in parts if not name.startswith("__")}
    parts |= {path.parent.name for path in (ROOT / "e4t_minimal").glob("*/__init__.py")}
    linked = set(re.findall(r"\]\(e4t_minimal/([\w.]+)/?\)", README))
    assert linked == parts


if __name__ == "__main__":
    print("\n".join([*domains(), "", *methods()]))
