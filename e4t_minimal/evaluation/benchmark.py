"""The paper's claim as an experiment that could come out otherwise.

Every method learns the same pictures; identity is measured after numbers of steps and seconds.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from .. import DATA
from ..base import Base, load_base
from ..helpers import checks
from ..helpers.errors import one_sentence
from ..helpers.files import check_writable, replacing
from ..helpers.stored import read_model
from ..world import DOMAINS, Scene, draw, identity
from . import baselines, own
from .baselines import METHODS, Method, class_pictures
from .judge import Judge
from .pictures import picture_path, strip
from .provenance import commit
from .records import append_records, read_records
from .results import FACTORS
from .scores import sample_and_score

KEPT = 6  # the first people's last pictures are kept, for galleries and the user study
BATCH = 16  # pictures of a step, which STOPS and the learning rates of METHODS go with
STOPS = (0, 5, 10, 15, 25, 50, 100)  # numbers of steps to score, up to a method's own
QUICK_STOPS = (10, 20)
SEARCHED = 4  # validation identities whom every learning rate is tried on, unless asked for more


class Record(BaseModel):
    """A line of a JSON Lines file: what was measured at one stop of a `Run`, and its key."""

    model_config = ConfigDict(extra="allow")

    method: str
    person: int = Field(ge=0)
    steps: int = Field(ge=0)
    identity: float
    identity_plain: float
    identity_background: float
    prompt: float
    diversity: float
    seconds: float = Field(ge=0)
    bytes: int = Field(ge=0)
    peak_megabytes: int | None
    commit: str | None


@dataclass(frozen=True)
class Run:
    """One method learning one person, scored after each number of steps in `stops`."""

    method: str
    person: int  # number in the split
    stops: tuple[int, ...]
    domain: str = "face"
    split: str = "held-out"
    factor: float = 1.0  # on the method's learning rates
    batch: int = BATCH
    denoising: int = 10  # steps of drawing
    seed: int = 0
    bf16: bool = False
    weights: str = ""  # the domain whose E4T is used (default: the person's own)
    hold_background: bool = False  # whatever the method: see `Method.holds_background`
    source: str = ""  # "path.py:Class" of a method that is somebody's own,
    sha256: str = ""  # and of its file: after a change it is another method

    def key(self, steps: int) -> dict:
        """What tells the record of one stop from all others."""
        key = asdict(self) | {"steps": steps}
        del key["stops"]
        return key

    @property
    def folder(self) -> Path:
        """Of the E4T that is used."""
        return DATA / f"e4t-{self.weights or self.domain}"

    def as_method(self) -> Method:
        """The method with this run's rates."""
        method = METHODS[self.method]
        if self.source:
            return method.anew()
        holds = method.holds_background or self.hold_background
        return method.replace(factor=self.factor, holds_background=holds)

    def measure(
        self, base: Base, judge: Judge, prior: list[Image.Image] | None, progress: Callable
    ) -> Iterator[tuple[dict, list[Image.Image]]]:
        """(record, pictures of PROMPTS) at every stop; progress() is called after each step.

        A record has the key, scores, CPU seconds of the steps, bytes and peak memory. The seconds
        of the first step hold what it prepares (latents, folding), but no drawing. They are summed
        over cores: what else the machine does meanwhile does not count.
        """
        method, one = self.as_method(), identity(self.domain, self.split, self.person)
        functions = own if self.source else baselines
        image, _, mask = draw(one, Scene())
        seed = self.seed + self.person
        schedule = method.schedule.replace(steps=max(self.stops), batch=self.batch, seed=seed)
        with functions.model_for(method, base, self.domain, self.folder, seed) as model:
            loop = functions.personalize_with(method, model, image, mask, prior, schedule)
            seconds = 0.0
            for step in range(max(self.stops) + 1):
                if step > 0:
                    start = time.process_time()
                    next(loop)
                    seconds += time.process_time() - start
                    progress()
                if step not in self.stops:
                    continue
                subject = method.subject.format(self.domain)
                first_noise = self.seed + 100 * self.person
                scores, pictures = sample_and_score(
                    model, judge, one, image, subject, first_noise, self.denoising
                )
                record = self.key(step) | {"seconds": round(seconds, 2)}
                record |= {name: round(value, 4) for name, value in scores.items()}
                record["bytes"] = functions.stored_bytes(method, model)
                record["peak_megabytes"] = peak_megabytes()
                yield record, pictures


DEFAULTS = {field.name: field.default for field in fields(Run)}


