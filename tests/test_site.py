"""The site: built from the committed outputs, and every page opened as on a telephone."""

import functools
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_browser import BROWSER, Page, free_port, pages, start_browser, wait_for

ROOT = Path(__file__).resolve().parent.parent
EXTRA = ("mkdocs", "material", "mkdocs_jupyter", "mkdocstrings", "latex2mathml")
WIDTH = 390  # pixels, of a telephone
MINUTES = 5
READY = "document.readyState == 'complete'"
BROKEN = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src).join(' ')"
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LETTERS = "parseFloat(getComputedStyle(document.querySelector('article')).fontSize)"
QUERY = "document.querySelector('[data-md-component=search-query]')"
FOUND = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href).join(' ')"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the finished site: a new one, or that of `make site`, if SITE names it."""
    if built := os.environ.get("SITE"):
        return (ROOT / built).resolve()
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra 'site' is not installed (no {missing[0]}): run `make site`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    before = sum(os.times()[2:4])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert sum(os.times()[2:4]) - before < 60 * MINUTES, "CPU time, whatever else runs beside"
    return folder


@pytest.fixture(scope="module")
def soups(site):
    """{path of a page: what stands in it}"""
    from bs4 import BeautifulSoup

    found = {}
    for path in sorted(site.rglob("*.html")):
        found[path] = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    return found


def test_every_page_is_there(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"notebooks/{path.stem}.html" in names
        assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.stem}.html" in names
    parts = {f"docs/api/{part}.html" for part in ("method", "world", "inspection", "evaluation")}
    assert parts | {"index.html", "teaching/index.html", "data_samples/toy-sd/index.html"} <= names


def test_a_notebook_links_each_term_once(site, soups):
    for path in sorted((site / "notebooks").glob("[0-9][0-9]_*.html")):
        links = [link["href"] for link in soups[path].select("a.term")]
        assert len(links) > 10, path.name
        assert len(links) == len(set(links)), path.name
        assert all(link.startswith("../docs/glossary.html#") for link in links)


def test_links_and_pictures_lead_somewhere(site, soups):
    anchors = {path: anchors_of(soup) for path, soup in soups.items()}
    wrong = []
    for path, soup in soups.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in links_of(soup):
            place, _, anchor = link.partition("#")
            target = (path.parent / unquote(place)).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target  # as a server does
            if not target.is_file() or (anchor and anchor not in anchors.get(target, {anchor})):
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == []


def links_of(soup):
    """The links and sources of a page that lead to the site itself."""
    for tag, name in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
        for element in soup.find_all(tag, attrs={name: True}):
            if not re.match(r"[a-z]+:|//", element[name]):
                yield element[name].partition("?")[0]


def anchors_of(soup):
    ids = {element["id"] for element in soup.find_all(id=True)}
    return ids | {element["name"] for element in soup.find_all("a", attrs={"name": True})}


def test_nothing_is_loaded_from_elsewhere(soups):
    for path, soup in soups.items():
        loaded = [e["src"] for e in soup.find_all(["img", "script", "iframe"], src=True)]
        loaded += [e["href"] for e in soup.find_all("link", rel="stylesheet")]
        assert not [source for source in loaded if re.match(r"https?:|//", source)], path.name


def test_a_notebook_can_be_opened_and_its_formulas_are_set(site, soups):
    soup = soups[site / "notebooks/02_a_toy_stable_diffusion.html"]
    targets = [link["href"] for link in soup.select(".buttons a")]
    assert targets[0].startswith("https://colab.research.google.com/github/")
    assert targets[1] == "02_a_toy_stable_diffusion.ipynb"
    assert len(soup.find_all("math")) >= 20
    words = soup.select_one("article").get_text()
    assert "\\sqrt" not in words
    assert "$$" not in words
    folded = [summary.get_text() for summary in soup.select("details > summary")]
    assert {"Code", "The figure in words"} <= set(folded)
    assert len(soup.select(".highlight pre > code .kn")) > 3  # coloured, as code
    assert not soup.select(".clipboard-copy-txt"), "the code stands there twice"
    assert all(len(image["alt"]) > 40 for image in soup.select(".jp-RenderedImage img"))


def test_the_reference_has_the_methods_docstrings(site, soups):
    words = soups[site / "docs/api/method.html"].get_text()
    for name in ("load_base", "Placeholder", "WeightOffset", "personalize", "sample_steps"):
        assert name in words
    assert "Squared length" in words or "squared length" in words


def test_search_knows_the_offsets(site):
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    found = [page["location"] for page in index["docs"] if "offset" in page["text"].lower()]
    assert any(place.startswith("notebooks/05_") for place in found)
    assert not any("jp-Notebook" in page["text"] for page in index["docs"])


class Watched(Page):
    """A tab that remembers what its console complained about."""

    def __init__(self, url):
        super().__init__(url)
        self.errors = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")
        screen = {"width": WIDTH, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        self.do("Emulation.setDeviceMetricsOverride", **screen)

    def do(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.count:
                return answer.get("result", {})
            self.note(answer)

    def note(self, event):
        name, told = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"]["text"])
        elif name == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif name == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.errors.append(str(told["args"]))

    def open(self, address):
        self.errors.clear()
        self.do("Page.navigate", url=address)
        wait_for(address, lambda: self.value(f"{READY} && location.href == '{address}'"), 180)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(site):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def tab(tmp_path):
    if BROWSER is None:
        pytest.skip("no browser found: install chromium, or name one in the variable BROWSER_BIN")
    port = free_port()
    address = f"http://127.0.0.1:{port}/json"
    with ExitStack() as stack:
        stack.enter_context(start_browser(tmp_path, port, "about:blank"))
        found = wait_for("the browser", lambda: pages(address), 60)
        yield Watched(found[0]["webSocketDebuggerUrl"])


def test_every_page_can_be_read_on_a_telephone(site, server, tab):
    wrong = []
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        tab.open(f"{server}/{name}")
        wrong += [f"{name}: {error}" for error in tab.errors]
        if broken := tab.value(BROKEN):
            wrong.append(f"{name}: no picture {broken}")
        if (pixels := tab.value(TOO_WIDE)) > 0:
            wrong.append(f"{name}: {pixels} pixels too wide")
        if name != "404.html" and tab.value(LETTERS) < 14:
            wrong.append(f"{name}: letters of {tab.value(LETTERS)} pixels")
    assert wrong == []


def test_search_finds_offset(server, tab):
    tab.open(f"{server}/index.html")
    tab.value(f"{QUERY}.focus()")
    tab.do("Input.insertText", text="offset")
    found = wait_for("a result", lambda: tab.value(FOUND), 60)
    assert "05_weight_offsets" in found
    assert tab.errors == []
