"""What the toy base can draw, as the judge sees it: styles, places and domains as asked, celebrities by name, strangers by description."""

import numpy as np
from tqdm.auto import tqdm

from ..base import load_base
from ..evaluation.scores import Judge, prompt_score
from ..sample import sample
from ..world.scenery import BACKGROUNDS, STYLES
from ..world import DOMAINS, Scene, caption, identity, named


def check(base: str, judge: str, seeds: int = 2, people: int = 32, batch: int = 32) -> dict:
    """{what was asked for: share that the judge finds}, over all domains; identity by name and by description also per domain."""
    base, judge, asked = (
        load_base(base),
        Judge.from_pretrained(judge),
        [],
    )  # asked: (prompt, {label: {question: the word it should answer}})
    for domain in DOMAINS:
        for scene in (Scene(background, style) for style in STYLES for background in BACKGROUNDS):
            if scene.shows_background:
                wanted = {
                    "style": {"style": scene.style},
                    f"style {scene.style}": {"style": scene.style},
                    "background": {"background": scene.background},
                    "domain": {"domain": domain},
                }
                asked += [
                    (f"{STYLES[scene.style]} a {domain} {BACKGROUNDS[scene.background]}", wanted)
                ] * seeds
        for kind, ones in {
            "name": named(domain)[:people],
            "description": [identity(domain, "held-out", i) for i in range(people)],
        }.items():
            asked += [
                (
                    caption(one, Scene()),
                    {
                        f"identity by {kind}, {domain}": {
                            f"{domain}.{a}": word for a, word in one.visible.items()
                        }
                    },
                )
                for one in ones
            ]
    found = {}
    for start in tqdm(range(0, len(asked), batch), desc="check"):
        rows = asked[start : start + batch]
        for reading, (_, labels) in zip(
            judge.read(sample(base, [prompt for prompt, _ in rows], seed=start)), rows
        ):
            for label, wanted in labels.items():
                found.setdefault(label, []).append(prompt_score(reading, wanted))
    return {label: round(float(np.mean(scores)), 3) for label, scores in sorted(found.items())}
