"""What `e4t bench` has found: records to a summary and a table."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..helpers.reading import read_json
from .baselines import METHODS
from .scores import interval

SCORES = ("identity", "identity_plain", "identity_background", "prompt", "diversity", "seconds")
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # on a method's learning rates, in the search
GOAL = "reaches E4T at 10 steps"

CAPTION = (
    "The same for all: base, picture, mask, size of batch, diffusion loss, timesteps, sampling and "
    "judge. Besides what learns, this differs: E4T alone has the L2 term on the offset of S* and "
    "the term that holds what lies outside the mask, for which its subject is put before 16 other "
    "backgrounds; DreamBooth and the mixture give half of each batch to pictures of the class. "
    "With `--hold-background`, all methods hold the background."
)


def summarise(records: list[dict]) -> dict[str, dict]:
    """{method: what it is, its rates, bytes and memory, and its scores after numbers of steps}.

    In "steps", {n: {score: its mean with interval, "each": every person's identity}}. And when the
    method reached the identity that E4T has after 10 steps.
    """
    summary = {}
    for method in METHODS:
        own = [record for record in records if record["method"] == method]
        if own:
            summary[method] = _summary(method, sorted(own, key=_person))
    goal = summary.get("E4T", {}).get("steps", {}).get(10)
    if goal is None:
        return summary
    return {method: found | {GOAL: _reaches(found, goal)} for method, found in summary.items()}


def _summary(method: str, records: list[dict]) -> dict:
    steps = {}
    for n in sorted({record["steps"] for record in records}):
        found = [record for record in records if record["steps"] == n]
        steps[n] = {name: _interval_of(found, name) for name in SCORES}
        steps[n]["each"] = [record["identity"] for record in found]
    return {
        "what": METHODS[method].what,
        "learns": _rates(method, records[0]["factor"]),
        "identities": len(steps[min(steps)]["each"]),
        "bytes": records[0]["bytes"],
        "peak_megabytes": max(record["peak_megabytes"] or 0 for record in records),
        "steps": steps,
    }


def _interval_of(records: list[dict], name: str) -> dict[str, float]:
    return interval([record[name] for record in records])


def _person(record: dict) -> int:
    return record["person"]


def _rates(method: str, factor: float) -> dict[str, float]:
    """{part: learning rate}, to three digits."""
    return {part: float(f"{rate * factor:.3g}") for part, rate in METHODS[method].learns.items()}


def _reaches(found: dict, goal: dict) -> dict | str:
    """The first stop at which a method's mean identity is E4T's after 10 steps."""
    for n, at in found["steps"].items():
        if at["identity"]["mean"] >= goal["identity"]["mean"]:
            seconds = at["seconds"]["mean"]
            return {
                "steps": n,
                "seconds": seconds,
                "prompt": at["prompt"]["mean"],
                "times E4T's seconds": round(seconds / goal["seconds"]["mean"], 1),
            }
    return f"not within {max(found['steps'])} steps"


def summarise_search(records: list[dict]) -> dict[str, dict]:
    """{method: {"people", "steps", "factor": {factor: scores}, "best", "learns"}}.

    Best is the highest identity among those that keep the prompt score within 0.05 of the method's
    highest; learns are the rates that it gives.
    """
    summary = {}
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        factors = {factor: _means(own, factor) for factor in FACTORS if _tried(own, factor)}
        enough = max(at["prompt"] for at in factors.values()) - 0.05
        identities = {
            factor: at["identity"] for factor, at in factors.items() if at["prompt"] >= enough
        }
        best = max(identities, key=identities.get)
        summary[method] = {
            "people": len({record["person"] for record in own}),
            "steps": max(record["steps"] for record in own),
            "factor": factors,
            "best": best,
            "learns": _rates(method, best),
        }
    return summary


def _tried(records: list[dict], factor: float) -> list[dict]:
    return [record for record in records if record["factor"] == factor]


def _means(records: list[dict], factor: float) -> dict[str, Any]:
    """Means over people with one factor, and "each": every person's identity."""
    found = sorted(_tried(records, factor), key=_person)
    means: dict[str, Any] = {}
    for name in ("identity", "prompt", "diversity"):
        mean = np.mean([record[name] for record in found])
        means[name] = round(float(mean), 4)
    return means | {"each": [record["identity"] for record in found]}


class Measured(BaseModel):
    """What is known of one method."""

    model_config = ConfigDict(extra="allow")

    steps: dict[int, dict[str, Any]]  # {number of steps: {score: ...}}


class Report(BaseModel):
    """What a report must hold; the rest is as `e4t bench` has written it."""

    model_config = ConfigDict(extra="allow")

    methods: dict[str, Measured]


def read_report(path: Path) -> dict:
    """What `e4t bench` has written beside its picture.

    Numbers of steps, which JSON keeps as text, are numbers again.
    """
    return read_json(path, Report).model_dump()


def table(summary: dict[str, dict]) -> dict[str, dict[str, str]]:
    """{method: {column: text}}: what there is to say of each method in a line; see CAPTION."""
    stops = sorted({n for found in summary.values() for n in found["steps"]})
    return {method: _line(found, stops) for method, found in summary.items()}


def _line(found: dict, stops: list[int]) -> dict[str, str]:
    steps = found["steps"]
    end = max(steps)
    last = steps[end]
    line = {str(n): _two_digits(steps[n]["identity"]) if n in steps else "" for n in stops}
    reached = found.get(GOAL, "")
    if isinstance(reached, dict):
        reached = f"{reached['steps']} steps, {reached['seconds']:.0f} CPU s"
    return line | {
        "prompt": _two_digits(last["prompt"]),
        "diversity": _two_digits(last["diversity"]),
        "CPU seconds a step": f"{last['seconds']['mean'] / end:.1f}",
        "first stop at E4T's identity after 10": reached,
        "a concept": f"{found['bytes'] / 1e6:.2f} MB",
        "peak memory": f"{found['peak_megabytes']} MB",
    }


def _two_digits(score: dict) -> str:
    return f"{score['mean']:.2f}"
