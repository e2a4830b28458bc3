"""Results as figures: the curves of a comparison, its pictures, and the lines of an ablation."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..inspection.plots import grid
from ..world import Scene, draw, identity
from .baselines import METHODS
from .pictures import picture_path, read_strip
from .prompts import PROMPTS

PANELS = (
    ("steps", "identity"),
    ("seconds", "identity"),
    ("steps", "prompt"),
    ("steps", "diversity"),
)


def curves(summary: dict[str, dict]) -> Figure:
    """Identity against steps and against seconds, prompt score and diversity against steps.

    Bands are 95 % intervals over identities.
    """
    figure = plt.figure(figsize=(15, 4), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (across, score) in zip(axes, PANELS, strict=True):
        for method, found in summary.items():
            _curve(axis, method, found["steps"], across, score)
        unit = "CPU seconds" if across == "seconds" else across
        top = None if score == "diversity" else 1.02
        axis.set(xscale="log", xlabel=f"{unit} (0 is drawn at 0.5)", ylabel=score, ylim=(0, top))
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _curve(axis: Axes, method: str, steps: dict[int, dict], across: str, score: str):
    """One method in one panel: a line of means in its band."""
    seconds = [at["seconds"]["mean"] for at in steps.values()]
    places = seconds if across == "seconds" else list(steps)
    x = [max(place, 0.5) for place in places]  # a logarithm has no 0
    scores = [at[score] for at in steps.values()]
    means = [found["mean"] for found in scores]
    low = [found["low"] for found in scores]
    high = [found["high"] for found in scores]
    color = f"C{list(METHODS).index(method)}"  # the same in every figure
    width = 2.5 if method == "E4T" else 1.3
    axis.plot(x, means, marker="o", markersize=3, label=method, color=color, linewidth=width)
    axis.fill_between(x, low, high, color=color, alpha=0.12)


def forest(
    variants: dict[str, dict], scores: tuple[str, ...] = ("identity", "diversity")
) -> Figure:
    """One line for each variant of an ablation: its scores with their intervals.

    Filled dots: after the last step. Hollow: before the first, where that was measured. Dotted: the
    first variant's, which the others are held against.
    """
    size = (5.5 * len(scores), 0.28 * len(variants) + 1.0)
    figure = plt.figure(figsize=size, dpi=90, layout="constrained")
    axes = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axis, score in zip(axes, scores, strict=True):
        for y, found in enumerate(variants.values()):
            _dots(axis, y, found["steps"], score)
        axis.set(xlabel=score)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(variants)), list(variants))
    axes[0].invert_yaxis()
    return figure


def _dots(axis: Axes, y: int, steps: dict[str, dict], score: str):
    """One variant in one panel, at the height y; 0 is the first."""
    color = "C0" if y == 0 else "C1"
    last = max(steps, key=int)
    for n, at in steps.items():
        low, mean, high = (at[score][name] for name in ("low", "mean", "high"))
        filled = n == last
        axis.plot([low, high], [y, y], color=color, linewidth=1.5, alpha=0.9 if filled else 0.35)
        axis.plot(
            mean,
            y,
            "o",
            color=color,
            markersize=6,
            fillstyle="full" if filled else "none",
            markerfacecolor=color if filled else "white",
        )
        if y == 0 and filled:
            axis.axvline(mean, color=color, linestyle=":", zorder=0)


def last_pictures(
    path: Path, summary: dict[str, dict], domain: str, people: int = 4, prompt: int = 3
) -> Figure:
    """What each method drew of some people after its last step, for one of PROMPTS.

    Of the first `people`, those whose pictures by every method were kept; ValueError if there are
    none.
    """
    kept = [i for i in range(people) if _all_kept(path, summary, i)]
    if not kept:
        raise ValueError(f"No person's pictures by all methods are kept beside {path}.")
    titles = ["the picture"]
    titles += [f"{method}, {max(found['steps'])} steps" for method, found in summary.items()]
    pictures = []
    for i in kept:
        pictures.append(draw(identity(domain, "held-out", i), Scene())[0])
        pictures += [read_strip(path, method, i)[prompt] for method in summary]
    below = [""] * (len(pictures) - len(titles))  # the first line has the titles
    figure = grid(pictures, titles + below, columns=len(titles))
    figure.supxlabel(PROMPTS[prompt].template.format("S*"), fontsize=9)
    return figure


def _all_kept(path: Path, summary: dict[str, dict], person: int) -> bool:
    return all(picture_path(path, method, person).exists() for method in summary)
