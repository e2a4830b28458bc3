"""What each choice is worth: the same training and the same test, with one thing changed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from tqdm.auto import tqdm

from .. import DATA
from ..base import Base, load_base
from ..evaluation import alternatives  # noqa: F401  so that their names are known
from ..evaluation.provenance import commit
from ..evaluation.scores import People, evaluate, floor_scores
from ..helpers import checks
from ..helpers.files import replacing
from ..helpers.reading import read_json
from ..scaling.fixed import fixed
from ..train import PERSONALIZATION, Schedule
from .e4t import fit
from .hardware import autocast, bf16_is_faster


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    what: str
    pretraining: dict | None = None  # phase 1: what differs from SHORT; None: the shipped weights
    schedule: Schedule = PERSONALIZATION  # phase 2
    sampling: Callable | None = None  # a context to draw in, see `evaluate`
    rates: tuple[float, ...] = ()  # offsets_lr of phase 2 to choose among, on validation identities

    @property
    def differs_in_phase_2(self) -> bool:
        return self.schedule != PERSONALIZATION or self.sampling is not None


def _personalization(l2: float = 0.1, outside: float = 3.0, **changes) -> Schedule:
    """PERSONALIZATION with other weights of the loss's terms, and further changes."""
    return PERSONALIZATION.replace(weights={"l2": l2, "outside": outside}, **changes)


# far less than what is shipped, the same for all: they fit into a night
SHORT = {"dictionary_steps": 250, "steps": 250}
CHANGES_OF_THE_DICTIONARY = {"encoder", "s", "blocks", "dictionary_steps"}
# a full-size Delta is added to weights of about 0.05, so it wants smaller steps
ADDITIVE_RATES = (1e-4, 1e-3, 1e-2)

VARIANTS = {
    "E4T": Variant("as shipped"),
    "E4T, short": Variant(
        "250 steps of the dictionary and 250 of the loss, as in all rows below", {}
    ),
    "no offsets": Variant("the encoder alone", {"offsets": "none"}),
    "no encoder": Variant(
        "the offsets alone; S* is one learned word, the same for all pictures", {"encoder": "word"}
    ),
    "no dictionary": Variant(
        "the paper's loss from the first step on, for the same time",
        {"dictionary_steps": 0, "steps": 370},
    ),
    "ResNet-18": Variant("its encoder sees the picture alone", {"encoder": "resnet18"}),
    "contrastive": Variant("a contrastive term in phase 1", {"weights": {"contrastive": 0.01}}),
    "additive": Variant(
        "W + Delta, of full size",
        {"offsets": "additive"},
        rates=ADDITIVE_RATES,
    ),
    "additive, L1": Variant(
        "with a sparsity term",
        {"offsets": "additive", "weights": {"sparsity": 1.0}},
        rates=ADDITIVE_RATES,
    ),
    "additive, cosine": Variant(
        "with a term that keeps the weights' directions",
        {"offsets": "additive", "weights": {"cosine": 1.0}},
        rates=ADDITIVE_RATES,
    ),
    "s = 0.01": Variant("the offset of S* scaled down", {"s": 0.01}),
    "s = 1": Variant("the offset of S* scaled up", {"s": 1.0}),
    "1 block": Variant("the encoder sees the U-Net's mid block only", {"blocks": 1}),
    "2 blocks": Variant("mid block and the one before", {"blocks": 2}),
    "L2 0": Variant(
        "no penalty on the length of s E in phase 2", schedule=_personalization(l2=0.0)
    ),
    "L2 1": Variant(
        "that penalty with ten times the usual weight", schedule=_personalization(l2=1.0)
    ),
    "L2 0.1, offsets still": Variant(
        "the usual weight, and the encoder alone learns in phase 2",
        schedule=_personalization(offsets_lr=0.0),
    ),
    "background free": Variant(
        "nothing holds the background in phase 2", schedule=_personalization(outside=0.0)
    ),
    "one embedding": Variant(
        "S* is not predicted anew at every step of drawing: the mean of 16 predictions serves all",
        sampling=fixed,
    ),
    "all timesteps": Variant(
        "phase 2 learns at low noise, too", schedule=_personalization(t_min=0)
    ),
}


