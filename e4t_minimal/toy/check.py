"""What the toy base can draw, as the judge sees it: styles, places and domains as asked, celebrities by name, strangers by description."""
import numpy as np
from tqdm.auto import tqdm

from ..base import load_base
from ..evaluate import Judge, identity_score
from ..sample import sample
from ..scenery import BACKGROUNDS, STYLES
from ..world import DOMAINS, Scene, caption, identity, named


def check(base: str, judge: str, seeds: int = 2, people: int = 32, batch: int = 32) -> dict:
    """{question or kind: share that came as asked}, over all domains; identity also per domain. About five minutes on two cores."""
    base, judge, asked = load_base(base), Judge.from_pretrained(judge), []  # asked: (prompt, what to look for, function of a reading)
    for domain in DOMAINS:
        for scene in (Scene(background, style) for style in STYLES for background in BACKGROUNDS if Scene(background, style).shows_background):
            prompt, wanted = f"{STYLES[scene.style]} a {domain} {BACKGROUNDS[scene.background]}", dict(style=scene.style, background=scene.background, domain=domain)
            asked += [(prompt, {question: (lambda r, q=question, w=word: r[q] == w) for question, word in wanted.items()} |
                       {f"style {scene.style}": lambda r, w=scene.style: r["style"] == w})] * seeds
        for kind, ones in {"name": named(domain)[:people], "description": [identity(domain, "held-out", i) for i in range(people)]}.items():
            asked += [(caption(one, Scene()), {f"identity by {kind}, {domain}": lambda r, one=one: identity_score(r, one)}) for one in ones]
    found = {}
    for start in tqdm(range(0, len(asked), batch), desc="check"):
        rows = asked[start:start + batch]
        for reading, (_, questions) in zip(judge.read(sample(base, [prompt for prompt, _ in rows], seed=start)), rows):
            for name, score in questions.items():
                found.setdefault(name, []).append(score(reading))
    return {name: round(float(np.mean(scores)), 3) for name, scores in sorted(found.items())}