@dataclass(frozen=True)
class Comparison:
    """What `e4t bench` is asked for. ValueError for a kind or method that there is not."""

    domain: str = "face"
    identities: int = 16
    kind: str = "full"  # "quick", or "search" of learning rates, on validation identities
    methods: tuple[str, ...] = ()  # of METHODS (default: all)
    # With fewer pictures a step there are as many more steps, at the found rates times the root of
    # the batch's share of BATCH (the usual rule for Adam). Not in the quick kind.
    batch: int = BATCH
    seed: int = 0
    bf16: bool = False
    weights: str = ""
    hold_background: bool = False

    def __post_init__(self):
        checks.choice("kind of comparison", self.kind, ("full", "quick", "search"))
        for method in self.methods:
            checks.choice("method", method, METHODS)
        checks.choice("domain", self.domain, DOMAINS)
        checks.choice("domain to use the E4T of", self.weights or self.domain, DOMAINS)
        checks.whole(2, 10_000, identities=self.identities, batch=self.batch)
        checks.seed(self.seed)
        if self.own_methods and self.kind == "search":
            raise ValueError(
                f"{self.own_methods[0]} knows its learning rates itself: --search has none to try."
            )

    def replace(self, **changes) -> "Comparison":
        return replace(self, **changes)

    @property
    def own_methods(self) -> list[str]:
        """Those that stand in somebody's own file; see `own.register`."""
        return [name for name in self.methods if METHODS[name].source]

    @property
    def name(self) -> str:
        """The stem of its files' names.

        Those of all methods stand in the same files, unless one is somebody's own.
        """
        parts = ["search" if self.kind == "search" else "bench", self.domain]
        if self.weights:
            parts.append(f"on-{self.weights}")
        if self.kind == "quick":
            parts.append("quick")
        if self.batch != BATCH:
            parts.append(f"batch-{self.batch}")
        if self.seed:
            parts.append(f"seed-{self.seed}")
        if self.hold_background:
            parts.append("hold-background")
        parts += self.own_methods
        return "-".join(parts)

    def runs(self) -> list[Run]:
        """Method by method, and person by person."""
        of_kind = {"full": self._full, "quick": self._quick, "search": self._search}[self.kind]
        runs = []
        for name in self.methods or METHODS:
            runs += of_kind(name, METHODS[name])
        return runs

    def _full(self, name: str, method: Method) -> list[Run]:
        share = self.batch / BATCH
        counts = sorted({n for n in STOPS if n < method.steps} | {method.steps})
        stops = tuple(round(n / share) for n in counts)
        factor = method.factor * share**0.5
        return [self._run(name, i, stops, factor=factor) for i in range(self.identities)]

    def _quick(self, name: str, method: Method) -> list[Run]:
        stops = tuple(n for n in QUICK_STOPS if n <= method.steps) or (method.steps,)
        run = self._run(name, 0, stops, split="validation", factor=method.factor, batch=8)
        return [replace(run, person=i) for i in range(4)]

    def _search(self, name: str, method: Method) -> list[Run]:
        stops = (round(min(method.steps, 25) * BATCH / self.batch),)
        run = self._run(name, 0, stops, split="validation")
        people = range(self.identities)
        return [replace(run, factor=factor, person=i) for factor in FACTORS for i in people]

    def _run(self, method: str, person: int, stops: tuple[int, ...], **changes) -> Run:
        run = Run(
            method,
            person,
            stops,
            domain=self.domain,
            batch=self.batch,
            seed=self.seed,
            bf16=self.bf16,
            weights=self.weights,
            hold_background=self.hold_background,
            source=METHODS[method].source,
            sha256=METHODS[method].sha256,
        )
        return replace(run, **changes)


def peak_megabytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)


def execute(path: Path, runs: list[Run]) -> list[dict]:
    """Do what the JSON Lines file `path` does not hold yet; return the records of all `runs`.

    ValueError if a run breaks off; what a run needs is looked at before the first one begins.
    """
    finished(path, runs)
    check_writable(path)
    for folder in {run.folder for run in runs}:
        read_model(folder)
    for method in dict.fromkeys(run.method for run in runs):
        all_runs = [run for run in runs if run.method == method]
        missing = [run for run in all_runs if len(finished(path, [run])) < len(run.stops)]
        if missing:
            _in_own_process(path, missing)
    return finished(path, runs)


def finished(path: Path, runs: list[Run]) -> list[dict]:
    """Those records of the JSON Lines file `path` that belong to `runs`."""
    wanted = [run.key(step) for run in runs for step in run.stops]
    names = list(wanted[0]) if wanted else []
    found = []
    for record in map(BaseModel.model_dump, read_records(path, Record)):
        # a record that is older than a field has its default
        key = {name: record.get(name, DEFAULTS.get(name)) for name in names}
        if key in wanted:
            found.append(record)
    return found


def _in_own_process(path: Path, runs: list[Run]):
    """All runs of one method, so that its peak memory is its own."""
    worker = multiprocessing.get_context("spawn").Process(target=_work, args=(path, runs))
    worker.start()
    try:
        worker.join()
    finally:  # also when this process is told to stop
        worker.terminate()
        worker.join()
    if worker.exitcode:
        raise ValueError(
            f"The run of {runs[0].method} broke off with status {worker.exitcode}. What is "
            f"finished stands in {path}; the same command goes on from there."
        )


def _work(path: Path, runs: list[Run]):
    with one_sentence("e4t bench"):
        _measure(path, runs)


def _measure(path: Path, runs: list[Run]):
    first, base, judge, code = runs[0], load_base("toy"), Judge.from_pretrained(), commit()
    if first.source:
        own.register(first.source)
    prior = None
    half = torch.autocast("cpu", torch.bfloat16, enabled=first.bf16, cache_enabled=False)
    total = sum(max(run.stops) for run in runs)
    with half, tqdm(total=total, desc=f"{first.method}, steps", mininterval=5) as bar:
        if METHODS[first.method].prior:
            prior = class_pictures(base, first.domain, 4 * first.batch, steps=first.denoising)
        for run in runs:
            if run.source:
                base = load_base("toy")  # nobody knows what the person before has left of it
            measured = list(run.measure(base, judge, prior, bar.update))
            if run.person < KEPT and not path.stem.startswith("search"):  # which has five of each
                _keep(picture_path(path, run.method, run.person), measured[-1][1])
            append_records(path, [record | {"commit": code} for record, _ in measured])


def _keep(path: Path, pictures: list[Image.Image]):
    with replacing(path) as new:
        strip(pictures).save(new, quality=92)
