import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import e4t_minimal
from e4t_minimal import DATA
from e4t_minimal.evaluation.scores import (
    PROMPTS,
    Judge,
    diversity,
    evaluate,
    identity_score,
    interval,
    prompt_score,
)
from e4t_minimal.world import DOMAINS, Identity, Scene, draw, identity

PACKAGE = Path(e4t_minimal.__file__).parent


def imports(path):
    """Names of the project's modules that a file imports."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            out |= {(node.module or "").split(".")[-1]} | {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            out |= {part for alias in node.names for part in alias.name.split(".")}
    return out


def reaches(name, seen=()):
    path = next(p for p in (PACKAGE / f"{name}.py", PACKAGE / "toy" / f"{name}.py") if p.exists())
    found = imports(path)
    ours = {f.stem for f in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    return found.union(*(reaches(other, (*seen, name)) for other in found & ours - {*seen, name}))


@pytest.mark.parametrize(
    "module",
    [
        "model",
        "train",
        "sample",
        "encoder",
        "offsets",
        "regularizers",
        "clip",
        "vae",
        "unet",
        "e4t",
    ],
)
def test_nothing_that_trains_knows_the_judge(module):
    assert not reaches(module) & {"evaluate", "judge", "Judge"}
    assert "evaluate" in reaches("judge")  # the check itself can see an import


@pytest.mark.parametrize("domain", DOMAINS)
def test_judge_reads_drawn_held_out_pictures(domain):
    judge, people = Judge.from_pretrained(), [identity(domain, "held-out", i) for i in range(64)]
    readings = judge.read(
        [draw(one, Scene("beach" if i % 2 else "pink"))[0] for i, one in enumerate(people)]
    )
    assert np.mean([identity_score(r, one) for r, one in zip(readings, people)]) >= 0.9
    assert np.mean([r["domain"] == domain for r in readings]) >= 0.95
    assert (
        np.mean(
            [
                prompt_score(r, {"background": "beach" if i % 2 else "pink"})
                for i, r in enumerate(readings)
            ]
        )
        >= 0.9
    )
    strangers = people[1:] + people[:1]
    assert np.mean([identity_score(r, one) for r, one in zip(readings, strangers)]) < 0.6


def test_scores_count_what_is_visible():
    bald = Identity(
        "critter", dict(body="dome", body_color="red", top="none", top_color="blue", eyes="one")
    )
    reading = {
        "critter.body": "dome",
        "critter.body_color": "red",
        "critter.top": "fin",
        "critter.top_color": "pink",
        "critter.eyes": "one",
    }
    assert identity_score(reading, bald) == 0.75
    assert (
        prompt_score(
            {"style": "neon", "background": "beach"}, {"style": "neon", "background": "space"}
        )
        == 0.5
    )


def test_interval():
    found = interval([0.0, 1.0] * 50)
    assert found["mean"] == 0.5 and 0.35 < found["low"] < 0.45 and 0.55 < found["high"] < 0.65
    ratio = interval([(0.0, 2.0), (2.0, 2.0)] * 50, of=lambda m: m[0] / m[1])
    assert ratio["mean"] == 0.5 and 0.35 < ratio["low"] < 0.45 and 0.55 < ratio["high"] < 0.65


def test_diversity():
    black, white = (Image.new("RGB", (64, 64), color) for color in ("black", "white"))
    assert diversity([black, black]) == 0 and diversity([black, white]) == 1
    assert diversity([black, black, white]) == pytest.approx(2 / 3)


def test_eight_prompts_of_three_kinds():
    assert [kind for kind, _, _ in PROMPTS] == ["plain"] * 2 + ["background"] * 3 + ["style"] * 3
    assert all(prompt.count("{}") == 1 and wanted for _, prompt, wanted in PROMPTS)


def test_small_evaluation(base):
    report = evaluate(base, DATA / "e4t-face", "face", identities=2, steps=(0, 1), batch=4)
    assert set(report["steps"]) == {"0", "1"} and report["steps"]["1"]["seconds"]["mean"] > 0
    assert report["floor"]["diversity"]["mean"] > 0 and "normalised_plain" in report["steps"]["1"]
    for row in (
        report["floor"]["identity"],
        report["ceiling"],
        report["steps"]["0"]["prompt"],
        report["judge"],
    ):
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
