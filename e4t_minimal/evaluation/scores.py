"""How one knows that it worked: scores between a floor and a ceiling, each with its interval."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..base import Base
from ..helpers import checks
from ..model import E4T
from ..sample import sample
from ..train import PERSONALIZATION, Schedule, personalize, prepare
from ..world import DOMAINS, SPLITS, Identity, Scene, caption, draw, identity, named
from .gap import conditioning_gap
from .judge import Judge
from .prompts import PROMPTS


@dataclass(frozen=True)
class People:
    """On whom an E4T is measured. ValueError for an unknown domain or split."""

    domain: str = "face"
    count: int = 32
    split: str = "held-out"
    seed: int = 0  # of the first noises of their pictures

    def __post_init__(self):
        checks.choice("domain", self.domain, DOMAINS)
        checks.choice("split", self.split, SPLITS)
        checks.whole(1, 10_000, people=self.count)
        checks.seed(self.seed)

    def identities(self) -> list[Identity]:
        return [identity(self.domain, self.split, i) for i in range(self.count)]

    def noise_seed(self, index: int) -> int:
        """Seed of one person's pictures, the same for whatever draws them."""
        return self.seed + 100 * index


def identity_score(reading: dict[str, str], one: Identity) -> float:
    """Share of the identity's visible attributes that the judge has found, 0..1."""
    found = [reading[f"{one.domain}.{name}"] == word for name, word in one.visible.items()]
    return float(np.mean(found))


def prompt_score(reading: dict[str, str], wanted: dict[str, str]) -> float:
    """Share of what the prompt asked for that the judge has found, 0..1."""
    return float(np.mean([reading[question] == word for question, word in wanted.items()]))


def diversity(pictures: list[Image.Image]) -> float:
    """How much pictures of one prompt differ, 0..1 (our choice).

    The root mean square difference of two pictures' pixels, averaged over all pairs.
    """
    flat = [np.asarray(picture, float).ravel() / 255 for picture in pictures]
    distances = [np.sqrt(np.mean((a - b) ** 2)) for a, b in combinations(flat, 2)]
    return float(np.mean(distances))


def interval(values, statistic: Callable | None = None, seed: int = 0) -> dict[str, float]:
    """{"mean", "low", "high"}: a mean over identities, with its 95 % bootstrap interval.

    values (n,) or (n, k): one number for each identity, or k of them. statistic: what is made of
    the k means (k, ...), such as a ratio; default: the mean itself.
    """
    values = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(len(values), size=(2000, len(values)))
    mean, means = values.mean(0), values[drawn].mean(1).T  # (k,) and (k, 2000)
    if statistic is not None:
        mean, means = statistic(mean), statistic(means)
    low, high = np.percentile(means, [2.5, 97.5])
    numbers = {"mean": mean, "low": low, "high": high}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def score(judge: Judge, pictures: list[Image.Image], one: Identity) -> dict[str, float]:
    """Scores of the pictures of PROMPTS, in their order.

    Identity counts in photos only, since a sketch shows no colours. ValueError for other pictures.
    """
    if len(pictures) != len(PROMPTS):
        raise ValueError(
            f"Give one picture for each of the {len(PROMPTS)} PROMPTS, not {len(pictures)}."
        )
    readings = judge.read(pictures)
    of_kind = {"plain": [], "background": [], "style": []}
    for prompt, reading in zip(PROMPTS, readings, strict=True):
        of_kind[prompt.kind].append(identity_score(reading, one))
    as_asked = [prompt_score(r, prompt.wanted) for prompt, r in zip(PROMPTS, readings, strict=True)]
    return {
        "identity": float(np.mean(of_kind["plain"] + of_kind["background"])),
        "identity_plain": float(np.mean(of_kind["plain"])),
        "identity_background": float(np.mean(of_kind["background"])),
        "prompt": float(np.mean(as_asked)),
    }


def sample_and_score(
    model: Base | E4T,
    judge: Judge,
    one: Identity,
    image: Image.Image | None,
    subject: str,
    seed: int = 0,
    steps: int = 10,
) -> tuple[dict[str, float], list[Image.Image]]:
    """(scores, the pictures of PROMPTS), drawn of the subject in `steps` denoising steps.

    The diversity is that of eight more photos.
    """
    templates = [prompt.template for prompt in PROMPTS] + ["a photo of {}"] * 8
    prompts = [template.format(subject) for template in templates]
    pictures = sample(model, prompts, image, steps, seed=seed)
    asked, photos = pictures[: len(PROMPTS)], pictures[len(PROMPTS) :]
    return score(judge, asked, one) | {"diversity": diversity(photos)}, asked


def floor_scores(base: Base, people: People) -> list[dict[str, float]]:
    """The floor: what the base draws for the class word alone, held against each of the people.

    From the same first noises as in `evaluate`.
    """
    judge = Judge.from_pretrained()
    subject = f"a {people.domain}"
    found = []
    for i, one in enumerate(tqdm(people.identities(), desc=subject)):
        scores, _ = sample_and_score(base, judge, one, None, subject, people.noise_seed(i))
        found.append(scores)
    return found