def ablate(
    runs: Path, path: Path, people: People, steps: int, names: list[str] | None = None
) -> dict[str, dict]:
    """Train and measure variants, and return {variant: its report} of all that are done.

    runs: where pretrained folders lie. path: the JSON file of reports; what it holds already is not
    done again. names: of VARIANTS (default: all); ValueError for an unknown one.
    """
    for name in names or []:
        checks.choice("variant", name, VARIANTS)
    missing = [name for name in names or VARIANTS if name not in read(path)]
    if not missing:
        return read(path)
    base = load_base("toy")
    trial_people = People(people.domain, 3, "validation")
    wanted = [people]
    if any(VARIANTS[name].rates for name in missing):
        wanted.append(trial_people)
    half = bf16_is_faster()  # asked once: the same format for all
    with autocast("cpu", half):
        # the same for all variants
        floors = {each: floor_scores(base, each) for each in wanted}
    for name in tqdm(missing, desc="variants"):
        variant = VARIANTS[name]
        weights = pretrained(name, runs, people.domain)
        measure = _Measurement(base, weights, variant, steps, floors, half)
        schedule = variant.schedule
        if variant.rates:
            schedule = schedule.replace(offsets_lr=measure.best_rate(trial_people))
        stops = (steps,) if variant.differs_in_phase_2 else (0, steps)
        report = measure.report(people, stops, schedule)
        _add(path, name, _origin(variant, weights) | {"bf16": half} | report)
    return read(path)


@dataclass(frozen=True)
class _Measurement:
    """How one variant is measured, on whomever."""

    base: Base
    weights: Path
    variant: Variant
    steps: int
    floors: dict[People, list[dict]]
    half: bool  # products in bf16

    def report(self, people: People, stops: tuple[int, ...], schedule: Schedule) -> dict:
        with autocast("cpu", self.half):
            return evaluate(
                self.base,
                self.weights,
                people,
                stops,
                schedule,
                self.floors[people],
                self.variant.sampling,
            )

    def best_rate(self, people: People) -> float:
        """The rate of the offsets with the highest sum of identity and prompt."""
        sums = {}
        for rate in self.variant.rates:
            schedule = self.variant.schedule.replace(offsets_lr=rate)
            scores = self.report(people, (self.steps,), schedule)["steps"][str(self.steps)]
            sums[rate] = scores["identity"]["mean"] + scores["prompt"]["mean"]
        return max(sums, key=sums.get)


def pretrained(name: str, runs: Path, domain: str) -> Path:
    """The E4T folder of a variant: the shipped one, or one that is trained here.

    Where the encoder is that of "E4T, short", training goes on from its dictionary.
    """
    changes = VARIANTS[name].pretraining
    if changes is None:
        return DATA / f"e4t-{domain}"
    folder = _folder(name, runs, domain)
    if (folder / "model").exists():
        return folder / "model"
    choices = SHORT | changes
    if name != "E4T, short" and not CHANGES_OF_THE_DICTIONARY & set(changes):
        choices["dictionary"] = pretrained("E4T, short", runs, domain).parent
    fit(folder, domain, resume=True, **choices)
    return folder / "model"


def _folder(name: str, runs: Path, domain: str) -> Path:
    return runs / f"ablate-{domain}" / name.replace(" ", "-").replace(",", "")


class Origin(BaseModel):
    """What e4t.json says of a training, besides what a model needs."""

    command: str
    seconds: float


def _origin(variant: Variant, weights: Path) -> dict:
    """Where a variant's numbers come from."""
    made = read_json(weights / "e4t.json", Origin)
    return {
        "what": variant.what,
        "commit": commit(),
        "made by": made.command,
        "training seconds": made.seconds,
        "bytes": sum(file.stat().st_size for file in weights.iterdir()),
    }


def _add(path: Path, name: str, report: dict):
    reports = read(path) | {name: report}  # read again: another process may do others meanwhile
    in_order = {each: reports[each] for each in VARIANTS if each in reports}
    with replacing(path) as new:
        new.write_text(json.dumps(in_order, indent=1) + "\n")


def read(path: Path) -> dict[str, dict]:
    """{variant: its report}; {} before the first."""
    return read_json(path, dict[str, dict]) if path.exists() else {}
