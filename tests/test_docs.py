"""The README's tables are what `e4t evaluate` and `e4t bench` have written. `python tests/test_docs.py` prints them."""

import json
from pathlib import Path

from e4t_minimal.evaluation.results import read_report, table

ROOT = Path(__file__).parent.parent
DOMAINS = ("face", "critter", "robot")


def domains() -> list[str]:
    reports = [
        json.loads((ROOT / f"docs/evaluation-{domain}.json").read_text()) for domain in DOMAINS
    ]

    def sure(found: dict) -> str:
        return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})"

    def row(title: str, of) -> str:
        return f"| {title} | " + " | ".join(of(report) for report in reports) + " |"

    return [
        row("", lambda r: r["domain"]),
        "| --- | --- | --- | --- |",
        row("identity: class word alone (the floor)", lambda r: sure(r["floor"]["identity"])),
        *(
            row(f"identity: S\\*, {title}", lambda r: sure(r["steps"][n]["identity"]))
            for n, title in (("0", "before any step"), ("5", "5 steps"), ("15", "15 steps"))
        ),
        row(
            "the same, as a share of the way from floor to ceiling",
            lambda r: sure(r["steps"]["15"]["normalised"]),
        ),
        row(
            "identity: the picture itself, through the autoencoder (the ceiling)",
            lambda r: f"{r['ceiling']['mean']:.2f}",
        ),
        row("prompt: S\\*, 15 steps", lambda r: sure(r["steps"]["15"]["prompt"])),
        *(
            row(
                f"diversity of eight photos: {title}", lambda r: f"{at(r)['diversity']['mean']:.2f}"
            )
            for title, at in (
                ("class word", lambda r: r["floor"]),
                ("S\\*, 15 steps", lambda r: r["steps"]["15"]),
            )
        ),
    ]


def methods() -> list[str]:
    found = table(read_report(ROOT / "docs/results/bench-face.json")["methods"])
    columns = [column for column in next(iter(found.values())) if column != "diversity"]
    rows = [
        f"| {method} | " + " | ".join(line[column] for column in columns) + " |"
        for method, line in found.items()
    ]
    return ["| steps | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|", *rows]


def test_readme_says_what_was_measured():
    readme = (ROOT / "README.md").read_text()
    assert [line for line in domains() + methods() if line not in readme] == []


def test_readme_says_how_far_a_small_batch_gets():
    ten, small = (
        read_report(ROOT / "docs/results/bench-face.json")["methods"]["E4T"]["steps"][10],
        read_report(ROOT / "docs/results/bench-face-batch-2.json")["methods"],
    )
    goal, n, seconds = sum(ten["each"][:6]) / 6, {}, {}  # of the same six people
    for method, found in small.items():
        n[method], at = next(
            (steps, at) for steps, at in found["steps"].items() if at["identity"]["mean"] >= goal
        )
        seconds[method] = round(at["seconds"]["mean"] / ten["seconds"]["mean"])
    assert (
        f"takes LoRA {n['LoRA']} steps and DreamBooth {n['DreamBooth']} to get as far"
        in " ".join((ROOT / "README.md").read_text().split())
    )
    assert (seconds["LoRA"], seconds["DreamBooth"]) == (
        1,
        3,
    )  # "as long as E4T and three times as long"


if __name__ == "__main__":
    print("\n".join([*domains(), "", *methods()]))