def named_scores(base: Base, people: People) -> dict[str, dict]:
    """What the base draws of as many celebrities by their names, each score with its interval.

    They are people whom it was trained on: the most that one word can be. Their diversity is that
    of one person; the class word's is that of eight people.
    """
    judge = Judge.from_pretrained()
    found = []
    for i, one in enumerate(tqdm(named(people.domain)[: people.count], desc="by name")):
        scores, _ = sample_and_score(base, judge, one, None, one.name, people.noise_seed(i))
        found.append(scores)
    summary = {}
    for name in found[0]:
        summary[name] = interval([scores[name] for scores in found])
    return summary


def evaluate(
    base: Base,
    weights: str | Path,
    people: People,
    stops: tuple[int, ...] = (0, 5, 15),
    schedule: Schedule = PERSONALIZATION,
    floor: list[dict[str, float]] | None = None,
    sampling: Callable[[E4T, Image.Image], AbstractContextManager] | None = None,
) -> dict:
    """All that is known about a domain's E4T, to be written as JSON.

    Floor, ceiling, conditioning gap, and scores after each number of steps in `stops`. The people
    are drawn on white, with the mask that the toy world knows.

    The base is left as it was, also when something breaks off.

    weights: an E4T folder; ValueError if it is none. floor: what `floor_scores` gave for these
    people, if it is known. sampling(model, picture): a context to draw in, for ablations.
    """
    judge = Judge.from_pretrained()
    identities = people.identities()
    images = [draw(one, Scene())[0] for one in identities]
    # first, so that a wrong folder is found now, and not after the floor
    gap = _gap(base, weights, identities, images)
    ceiling = _ceiling(base, judge, identities, images)
    floor = floor or floor_scores(base, people)
    judged = _read_identities(judge, images, identities)
    scores = {n: [] for n in stops}
    for i, one in enumerate(tqdm(identities, desc="S*")):
        model = E4T.from_pretrained(weights, base)
        trial = _Trial(judge, one, people.noise_seed(i), sampling)
        try:
            for n, found in trial.run(model, stops, schedule.replace(seed=people.seed)):
                scores[n].append(found)
        finally:
            model.detach()
    return {
        "domain": people.domain,
        "split": people.split,
        "identities": people.count,
        "seed": people.seed,
        "schedule": asdict(schedule.replace(steps=max(stops), seed=people.seed)),
        "judge": interval(judged),
        "gap": round(gap, 4),
        "ceiling": interval(ceiling),
        "floor": _summary(floor, floor, ceiling),
        "steps": {str(n): _summary(found, floor, ceiling) for n, found in scores.items()},
    }


@dataclass(frozen=True)
class _Trial:
    """One person, whom a model learns and draws."""

    judge: Judge
    one: Identity
    seed: int  # of the first noises
    sampling: Callable | None

    def run(self, model: E4T, stops: tuple[int, ...], schedule: Schedule) -> Iterator[tuple]:
        """(number of steps, scores and the seconds of the steps so far), at every stop."""
        image, _, mask = draw(self.one, Scene())
        loop = personalize(model, image, schedule.replace(steps=max(stops)), mask)
        seconds = 0.0
        for n in range(max(stops) + 1):
            if n > 0:
                start = time.perf_counter()
                next(loop)
                seconds += time.perf_counter() - start
            if n in stops:
                yield n, self._scores(model, image) | {"seconds": seconds}

    def _scores(self, model: E4T, image: Image.Image) -> dict[str, float]:
        token = model.placeholder.token
        with self.sampling(model, image) if self.sampling else nullcontext():
            return sample_and_score(model, self.judge, self.one, image, token, self.seed)[0]


def _gap(base: Base, weights: str | Path, identities: list[Identity], images: list) -> float:
    """The conditioning gap before any step, between these people."""
    model = E4T.from_pretrained(weights, base)
    token = model.placeholder.token
    captions = [caption(one, Scene(), subject=token) for one in identities]
    try:
        return conditioning_gap(model, prepare(model, images, captions))
    finally:
        model.detach()


@torch.no_grad()
def _ceiling(base: Base, judge: Judge, identities: list[Identity], images: list) -> list[float]:
    """Identity of the pictures themselves, through the autoencoder: no drawing can be sharper."""
    return _read_identities(judge, base.decode(base.encode(base.pixels(images))), identities)


def _read_identities(judge: Judge, images: list, identities: list[Identity]) -> list[float]:
    return [identity_score(r, one) for r, one in zip(judge.read(images), identities, strict=True)]


def _summary(scores: list[dict], floor: list[dict], ceiling: list[float]) -> dict[str, dict]:
    """Every score's mean over people, and the identities once more as shares of the way up.

    "each": every person's identity, so that two reports of the same people can be compared person
    by person. normalised = (identity - floor) / (ceiling - floor), of the means.
    """
    summary = {}
    for name in scores[0]:
        summary[name] = interval([found[name] for found in scores])
    for name in [name for name in summary if name.startswith("identity")]:
        triples = [
            (found[name], low[name], top)
            for found, low, top in zip(scores, floor, ceiling, strict=True)
        ]
        summary[name.replace("identity", "normalised")] = interval(triples, _share_of_the_way)
    summary["each"] = [round(found["identity"], 4) for found in scores]
    return summary


def _share_of_the_way(means: np.ndarray) -> np.ndarray:
    """(identity, floor, ceiling) (3, ...) -> (...)."""
    found, floor, ceiling = means
    return (found - floor) / (ceiling - floor)
