"""The paper's claim as an experiment that could come out otherwise: every method on the same pictures, identity against steps and seconds."""

import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from .. import DATA
from ..base import Base, load_base
from ..evaluation.baselines import METHODS, begin, class_pictures, learn, stored_bytes
from ..evaluation.scores import Judge, look
from ..evaluation.results import FACTORS, picture_path, strip
from ..evaluation.speed import commit
from ..evaluation.study import append_rows, read_rows
from ..world import Scene, draw, identity

KEPT = 6  # the first people's last pictures are kept, for galleries and the user study
STOPS, QUICK = (
    (0, 5, 10, 15, 25, 50, 100),
    (10, 20),
)  # numbers of steps to score, up to a method's own
BATCH = 16  # rows of a step, which these numbers and the learning rates of METHODS go with


@dataclass(frozen=True)
class Run:
    """One method learning one person (their number in the split), scored after each number of steps in `stops`.

    batch: rows of a training step. denoising: steps of drawing. weights: the domain whose E4T is used (default: the person's own)."""

    method: str
    person: int
    stops: tuple[int, ...]
    domain: str = "face"
    split: str = "held-out"
    factor: float = 1.0
    batch: int = BATCH
    denoising: int = 20
    seed: int = 0
    bf16: bool = False
    weights: str = ""

    def key(self, steps: int) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "stops"} | {"steps": steps}

    def rows(self, base: Base, judge: Judge, prior: list | None, progress=lambda: None):
        """Yields ({key, scores, CPU seconds of the steps alone, bytes, peak memory}, pictures of PROMPTS) at every stop.

        CPU seconds, summed over cores: what else the machine does meanwhile does not count."""
        method, one, spent = (
            METHODS[self.method],
            identity(self.domain, self.split, self.person),
            0.0,
        )
        image, _, mask = draw(one, Scene())
        with begin(
            method,
            base,
            self.domain,
            DATA / f"e4t-{self.weights or self.domain}",
            self.seed + self.person,
        ) as model:
            loop = learn(
                method,
                model,
                image,
                mask,
                prior,
                max(self.stops),
                self.batch,
                self.factor,
                self.seed + self.person,
            )
            for step in range(max(self.stops) + 1):
                if step > 0:
                    start = time.process_time()
                    next(loop)
                    spent += time.process_time() - start
                    progress()
                if step in self.stops:
                    found, pictures = look(
                        model,
                        judge,
                        one,
                        image,
                        method.subject.format(self.domain),
                        self.seed + 100 * self.person,
                        self.denoising,
                    )
                    found = {"seconds": round(spent, 2)} | {
                        k: round(v, 4) for k, v in found.items()
                    }
                    yield (
                        self.key(step)
                        | found
                        | {
                            "bytes": stored_bytes(method, model),
                            "peak_megabytes": peak_megabytes(),
                        },
                        pictures,
                    )


def peak_megabytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 2**10)
    )


def _work(path: Path, runs: list[Run]):
    """All runs of one method, in a process of its own, so that its peak memory is its own."""
    first, base, judge, code = runs[0], load_base("toy"), Judge.from_pretrained(), commit()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=first.bf16, cache_enabled=False),
        tqdm(
            total=sum(max(run.stops) for run in runs), desc=f"{first.method}, steps", mininterval=5
        ) as bar,
    ):
        prior = (
            class_pictures(base, first.domain, 4 * first.batch, steps=first.denoising)
            if METHODS[first.method].prior
            else None
        )
        for run in runs:
            found = list(run.rows(base, judge, prior, bar.update))
            if run.person < KEPT and run.split == "held-out":
                path.with_suffix("").mkdir(exist_ok=True)
                strip(found[-1][1]).save(picture_path(path, run.method, run.person), quality=92)
            append_rows(path, [row | {"commit": code} for row, _ in found])


def plan(
    domain: str,
    identities: int,
    quick: bool = False,
    search: bool = False,
    methods: tuple[str, ...] = (),
    batch: int = BATCH,
    **how,
) -> list[Run]:
    """The runs of `e4t bench`: the comparison, its quick form, or the search of learning rates on validation identities.

    methods: some of METHODS (default: all). batch: a smaller one gets as many more steps, and the found learning rates times the root of its share of BATCH
    (the usual rule for Adam). how: seed, bf16, weights of every `Run`."""
    if unknown := set(methods) - set(METHODS):
        raise ValueError(
            f"There is no method {', '.join(sorted(unknown))}; choose from {', '.join(METHODS)}."
        )
    chosen, share = {name: METHODS[name] for name in methods or METHODS}, batch / BATCH
    if search:
        return [
            Run(
                name,
                i,
                (round(min(method.steps, 25) / share),),
                domain,
                "validation",
                factor,
                batch,
                **how,
            )
            for name, method in chosen.items()
            for factor in FACTORS
            for i in range(2)
        ]
    if quick:
        return [
            Run(
                name,
                i,
                tuple(n for n in QUICK if n <= method.steps),
                domain,
                factor=method.factor,
                batch=8,
                denoising=10,
                **how,
            )
            for name, method in chosen.items()
            for i in range(4)
        ]
    return [
        Run(
            name,
            i,
            tuple(round(n / share) for n in STOPS if n <= method.steps),
            domain,
            factor=method.factor * share**0.5,
            batch=batch,
            **how,
        )
        for name, method in chosen.items()
        for i in range(identities)
    ]


def finished(path: Path, runs: list[Run]) -> list[dict]:
    """Those rows of the JSON Lines file `path` that belong to `runs`."""
    wanted = [run.key(step) for run in runs for step in run.stops]
    return (
        [row for row in read_rows(path) if {k: row.get(k) for k in wanted[0]} in wanted]
        if wanted
        else []
    )


def execute(path: Path, runs: list[Run]) -> list[dict]:
    """Do those of `runs` that the JSON Lines file `path` does not hold yet, add their rows to it, and return the rows of all `runs`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for method in dict.fromkeys(run.method for run in runs):
        missing = [
            run
            for run in runs
            if run.method == method and len(finished(path, [run])) < len(run.stops)
        ]
        if missing:
            worker = multiprocessing.get_context("spawn").Process(
                target=_work, args=(path, missing)
            )
            worker.start()
            worker.join()
            if worker.exitcode:
                raise ValueError(
                    f"The run of {method} broke off with status {worker.exitcode}. What is finished stands in {path}; the same command goes on from there."
                )
    return finished(path, runs)
