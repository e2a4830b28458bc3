"""What `e4t bench` has found: rows to a summary, a table, curves, and the pictures that it kept."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..evaluation.baselines import METHODS
from ..evaluation.scores import PROMPTS, interval
from ..world import Scene, draw, identity

SCORES = ("identity", "identity_plain", "identity_background", "prompt", "diversity", "seconds")
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # on a method's learning rates, in the search


def strip(pictures: list[Image.Image]) -> Image.Image:
    """64x64 pictures side by side."""
    out = Image.new("RGB", (64 * len(pictures), 64))
    for i, picture in enumerate(pictures):
        out.paste(picture, (64 * i, 0))
    return out


def picture_path(path: Path, method: str, person: int) -> Path:
    """Where a run's last pictures are kept, beside its rows in `path`."""
    return path.with_suffix("") / f"{method.replace(' ', '-')}-{person:02d}.jpg"


def read_strip(path: Path, method: str, person: int) -> list[Image.Image]:
    """The pictures of PROMPTS that `picture_path` holds; ValueError if there are none."""
    file = picture_path(path, method, person)
    if not file.exists():
        raise ValueError(
            f"No pictures of {method} and person {person}: {file} not found. `e4t bench` keeps those of the first people."
        )
    with Image.open(file) as row:
        return [row.crop((64 * i, 0, 64 * (i + 1), 64)) for i in range(row.width // 64)]


def summarise(rows: list[dict]) -> dict:
    """{method: {"steps": {n: {score: mean with its interval, "each": every person's identity}}, bytes, peak memory, and when it reached E4T's identity at 10 steps}}."""
    out = {}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        own.sort(key=lambda row: row["person"])
        steps = {
            n: [row for row in own if row["steps"] == n]
            for n in sorted({row["steps"] for row in own})
        }
        out[method] = {
            "what": METHODS[method].what,
            "learns": {
                part: float(f"{lr * own[0]['factor']:.3g}")
                for part, lr in METHODS[method].learns.items()
            },
            "identities": len(steps[min(steps)]),
            "bytes": own[0]["bytes"],
            "peak_megabytes": max(row["peak_megabytes"] or 0 for row in own),
            "steps": {
                n: {k: interval([row[k] for row in found]) for k in SCORES}
                | {"each": [row["identity"] for row in found]}
                for n, found in steps.items()
            },
        }
    goal = out.get("E4T", {}).get("steps", {}).get(10)
    for found in out.values() if goal else ():
        reached = [
            n
            for n, at in found["steps"].items()
            if at["identity"]["mean"] >= goal["identity"]["mean"]
        ]
        found["reaches E4T at 10 steps"] = f"not within {max(found['steps'])} steps"
        if reached:
            at = {k: found["steps"][reached[0]][k]["mean"] for k in ("seconds", "prompt")}
            found["reaches E4T at 10 steps"] = {
                "steps": reached[0],
                **at,
                "times E4T's seconds": round(at["seconds"] / goal["seconds"]["mean"], 1),
            }
    return out


def read_report(path: Path) -> dict:
    """What `e4t bench` has written beside its picture; numbers of steps, which JSON keeps as text, are numbers again."""
    report = json.loads(path.read_text())
    for found in report["methods"].values():
        found["steps"] = {int(n): at for n, at in found["steps"].items()}
    return report


def summarise_search(rows: list[dict]) -> dict:
    """{method: {"steps", "factor": {factor: identity and prompt}, "best": factor, "learns": the rates it gives}}.

    Best is the highest identity among those that keep the prompt score within 0.05 of the method's highest."""
    out = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        tried = {
            factor: [row for row in rows if row["method"] == method and row["factor"] == factor]
            for factor in FACTORS
        }
        found = {
            factor: {
                k: round(float(np.mean([row[k] for row in own])), 4) for k in ("identity", "prompt")
            }
            for factor, own in tried.items()
            if own
        }
        enough = max(at["prompt"] for at in found.values()) - 0.05
        best = max(
            (factor for factor, at in found.items() if at["prompt"] >= enough),
            key=lambda factor: found[factor]["identity"],
        )
        out[method] = {
            "steps": max(row["steps"] for own in tried.values() for row in own),
            "factor": found,
            "best": best,
            "learns": {
                part: float(f"{lr * best:.3g}") for part, lr in METHODS[method].learns.items()
            },
        }
    return out


def table(summary: dict) -> dict[str, dict[str, str]]:
    """{method: {column: text}}: what there is to say of each method in a line."""
    out, stops = {}, sorted({n for found in summary.values() for n in found["steps"]})
    for method, found in summary.items():
        at, reached = found["steps"], found.get("reaches E4T at 10 steps", "")
        last = at[max(at)]
        out[method] = {
            str(n): f"{at[n]['identity']['mean']:.2f}" if n in at else "" for n in stops
        } | {
            "prompt": f"{last['prompt']['mean']:.2f}",
            "diversity": f"{last['diversity']['mean']:.2f}",
            "CPU seconds a step": f"{last['seconds']['mean'] / max(at):.1f}",
            "as good as E4T after 10": reached
            if isinstance(reached, str)
            else f"{reached['steps']} steps, {reached['seconds']:.0f} CPU s",
            "a concept": f"{found['bytes'] / 1e6:.2f} MB",
            "peak memory": f"{found['peak_megabytes']} MB",
        }
    return out


def curves(summary: dict) -> Figure:
    """Identity against steps and against seconds, prompt score and diversity against steps; bands are 95 % intervals over identities."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(15, 4), dpi=90, layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, (across, up, top) in zip(
        axes,
        [
            ("steps", "identity", 1.02),
            ("seconds", "identity", 1.02),
            ("steps", "prompt", 1.02),
            ("steps", "diversity", None),
        ],
    ):
        for method, found in summary.items():
            at = found["steps"]
            x = [
                max(n, 0.5) if across == "steps" else max(row["seconds"]["mean"], 0.5)
                for n, row in at.items()
            ]
            color = f"C{list(METHODS).index(method)}"  # the same in every figure
            axis.plot(
                x,
                [row[up]["mean"] for row in at.values()],
                marker="o",
                markersize=3,
                label=method,
                color=color,
                linewidth=2.5 if method == "E4T" else 1.3,
            )
            axis.fill_between(
                x,
                [row[up]["low"] for row in at.values()],
                [row[up]["high"] for row in at.values()],
                color=color,
                alpha=0.12,
            )
        axis.set(
            xscale="log",
            xlabel=f"{'CPU ' * (across == 'seconds')}{across} (0 is drawn at 0.5)",
            ylabel=up,
            ylim=(0, top),
        )
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    return figure


def forest(
    variants: dict[str, dict], scores: tuple[str, ...] = ("identity", "diversity")
) -> Figure:
    """One line for each variant of an ablation (see `toy/ablate.py`): its scores with their intervals after the last step, and, hollow, before the first
    where that was measured. Dotted: the first variant's, which the others are held against."""
    import matplotlib.pyplot as plt

    figure = plt.figure(
        figsize=(5.5 * len(scores), 0.28 * len(variants) + 1.0), dpi=90, layout="constrained"
    )
    for axis, key in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores):
        for y, found in enumerate(variants.values()):
            last = max(found["steps"], key=int)
            for n, row in found["steps"].items():
                at, color = row[key], f"C{int(y > 0)}"
                axis.plot(
                    [at["low"], at["high"]],
                    [y, y],
                    color=color,
                    linewidth=1.5,
                    alpha=0.9 if n == last else 0.35,
                )
                axis.plot(
                    at["mean"],
                    y,
                    "o",
                    color=color,
                    markersize=6,
                    fillstyle="full" if n == last else "none",
                    markerfacecolor=color if n == last else "white",
                )
                if y == 0 and n == last:
                    axis.axvline(at["mean"], color=color, linestyle=":", zorder=0)
        axis.set(xlabel=key)
        axis.grid(axis="x", alpha=0.3)
    figure.axes[0].set_yticks(range(len(variants)), list(variants))
    figure.axes[0].invert_yaxis()
    return figure


def last_pictures(
    path: Path, summary: dict, domain: str, people: int = 4, prompt: int = 3
) -> Figure:
    """Some people, and what each method drew of them after its last step for one of PROMPTS; those whose pictures by every method were kept."""
    from ..inspection.plots import grid

    there = [
        i
        for i in range(people)
        if all(picture_path(path, method, i).exists() for method in summary)
    ]
    rows = [
        [
            draw(identity(domain, "held-out", i), Scene())[0],
            *(read_strip(path, method, i)[prompt] for method in summary),
        ]
        for i in there
    ]
    titles = [
        "the picture",
        *(f"{method}, {max(found['steps'])} steps" for method, found in summary.items()),
    ]
    figure = grid(
        [picture for row in rows for picture in row],
        titles + [""] * len(titles) * (len(rows) - 1),
        columns=len(titles),
    )
    figure.supxlabel(PROMPTS[prompt][1].format("S*"), fontsize=9)
    return figure
