"""The paper's claim as an experiment that could come out otherwise: every method on the same pictures, identity against steps and seconds."""
import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from . import DATA
from .base import Base, load_base
from .baselines import METHODS, begin, class_pictures, learn, stored_bytes
from .evaluate import Judge, interval, look
from .speed import commit
from .study import append_rows, read_rows
from .world import Scene, draw, identity

KEPT = 6  # the first people's last pictures are kept, for galleries and the user study
SCORES = ("identity", "identity_plain", "identity_background", "prompt", "diversity", "seconds")
STOPS, QUICK = (0, 5, 10, 15, 25, 50, 100), (0, 10, 20)  # numbers of steps to score, up to a method's own
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # on a method's learning rates, in the search


@dataclass(frozen=True)
class Run:
    """One method learning one person (their number in the split), scored after each number of steps in `stops`.

    weights: the domain whose E4T is used (default: the person's own)."""
    method: str
    person: int
    stops: tuple[int, ...]
    domain: str = "face"
    split: str = "held-out"
    factor: float = 1.0
    batch: int = 16
    seed: int = 0
    bf16: bool = False
    weights: str = ""

    def key(self, steps: int) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "stops"} | {"steps": steps}

    def rows(self, base: Base, judge: Judge, prior: list | None, progress=lambda: None):
        """Yields ({key, scores, CPU seconds of the steps alone, bytes, peak memory}, pictures of PROMPTS) at every stop.

        CPU seconds, summed over cores: what else the machine does meanwhile does not count."""
        method, one, spent = METHODS[self.method], identity(self.domain, self.split, self.person), 0.0
        image, _, mask = draw(one, Scene())
        with begin(method, base, self.domain, DATA / f"e4t-{self.weights or self.domain}") as model:
            loop = learn(method, model, image, mask, prior, max(self.stops), self.batch, self.factor, self.seed + self.person)
            for step in range(max(self.stops) + 1):
                if step > 0:
                    start = time.process_time()
                    next(loop)
                    spent += time.process_time() - start
                    progress()
                if step in self.stops:
                    found, pictures = look(model, judge, one, image, method.subject.format(self.domain), self.seed + 100 * self.person)
                    found = {"seconds": round(spent, 2)} | {k: round(v, 4) for k, v in found.items()}
                    yield self.key(step) | found | {"bytes": stored_bytes(method, model), "peak_megabytes": peak_megabytes()}, pictures


def peak_megabytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def strip(pictures: list[Image.Image]) -> Image.Image:
    """64x64 pictures side by side."""
    out = Image.new("RGB", (64 * len(pictures), 64))
    for i, picture in enumerate(pictures):
        out.paste(picture, (64 * i, 0))
    return out


def picture_path(path: Path, method: str, person: int) -> Path:
    """Where a run's last pictures are kept, beside its rows in `path`."""
    return path.with_suffix("") / f"{method.replace(' ', '-')}-{person:02d}.jpg"


def _work(path: Path, runs: list[Run]):
    """All runs of one method, in a process of its own, so that its peak memory is its own."""
    first, base, judge, code = runs[0], load_base("toy"), Judge.from_pretrained(), commit()
    with torch.autocast("cpu", torch.bfloat16, enabled=first.bf16, cache_enabled=False), \
            tqdm(total=sum(max(run.stops) for run in runs), desc=f"{first.method}, steps", mininterval=5) as bar:
        prior = class_pictures(base, first.domain) if METHODS[first.method].prior else None
        for run in runs:
            found = list(run.rows(base, judge, prior, bar.update))
            if run.person < KEPT and run.split == "held-out":
                path.with_suffix("").mkdir(exist_ok=True)
                strip(found[-1][1]).save(picture_path(path, run.method, run.person), quality=92)
            append_rows(path, [row | {"commit": code} for row, _ in found])


def plan(domain: str, identities: int, quick: bool = False, search: bool = False, methods: tuple[str, ...] = (), **how) -> list[Run]:
    """The runs of `e4t bench`: the comparison, its quick form, or the search of learning rates on validation identities.

    methods: some of METHODS (default: all). how: seed, bf16, weights of every `Run`."""
    if unknown := set(methods) - set(METHODS):
        raise ValueError(f"There is no method {', '.join(sorted(unknown))}; choose from {', '.join(METHODS)}.")
    chosen = {name: METHODS[name] for name in methods or METHODS}
    if search:
        return [Run(name, i, (min(method.steps, 25),), domain, "validation", factor, **how)
                for name, method in chosen.items() for factor in FACTORS for i in range(2)]
    return [Run(name, i, tuple(n for n in (QUICK if quick else STOPS) if n <= method.steps), domain, factor=method.factor, batch=8 if quick else 16, **how)
            for name, method in chosen.items() for i in range(4 if quick else identities)]


