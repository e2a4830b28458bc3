"""`e4t bench --method path.py:Class`: a method that stands in somebody's own file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_base
from typer.testing import CliRunner

from e4t_minimal.cli.app import app
from e4t_minimal.evaluation import own
from e4t_minimal.evaluation.baselines import METHODS
from e4t_minimal.evaluation.benchmark import Comparison, Run, execute, finished
from e4t_minimal.model import E4T
from e4t_minimal.train import PERSONALIZATION

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/encoder_alone.py"

GOOD = """
class Mine:
    what = "nothing at all"
    steps = 2

    def start(self, base, class_word, weights, seed):
        self.seen = 0
        return E4T(base, class_word)

    def learn(self, model, picture, mask, schedule):
        for _ in range(schedule.steps):
            self.seen += 1
            yield

    def stored(self, model):
        return [torch.zeros(self.seen)]
"""
IMPORTS = "import torch\nfrom e4t_minimal.model import E4T\n"


@pytest.fixture(autouse=True)
def only_the_shipped_methods_stay():
    shipped = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(shipped)


def written(folder, text):
    path = folder / "mine.py"
    path.write_text(IMPORTS + text)
    return f"{path}:Mine"


@pytest.fixture
def base():
    """A random one, as there is one for each person."""
    return tiny_base()


def learned(name, base, faces, steps=2):
    """(the model, the bytes of one person) after so many steps of a registered method."""
    method = METHODS[name].anew()
    schedule = method.schedule.replace(steps=steps, batch=2)
    with own.model_for(method, base, "face", None) as model:
        image, _, mask = faces[0]
        list(own.personalize_with(method, model, image, mask, None, schedule))
        return model, own.stored_bytes(method, model)


def test_a_class_of_a_file_is_a_method(tmp_path, base, faces):
    name = own.register(written(tmp_path, GOOD))
    method = METHODS[name]
    assert (name, method.what, method.steps) == ("Mine", "nothing at all", 2)
    assert method.schedule == PERSONALIZATION.replace(steps=2)
    for _ in range(2):  # every person has an object of her own, which counts from 0
        model, size = learned(name, base, faces)
        assert isinstance(model, E4T)
        assert size == 2 * 2


def test_the_example_learns_the_encoder_and_nothing_else(tmp_path, base, faces):
    name = own.register(f"{EXAMPLE}:EncoderAlone")
    torch.manual_seed(0)
    E4T(base, "face").save_pretrained(tmp_path / "weights")
    method = METHODS[name].anew()
    schedule = method.schedule.replace(steps=2, batch=2, backgrounds=2)
    with own.model_for(method, base, "face", tmp_path / "weights") as model:
        parts = model.parts()
        start = {part: [p.detach().clone() for p in found] for part, found in parts.items()}
        steps = list(own.personalize_with(method, model, *faces[0][::2], None, schedule))
        changed = {
            part: any(not torch.equal(a, b) for a, b in zip(start[part], found, strict=True))
            for part, found in parts.items()
        }
        assert own.stored_bytes(method, model) == 2 * sum(p.numel() for p in parts["encoder"])
    assert [step.index for step in steps] == [0, 1]
    assert changed == {"encoder": True, "offsets": False}


WITHOUT_A_CLASS = {
    "mine.py": "names no method",
    "mine.py:": "names no method",
    "mine.py:not a name": "names no method",
    "nowhere.py:Mine": "There is no file nowhere.py",
    "mine.py:Yours": "There is no class Yours in mine.py",
    "mine.py:torch": "There is no class torch in mine.py",
    "mine.txt:Mine": "mine.txt is no Python file",
}


@pytest.mark.parametrize("source, sentence", WITHOUT_A_CLASS.items())
def test_where_there_is_no_class_is_told(tmp_path, monkeypatch, source, sentence):
    monkeypatch.chdir(tmp_path)
    written(Path(), GOOD)
    shutil.copy("mine.py", "mine.txt")
    with pytest.raises(ValueError, match=sentence):
        own.register(source)
    assert "Mine" not in METHODS


LACKING = {
    "start": (GOOD.replace("def start", "def begin"), "lacks start; a method needs start, learn"),
    "two": (GOOD.replace("def ", "def not_"), "lacks start, learn, stored"),
    "what": (GOOD.replace("what =", "title ="), "lacks `what`"),
    "steps": (GOOD.replace("steps = 2", "steps = 0"), "Mine.steps is 0"),
    "no steps": (GOOD.replace("steps = 2", ""), "Mine.steps is None"),
    "an argument": (GOOD + "    def __init__(self, rate):\n        pass\n", "broke off .TypeError"),
    "an import": ("import nothing_such\n", "broke off .ModuleNotFoundError"),
    "syntax": ("class Mine\n", "broke off .SyntaxError"),
}


@pytest.mark.parametrize("text, sentence", LACKING.values(), ids=LACKING)
def test_what_a_class_lacks_is_told(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        own.register(written(tmp_path, text))
    assert "Mine" not in METHODS


def test_a_shipped_method_is_not_replaced(tmp_path):
    source = written(tmp_path, GOOD.replace("Mine", "LoRA")).replace("Mine", "LoRA")
    shipped = METHODS["LoRA"]
    with pytest.raises(ValueError, match="There is a method LoRA already"):
        own.register(source)
    assert METHODS["LoRA"] is shipped


RUNNING = {
    "no model": (GOOD.replace("return E4T(base, class_word)", "return base"), "gave Base"),
    "too few": (GOOD.replace("schedule.steps)", "1)"), "learn ended after 1 of 2 steps"),
    "no generator": (GOOD.replace("            yield\n", ""), "broke off .TypeError"),
    "an error": (GOOD.replace("self.seen += 1", "1 / 0"), "broke off .ZeroDivisionError"),
}


@pytest.mark.parametrize("text, sentence", RUNNING.values(), ids=RUNNING)
def test_what_goes_wrong_while_it_runs_is_told(tmp_path, base, faces, capsys, text, sentence):
    name = own.register(written(tmp_path, text))
    with pytest.raises(ValueError, match=sentence):
        learned(name, base, faces)
    if "ZeroDivision" in sentence:  # for who wrote it, the line
        assert "1 / 0" in capsys.readouterr().err


def test_a_comparison_with_it_has_files_of_its_own(tmp_path):
    source = written(tmp_path, GOOD)
    name = own.register(source)
    asked = Comparison(methods=("LoRA", name), identities=2)
    assert asked.name == "bench-face-Mine"
    runs = asked.runs()
    assert [run.method for run in runs] == ["LoRA", "LoRA", "Mine", "Mine"]
    assert [run.source for run in runs] == ["", "", source, source]
    assert runs[-1].stops == (0, 2)
    assert Comparison(methods=(name,), kind="quick").runs()[0].stops == (2,)
    with pytest.raises(ValueError, match="--search has none to try"):
        Comparison(methods=(name,), kind="search")


def test_a_changed_file_is_another_method(tmp_path):
    path = tmp_path / "bench.jsonl"
    scores = ("identity", "identity_plain", "identity_background", "prompt", "diversity")
    measured = dict.fromkeys((*scores, "seconds"), 0.5) | {"bytes": 1, "commit": "abc"}
    (run,) = Comparison(methods=(own.register(written(tmp_path, GOOD)),), identities=2).runs()[:1]
    path.write_text(json.dumps(run.key(0) | measured | {"peak_megabytes": None}) + "\n")
    assert len(finished(path, [run])) == 1
    name = own.register(written(tmp_path, GOOD + "\n# better\n"))
    (changed,) = Comparison(methods=(name,), identities=2).runs()[:1]
    assert finished(path, [changed]) == []


def test_the_example_is_measured_by_a_process_of_its_own(tmp_path):
    name = own.register(f"{EXAMPLE}:EncoderAlone")
    method = METHODS[name]
    run = Run(name, 0, (0, 1), batch=2, denoising=1, source=method.source, sha256=method.sha256)
    records = execute(tmp_path / "bench.jsonl", [run])
    assert [record["steps"] for record in records] == [0, 1]
    assert records[1]["seconds"] > 0
    assert records[0]["bytes"] > 1000
    assert (tmp_path / "bench/EncoderAlone-00.jpg").exists()


def test_bench_takes_it_by_path_and_class(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "e4t_minimal.evaluation.benchmark.execute", lambda _, runs: asked.extend(runs)
    )
    source = written(tmp_path, GOOD)
    done = CliRunner().invoke(app, ["bench", "--method", source, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {run.method for run in asked} == {"Mine"}
    report = json.loads((tmp_path / "bench-face-Mine.json").read_text())
    assert report["comparison"]["methods"] == ["Mine"]
    assert report["sources"]["Mine"]["source"] == source
    assert len(report["sources"]["Mine"]["sha256"]) == 64


def test_a_mistake_is_one_sentence_of_the_program(tmp_path):
    done = CliRunner().invoke(app, ["bench", "--method", "nowhere.py:Mine", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "There is no file nowhere.py" in done.stderr
