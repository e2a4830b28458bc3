"""What the toy base draws, as the judge sees it: people by name and description, scenes, styles."""

import numpy as np
from tqdm.auto import tqdm

from ..base import Base, load_base
from ..evaluation.judge import Judge
from ..sample import sample
from ..world import DOMAINS, Identity, Scene, caption, identity, named
from ..world.scenery import BACKGROUNDS, STYLES

AT_ONCE = 32  # pictures drawn together


def check(base_name: str, judge_name: str | None = None, people: int = 64) -> dict[str, dict]:
    """{what was asked for: {what the judge looked at: share that came as asked}}.

    People: `people` of each domain by their own names, and as many held-out ones by description,
    smiling, on white. Scenes: every style with every background that it can show, in every domain.
    """
    judge = Judge.from_pretrained(judge_name) if judge_name else Judge.from_pretrained()
    base = load_base(base_name)
    report = {}
    for domain in DOMAINS:
        strangers = [identity(domain, "held-out", i) for i in range(people)]
        report[f"{domain} by name"] = people_as_asked(base, judge, named(domain)[:people])
        report[f"{domain} by description"] = people_as_asked(base, judge, strangers)
    return report | {"scenes": scenes_as_asked(base, judge)}


def people_as_asked(base: Base, judge: Judge, people: list[Identity]) -> dict[str, float]:
    """{attribute: share that the judge reads right, "mean" of them, "expression"}."""
    scene = Scene(expression="smiling")
    prompts = [caption(one, scene) for one in people]
    right: dict[str, list[bool]] = {}
    for reading, one in zip(_read(base, judge, prompts, people[0].domain), people, strict=True):
        for attribute, word in one.visible.items():
            found = reading[f"{one.domain}.{attribute}"]
            right.setdefault(attribute, []).append(found == word)
        right.setdefault("expression", []).append(reading["expression"] == scene.expression)
    shares = {name: round(float(np.mean(hits)), 3) for name, hits in right.items()}
    attributes = [share for name, share in shares.items() if name != "expression"]
    return shares | {"mean": round(float(np.mean(attributes)), 3)}


def scenes_as_asked(base: Base, judge: Judge) -> dict[str, float]:
    """{"style", "background", "domain", and each style: share that came as asked}."""
    asked = [
        (domain, Scene(background, style))
        for domain in DOMAINS
        for style in STYLES
        for background in BACKGROUNDS
        if Scene(background, style).shows_background
    ]
    prompts = [
        f"{STYLES[scene.style]} a {domain} {BACKGROUNDS[scene.background]}"
        for domain, scene in asked
    ]
    right: dict[str, list[bool]] = {}
    for reading, (domain, scene) in zip(_read(base, judge, prompts, "scenes"), asked, strict=True):
        as_asked = reading["style"] == scene.style
        right.setdefault("style", []).append(as_asked)
        right.setdefault(f"style {scene.style}", []).append(as_asked)
        right.setdefault("background", []).append(reading["background"] == scene.background)
        right.setdefault("domain", []).append(reading["domain"] == domain)
    return {name: round(float(np.mean(hits)), 3) for name, hits in right.items()}


def _read(base: Base, judge: Judge, prompts: list[str], what: str) -> list[dict[str, str]]:
    """The judge's readings of what the base draws for the prompts."""
    readings = []
    for start in tqdm(range(0, len(prompts), AT_ONCE), desc=f"check, {what}"):
        pictures = sample(base, prompts[start : start + AT_ONCE], seed=start)
        readings += judge.read(pictures)
    return readings