def finished(path: Path, runs: list[Run]) -> list[dict]:
    """Those rows of the JSON Lines file `path` that belong to `runs`."""
    wanted = [run.key(step) for run in runs for step in run.stops]
    return [row for row in read_rows(path) if {k: row.get(k) for k in wanted[0]} in wanted] if wanted else []


def execute(path: Path, runs: list[Run]) -> list[dict]:
    """Do those of `runs` that the JSON Lines file `path` does not hold yet, add their rows to it, and return the rows of all `runs`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for method in dict.fromkeys(run.method for run in runs):
        missing = [run for run in runs if run.method == method and len(finished(path, [run])) < len(run.stops)]
        if missing:
            worker = multiprocessing.get_context("spawn").Process(target=_work, args=(path, missing))
            worker.start()
            worker.join()
            if worker.exitcode:
                raise ValueError(f"The run of {method} broke off with status {worker.exitcode}. What is finished stands in {path}; the same command goes on from there.")
    return finished(path, runs)


def summarise(rows: list[dict]) -> dict:
    """{method: {"steps": {n: {score: mean with its interval}}, bytes, peak memory, and when it reached E4T's identity at 10 steps}}."""
    out = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        steps = {n: [row for row in own if row["steps"] == n] for n in sorted({row["steps"] for row in own})}
        out[method] = {"what": METHODS[method].what, "learns": {part: float(f"{lr * own[0]['factor']:.3g}") for part, lr in METHODS[method].learns.items()},
                       "identities": len(steps[min(steps)]),
                       "bytes": own[0]["bytes"], "peak_megabytes": max(row["peak_megabytes"] or 0 for row in own),
                       "steps": {n: {k: interval([row[k] for row in found]) for k in SCORES}
                                 for n, found in steps.items()}}
    goal = out.get("E4T", {}).get("steps", {}).get(10)
    for found in out.values() if goal else ():
        reached = [n for n, at in found["steps"].items() if at["identity"]["mean"] >= goal["identity"]["mean"]]
        found["reaches E4T at 10 steps"] = f"not within {max(found['steps'])} steps"
        if reached:
            at = {k: found["steps"][reached[0]][k]["mean"] for k in ("seconds", "prompt")}
            found["reaches E4T at 10 steps"] = {"steps": reached[0], **at, "times E4T's seconds": round(at["seconds"] / goal["seconds"]["mean"], 1)}
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
        tried = {factor: [row for row in rows if row["method"] == method and row["factor"] == factor] for factor in FACTORS}
        found = {factor: {k: round(float(np.mean([row[k] for row in own])), 4) for k in ("identity", "prompt")} for factor, own in tried.items() if own}
        enough = max(at["prompt"] for at in found.values()) - 0.05
        best = max((factor for factor, at in found.items() if at["prompt"] >= enough), key=lambda factor: found[factor]["identity"])
        out[method] = {"steps": max(row["steps"] for own in tried.values() for row in own), "factor": found, "best": best,
                       "learns": {part: float(f"{lr * best:.3g}") for part, lr in METHODS[method].learns.items()}}
    return out


def curves(summary: dict) -> Figure:
    """Identity against steps and against seconds, prompt score and diversity against steps; bands are 95 % intervals over identities."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(15, 4), dpi=90, layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, (across, up, top) in zip(axes, [("steps", "identity", 1.02), ("seconds", "identity", 1.02), ("steps", "prompt", 1.02), ("steps", "diversity", None)]):
        for method, found in summary.items():
            at = found["steps"]
            x = [max(n, 0.5) if across == "steps" else max(row["seconds"]["mean"], 0.5) for n, row in at.items()]
            line, = axis.plot(x, [row[up]["mean"] for row in at.values()], marker="o", markersize=3, label=method, linewidth=2.5 if method == "E4T" else 1.3)
            axis.fill_between(x, [row[up]["low"] for row in at.values()], [row[up]["high"] for row in at.values()], color=line.get_color(), alpha=0.12)
        axis.set(xscale="log", xlabel=f"{across} (0 is drawn at 0.5)", ylabel=up, ylim=(0, top))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure
