"""How the package is cut: which file may import which, and what `import e4t_minimal` gives."""

import ast
import importlib
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import e4t_minimal as e4t

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "e4t_minimal"
METHOD = (
    "base",
    "placeholder",
    "encoder",
    "offsets",
    "regularizers",
    "model",
    "train",
    "sample",
)
# a file imports from its own layer and from those before it, never from one behind it
LAYERS = (
    {"helpers"},  # everything may import them
    {"base"},
    set(METHOD) - {"base"},
    {"world", "inspection", "scaling"},
    {"evaluation"},
    {"training"},
    {"cli", "__main__"},
)


def name_of(path):
    """ "e4t_minimal.world.scene" of e4t_minimal/world/scene.py; a folder's of its __init__.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(name):
    """Names of our own modules that a module imports, wherever in its text."""
    path = PATHS[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= modules_of(node, package)
    return found & PATHS.keys()


def modules_of(node, package):
    """What `from X import a, b` imports: X, or X.a and X.b where these are modules."""
    source = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*above, source]).rstrip(".")
    found = set()
    for alias in node.names:
        submodule = f"{source}.{alias.name}"
        found.add(submodule if submodule in PATHS else source)
    return found


GRAPH = {name: imports(name) for name in PATHS}


def part_of(name):
    """The file of the method, or the folder, that a module belongs to; "" for e4t_minimal."""
    return name.split(".")[1] if "." in name else ""


def layer_of(name):
    part = part_of(name)
    if part == "":
        return -1  # where the data lie: everything may know that
    (layer,) = [number for number, parts in enumerate(LAYERS) if part in parts]
    return layer


def circle(graph):
    """The names on a circle of arrows; [] if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_graph_is_seen():
    """A check that sees no arrows finds no fault."""
    assert {"e4t_minimal.base", "e4t_minimal.placeholder"} <= GRAPH["e4t_minimal.model"]
    assert "e4t_minimal.world.identities" in GRAPH["e4t_minimal.world"]
    assert "e4t_minimal.world" in GRAPH["e4t_minimal.evaluation.judge"]
    assert "e4t_minimal.train" in GRAPH["e4t_minimal.cli.concepts"]  # inside a function
    assert sum(len(arrows) for arrows in GRAPH.values()) > 150
    assert circle({"a": {"b"}, "b": {"a"}}) != []


@pytest.mark.parametrize("name", GRAPH)
def test_imports_run_one_way(name):
    wrong = [other for other in GRAPH[name] if layer_of(other) > layer_of(name)]
    assert not wrong, f"{name} must not import {', '.join(wrong)}"


def test_no_circle():
    assert circle(GRAPH) == []


def test_no_circle_of_folders():
    folders = {}
    for name, others in GRAPH.items():
        found = folders.setdefault(part_of(name), set())
        found |= {part_of(other) for other in others} - {part_of(name)}
    assert circle(folders) == []


@pytest.mark.parametrize("name", [name for name in GRAPH if part_of(name) == "world"])
def test_the_world_knows_nothing_of_the_method(name):
    assert {part_of(other) for other in GRAPH[name]} <= {"world", "helpers", ""}


@pytest.mark.parametrize("name", GRAPH)
def test_nothing_imports_the_command_line(name):
    if part_of(name) not in ("cli", "__main__"):
        assert not [other for other in GRAPH[name] if part_of(other) == "cli"]


def test_every_file_of_the_package_has_its_place():
    known = set().union(*LAYERS) | {""}
    assert {part_of(name) for name in PATHS} == known


def test_the_method_is_eight_files_of_1400_lines():
    lines = [len(PATHS[f"e4t_minimal.{name}"].read_text().splitlines()) for name in METHOD]
    assert sum(lines) <= 1400, dict(zip(METHOD, lines, strict=True))


