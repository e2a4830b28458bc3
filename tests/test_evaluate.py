import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import e4t_minimal
from e4t_minimal import DATA
from e4t_minimal.base import load_base
from e4t_minimal.evaluation.judge import Judge
from e4t_minimal.evaluation.prompts import PROMPTS
from e4t_minimal.evaluation.scores import (
    People,
    diversity,
    evaluate,
    floor_scores,
    identity_score,
    interval,
    named_scores,
    prompt_score,
    sample_and_score,
    score,
)
from e4t_minimal.train import PERSONALIZATION
from e4t_minimal.world import DOMAINS, Identity, Scene, draw, identity

PACKAGE = Path(e4t_minimal.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(module):
    """The project's modules that a module imports, wherever in it."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, source]).rstrip(".")
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found & set(FILES)


def reaches(module):
    """All modules of the project that come with a module."""
    found, new = set(), {module}
    while new:
        found |= new
        new = {other for one in new for other in imports(one)} - found
    return found


TRAINING = ["base", "model", "train", "sample", "encoder", "offsets", "regularizers"]
TRAINING += [f"training.{name}" for name in ("clip", "vae", "unet", "e4t")]


@pytest.mark.parametrize("module", TRAINING + ["evaluation.alternatives"])
def test_nothing_that_trains_knows_the_judge(module):
    judges = {"e4t_minimal.evaluation.judge", "e4t_minimal.evaluation.scores"}
    assert not reaches(f"e4t_minimal.{module}") & judges


def test_the_check_can_see_an_import():
    assert "e4t_minimal.evaluation.judge" in reaches("e4t_minimal.training.judge")
    assert "e4t_minimal.base" in reaches("e4t_minimal.evaluation.benchmark")


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained()


@pytest.mark.parametrize("domain", DOMAINS)
def test_judge_reads_drawn_held_out_pictures(judge, domain):
    people = [identity(domain, "held-out", i) for i in range(64)]
    backgrounds = ["beach" if i % 2 else "pink" for i in range(64)]
    images = [draw(one, Scene(where))[0] for one, where in zip(people, backgrounds, strict=True)]
    readings = judge.read(images)
    assert mean_identity(readings, people) >= 0.9
    assert np.mean([reading["domain"] == domain for reading in readings]) >= 0.95
    wanted = [{"background": where} for where in backgrounds]
    assert np.mean([prompt_score(*both) for both in zip(readings, wanted, strict=True)]) >= 0.9
    assert mean_identity(readings, people[1:] + people[:1]) < 0.6  # strangers


def mean_identity(readings, people):
    return np.mean([identity_score(*both) for both in zip(readings, people, strict=True)])


@pytest.mark.parametrize("domain", DOMAINS)
def test_judge_says_who_it_is(judge, domain):
    one = identity(domain, "held-out", 1)
    found = judge.identify(draw(one, Scene())[0], domain)
    assert (found.domain, found.name) == (domain, None)
    assert list(found.attributes) == list(one.attributes)
    assert found.visible == one.visible


def test_a_judge_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="No judge at .*model.safetensors not found"):
        Judge.from_pretrained(tmp_path)


def test_scores_count_what_is_visible():
    attributes = {
        "body": "dome",
        "body_color": "red",
        "top": "none",
        "top_color": "blue",
        "eyes": "one",
    }
    bald = Identity("critter", attributes)
    reading = {
        "critter.body": "dome",
        "critter.body_color": "red",
        "critter.top": "fin",
        "critter.top_color": "pink",
        "critter.eyes": "one",
    }
    assert identity_score(reading, bald) == 0.75
    reading = {"style": "neon", "background": "beach"}
    assert prompt_score(reading, {"style": "neon", "background": "space"}) == 0.5


def test_identity_counts_in_photos_only(judge):
    one, other = (identity("face", "held-out", i) for i in (0, 1))
    own, strange = draw(one, Scene())[0], draw(other, Scene())[0]
    of_kind = {"plain": own, "background": strange, "style": strange}
    found = score(judge, [of_kind[prompt.kind] for prompt in PROMPTS], one)
    low = identity_score(judge.read([strange])[0], one)
    assert found["identity_plain"] == 1
    assert found["identity_background"] == pytest.approx(low)
    assert found["identity"] == pytest.approx((2 + 3 * low) / 5)


def test_scores_of_too_few_pictures_are_refused(judge):
    one = identity("face", "held-out", 0)
    with pytest.raises(ValueError, match="one picture for each of the 8 PROMPTS, not 1"):
        score(judge, [draw(one, Scene())[0]], one)


def test_interval():
    found = interval([0.0, 1.0] * 50)
    assert found["mean"] == 0.5
    assert 0.35 < found["low"] < 0.45
    assert 0.55 < found["high"] < 0.65


def test_interval_of_a_ratio_of_means():
    def ratio(means):
        return means[0] / means[1]

    found = interval([(0.0, 2.0), (2.0, 2.0)] * 50, ratio)
    assert found["mean"] == 0.5
    assert 0.35 < found["low"] < 0.45
    assert 0.55 < found["high"] < 0.65


def test_diversity():
    black, white = (Image.new("RGB", (64, 64), color) for color in ("black", "white"))
    assert diversity([black, black]) == 0
    assert diversity([black, white]) == 1
    assert diversity([black, black, white]) == pytest.approx(2 / 3)


def test_eight_prompts_of_three_kinds():
    assert [prompt.kind for prompt in PROMPTS] == ["plain"] * 2 + ["background"] * 3 + ["style"] * 3
    assert all(prompt.template.count("{}") == 1 and prompt.wanted for prompt in PROMPTS)


def drawn_in(steps):
    """`sample_and_score` with so few denoising steps that tests need not wait."""
    return lambda *args, **options: sample_and_score(*args, **options | {"steps": steps})


@pytest.fixture
def one_step(monkeypatch):
    monkeypatch.setattr("e4t_minimal.evaluation.scores.sample_and_score", drawn_in(1))


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load_base(tiny_folder)


def test_small_evaluation(base, one_step):
    schedule = PERSONALIZATION.replace(batch=4)
    report = evaluate(base, DATA / "e4t-face", People(count=2), (0, 1), schedule)
    assert set(report["steps"]) == {"0", "1"}
    assert report["steps"]["1"]["seconds"]["mean"] > 0
    assert report["floor"]["diversity"]["mean"] > 0
    assert report["floor"]["normalised"]["mean"] == 0
    assert "normalised_plain" in report["steps"]["1"]
    after = report["steps"]["1"]
    assert len(after["each"]) == 2
    assert after["identity"]["mean"] == pytest.approx(sum(after["each"]) / 2, abs=1e-4)
    assert report["gap"] > 0
    assert report["schedule"]["batch"] == 4
    assert report["schedule"]["steps"] == 1
    scores = [report["floor"]["identity"], report["ceiling"], report["judge"]]
    for found in [*scores, report["steps"]["0"]["prompt"]]:
        assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1


def test_people_whom_the_base_knows_by_name_are_drawn_as_themselves(base, monkeypatch):
    monkeypatch.setattr("e4t_minimal.evaluation.scores.sample_and_score", drawn_in(3))
    known = named_scores(base, People(count=2))
    assert known["identity"]["mean"] > 0.9
    assert 0 < known["diversity"]["mean"] < 0.307  # of the class word, which is eight people


def test_a_known_floor_is_not_drawn_again_and_sampling_is_entered(
    tiny, tiny_domain, one_step, monkeypatch
):
    people = People(count=2)
    floor = floor_scores(tiny, people)
    monkeypatch.setattr("e4t_minimal.evaluation.scores.floor_scores", None)
    drawn = []

    class Sampling:
        def __init__(self, model, image):
            self.picture = (model.picture, image)

        def __enter__(self):
            drawn.append(self.picture)

        def __exit__(self, *_):
            pass

    report = evaluate(tiny, tiny_domain, people, (0,), floor=floor, sampling=Sampling)
    assert len(drawn) == 2
    wanted = draw(people.identities()[1], Scene())[0]
    assert drawn[1][1].tobytes() == wanted.tobytes()
    assert report["floor"]["identity"] == interval([found["identity"] for found in floor])


def test_what_is_not_there_is_refused_before_anything_is_drawn(base, monkeypatch):
    monkeypatch.setattr("e4t_minimal.evaluation.scores.sample", None)
    with pytest.raises(ValueError, match="not an E4T folder"):
        evaluate(base, "nowhere", People(count=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"domain": "dragon"}, "no domain 'dragon'"), ({"split": "secret"}, "no split 'secret'")],
)
def test_people_that_there_are_not_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        People(**options)
