"""What README and docs/ say is what is there: tables, links, names, terms, options."""

import ast
import importlib
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from e4t_minimal.evaluation.baselines import METHODS
from e4t_minimal.evaluation.benchmark import Comparison

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "e4t_minimal"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]

sys.path.insert(0, str(DOCS))
generate = importlib.import_module("generate")
of_each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page):
    return page.read_text("utf-8")


@pytest.mark.parametrize("page", generate.pages(), ids=lambda page: page.name)
def test_what_is_generated_is_up_to_date(page):
    text = text_of(page)
    assert generate.generated(text) == text, "run: python docs/generate.py"


def test_every_block_is_on_a_page_and_has_an_end():
    text = "\n".join(map(text_of, generate.pages()))
    begun = re.findall(r"<!-- begin (\S+) -->", text)
    assert set(begun) == set(generate.BLOCKS)
    assert begun == re.findall(r"<!-- end (\S+) -->", text)


def test_a_stale_table_is_seen():
    text = text_of(DOCS / "results.md")
    digit = re.search(r"before any step \| 0\.(\d)", text).start(1)
    other = "1" if text[digit] == "0" else "0"
    stale = text[:digit] + other + text[digit + 1 :]
    assert generate.generated(stale) == text
    with pytest.raises(ValueError, match="no block 'weather'"):
        generate.generated("<!-- begin weather -->\nsun\n<!-- end weather -->")


@pytest.mark.parametrize(
    "changes, methods, words",
    [
        ({}, METHODS, "--identities 16 --batch 16 --seed 0"),
        (
            {"kind": "search", "identities": 4, "bf16": True},
            METHODS,
            "--search --identities 4 --batch 16 --seed 0 --bf16",
        ),
        ({"kind": "quick"}, ["E4T"], '--quick --method "E4T" --batch 16 --seed 0'),
        (
            {"weights": "robot", "hold_background": True},
            METHODS,
            "--identities 16 --weights robot --batch 16 --seed 0 --hold-background",
        ),
    ],
)
def test_the_command_under_a_table_asks_for_what_was_compared(changes, methods, words):
    report = {"comparison": asdict(Comparison(**changes)), "methods": dict.fromkeys(methods)}
    assert generate.command_of(report) == "e4t bench --domain face " + words


def test_readme_can_be_read_in_a_few_minutes():
    assert len(text_of(README).split()) <= 800


def links_of(page):
    """What a page links to, code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


@of_each
def test_every_link_of_a_page_leads_somewhere(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def anchors_of(page):
    """Where a link can point: a heading as GitHub and the site name it, or a name given by hand."""
    text = text_of(page)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*slugs, *re.findall(r'<a id="([\w-]+)">', text)}


def test_readme_has_its_links():
    links = links_of(README)
    assert len([link for link in links if not link.startswith("http")]) > 40
    pages = {f"docs/{path.name}" for path in DOCS.glob("*.md")} - {"docs/training-log.md"}
    assert pages <= set(links), "a page of docs/ that README does not name is not found"


def test_the_readmes_list_of_the_package_is_whole():
    parts = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py"}
    parts = {name for name in parts if not name.startswith("__")}
    parts |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    linked = re.findall(r"\]\(e4t_minimal/([\w.]+)/?\)", text_of(README))
    assert sorted(linked) == sorted(parts)


def test_no_address_but_the_projects_own():
    """The repository's address stands in pyproject.toml; pages have it from there."""
    project = generate.repository().removeprefix("https://github.com/")
    hubs = r"(?:github\.com|colab\.research\.google\.com/github)/"
    found = re.findall(hubs + r"([\w.-]+/e4t-minimal)\b", "\n".join(map(text_of, PAGES)))
    assert set(found) == {project}


# --- the paper map ---------------------------------------------------------------------------