def code_of(path):
    """The Python of a file; of a notebook, its cells one after the other."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))


def private_imports(text):
    """Names with an underscore that are taken from another file of ours, or set in one."""
    found = re.findall(r"[\"'](e4t_minimal[\w.]*\._[a-z]\w*)[\"'.]", text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            ours = node.level or is_ours(node.module)
            names = [alias.name for alias in node.names]
            found += [name for name in names if ours and re.match("_[a-zA-Z]", name)]
    return found


def is_ours(module):
    top = module.split(".")[0]
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    return top in {"e4t_minimal", "drawings"} | {file.stem for file in files}


def every_text():
    yield from PATHS.values()
    for folder in ("tests", "notebooks"):
        for suffix in ("py", "ipynb"):
            yield from (ROOT / folder).rglob(f"*.{suffix}")


@pytest.mark.parametrize("path", every_text(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_private_helper_is_used_by_its_own_file_alone(path):
    if ".ipynb_checkpoints" not in path.parts:
        assert private_imports(code_of(path)) == []


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def knots(text):
    """What ruff has no rule for: lines in which an expression does more than one thing."""
    found = []
    for node in ast.walk(ast.parse(text)):
        inside = list(ast.walk(node))[1:]
        if isinstance(node, COMPREHENSIONS) and holds(inside, COMPREHENSIONS):
            found.append(f"{node.lineno}: a comprehension in a comprehension")
        if isinstance(node, ast.IfExp) and holds([node.body, node.orelse], ast.IfExp):
            found.append(f"{node.lineno}: a choice in a choice")
        if isinstance(node, ast.Call) and holds(inside, ast.NamedExpr):
            found.append(f"{node.lineno}: a walrus in a call")
        if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Tuple, *COMPREHENSIONS)):
            found.append(f"{node.lineno}: an expression for its side effects")
    return found


def holds(nodes, kinds):
    return any(isinstance(node, kinds) for node in nodes)


@pytest.mark.parametrize("name", PATHS)
def test_one_statement_does_one_thing(name):
    assert knots(PATHS[name].read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "a = [[y for y in x] for x in b]",
        "a = 1 if b else 2 if c else 3",
        "f(a := 1)",
        "f(), g()",
        "[f(x) for x in a]",
    ],
)
def test_knots_are_seen(line):
    assert len(knots(line)) == 1


def test_private_imports_are_seen():
    assert private_imports("from .base import _helper") == ["_helper"]
    assert private_imports("from e4t_minimal.base import a, _helper") == ["_helper"]
    helper = ".".join(("e4t_minimal", "base", "_helper"))
    assert private_imports(f"patch({helper!r}, 1)") == [helper]
    assert private_imports("from torch.utils import _pytree") == []


def test_the_names_of_a_notebook_are_those_of_the_files():
    for name in set(e4t.__all__) - {"DATA", "PERSONALIZATION", "PRETRAINING"}:
        thing = getattr(e4t, name)
        module = importlib.import_module(thing.__module__)
        assert getattr(module, name) is thing
    assert set(e4t.__all__) <= set(dir(e4t))
    assert e4t.PERSONALIZATION.steps < e4t.PRETRAINING.steps
    with pytest.raises(AttributeError, match="no attribute 'tune'"):
        _ = e4t.tune


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_e4t_minimal_loads_nothing():
    assert run("import e4t_minimal, sys; print('torch' in sys.modules)") == "False\n"
    loaded = run("import e4t_minimal as e4t, sys; e4t.DATA, dir(e4t); print(*sys.modules)")
    assert not {"torch", "numpy", "PIL", "typer"} & set(loaded.split())


@pytest.mark.parametrize("first", ["import e4t_minimal.sample", "e4t.sample", "e4t.trace"])
def test_sample_is_the_function_whatever_was_imported_first(first):
    code = f"import e4t_minimal as e4t\n{first}\nprint(e4t.sample.__name__, type(e4t.sample))"
    assert run(code) == "sample <class 'function'>\n"