def names_in(path):
    """Functions, classes, their methods, and constants of a file."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in defined(node.body)}
    return found | defined(ast.parse(path.read_text("utf-8")).body)


def defined(body):
    found = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            found.add(node.target.id)
    return found


def test_the_paper_map_names_what_is_there():
    text = text_of(DOCS / "paper-map.md")
    named = re.findall(r"\[`([\w.]+)`\]\(\.\./(e4t_minimal/[\w/]+\.py)\)", text)
    assert len(named) >= 25
    for name, path in named:
        assert name in names_in(ROOT / path), f"{path} has no {name}"
    method = {path for _, path in named if path.count("/") == 1}
    assert method == {f"e4t_minimal/{name}" for name in method_files()}


def method_files():
    return {path.name for path in PACKAGE.glob("[a-z]*.py")}


def test_the_paper_map_names_every_notebook():
    text = text_of(DOCS / "paper-map.md")
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"(../notebooks/{path.name})" in text, path.name


# --- glossary, gotchas, domains --------------------------------------------------------------


def terms():
    """{term: what is said of it}"""
    return dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)$", text_of(DOCS / "glossary.md"), re.M))


def test_the_glossary_is_in_order_and_says_each_term_in_one_sentence():
    names = [re.sub(r"\W", "", name).lower() for name in terms()]
    assert len(names) >= 60
    assert names == sorted(names)
    for term, said in terms().items():
        sentence = re.sub(r"\(notebook \d\d\)\.$", "", said)
        assert said.endswith("."), term
        assert not re.search(r"\. [A-Z]", sentence), f"{term}: more than one sentence"


def text_of_notebook(number):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_a_term_is_used_in_the_notebook_that_the_glossary_names():
    texts = {f"{i:02d}": plain(text_of_notebook(f"{i:02d}")) for i in range(12)}
    for term, said in terms().items():
        named = re.search(r"\(notebook (\d\d)\)\.$", said)
        assert named, f"{term}: no notebook named"
        words = [plain(word) for word in re.split(r", | or ", term)]
        assert any(word in texts[named[1]] for word in words), f"{term} in {named[1]}"


def plain(text):
    return re.sub(r"[\\*`_]", "", text).lower()


def test_gotchas_have_symptom_cause_and_mend():
    text = text_of(DOCS / "gotchas.md")
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    assert len(parts) >= 15
    for part in parts:
        title = part.splitlines()[0]
        for word in ("**Symptom:**", "**Cause:**", "**Mend:**"):
            assert part.count(word) == 1, f"{title}: {word}"
    assert len(re.findall(r"https://github\.com/[\w./-]+/(?:issues|pull)/\d+", text)) >= 12


def test_the_domain_that_docs_add_can_be_drawn(monkeypatch):
    """The entry of docs/add-a-domain.md, put beside the three that are there."""
    from e4t_minimal.world import Scene, draw, identities, identity

    entry = re.search(r"```json\n(.*?)```", text_of(DOCS / "add-a-domain.md"), re.DOTALL)[1]
    ((name, domain),) = json.loads(f"{{{entry}}}").items()
    domains = identities.DOMAINS | {name: identities.Domain(**domain)}
    for module in list(sys.modules.values()):
        is_ours = getattr(module, "__name__", "").startswith("e4t_minimal.world")
        if is_ours and hasattr(module, "DOMAINS"):
            monkeypatch.setattr(module, "DOMAINS", domains)
    one, other = (identity(name, "held-out", i) for i in range(2))
    picture, caption, mask = draw(one, Scene())
    assert picture.size == (64, 64)
    assert name in caption
    assert 0.05 < sum(mask.convert("L").getdata()) / 255 / 64**2 < 0.95
    assert list(picture.getdata()) != list(draw(other, Scene())[0].getdata())


def test_commands_that_docs_name_exist():
    """Every `e4t NAME`, and every `python -m e4t_minimal.training NAME`, in a page's code."""
    from typer.main import get_command

    from e4t_minimal.cli.app import app
    from e4t_minimal.training.__main__ import app as training

    known = {"e4t": get_command(app).commands, "training": get_command(training).commands}
    text = "\n".join(map(text_of, PAGES))
    code = "\n".join(re.findall(r"```sh\n.*?```|`[^`\n]+`", text, re.DOTALL))
    named = re.findall(r"(?:^|[\n`])(e4t) ([a-z][\w-]*)", code)
    named += re.findall(r"python -m e4t_minimal\.(training) ([a-z][\w-]*)", code)
    assert len(named) > 40
    assert [name for program, name in named if name not in known[program]] == []


# --- what runs outside -----------------------------------------------------------------------


def test_workflows_call_targets_that_make_knows():
    import yaml

    makefile = text_of(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.M))
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    called = []
    for path in workflows:
        for job in yaml.safe_load(text_of(path))["jobs"].values():
            commands = [step.get("run", "") for step in job["steps"]]
            called += re.findall(r"^make (\S+)", "\n".join(commands), re.M)
    assert {"test", "site", "links"} <= set(called) <= targets
    systems = text_of(ROOT / ".github/workflows/tests.yml")
    for word in ("ubuntu", "macos", "windows", "3.10", "3.13"):
        assert word in systems


def test_a_dead_link_is_told():
    import threading
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    links = importlib.import_module("links")
    assert links.addresses("[a](https://a.org/b#c) [d](e.md)") == {"https://a.org/b"}
    assert "https://arxiv.org/abs/2302.12228" in links.named()
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        assert links.fault(here) == ""
        assert links.fault(f"{here}/no-such-file").startswith("404")
        server.shutdown()
    assert links.fault(here) != ""  # nobody there
