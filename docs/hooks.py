"""Hooks of mkdocs: which files of the repository are pages, and what is changed in them.

Links between files stay as they are on GitHub. What is no page of the site is linked in the
repository. Nothing is loaded from elsewhere: badges become words, formulas MathML.
"""

import posixpath
import re
import sys
from html import escape
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, NavigableString
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from generate import ROOT, colab, repository  # noqa: E402

PAGES = (
    "*.md",
    "docs/*.md",
    "docs/site.css",
    "docs/*.png",
    "docs/results/*.png",
    "docs/results/*.jpg",
    "notebooks/*.ipynb",
    "notebooks/figures/*.png",
    "teaching/**/*.md",
    "teaching/**/*.png",
    "data_samples/*/README.md",
    "data_samples/*/*.png",
)
NAVIGATION = {  # {tab: pages, as patterns of PAGES' paths}
    "Start": ("README.md", "teaching/responsible-use.md"),
    "Notebooks": ("notebooks/*.ipynb",),
    "Results": ("docs/results.md", "docs/training-log.md", "data_samples/*/README.md"),
    "Use": (
        "docs/cli.md",
        "docs/real-stable-diffusion.md",
        "docs/own-method.md",
        "docs/add-a-domain.md",
        "docs/rebuild.md",
    ),
    "Reference": ("docs/paper-map.md", "docs/glossary.md", "docs/gotchas.md"),
    "Teaching": ("teaching/*.md", "teaching/**/*.md"),
    "Project": ("C*.md",),
}
METHOD = ("base", "placeholder", "encoder", "offsets", "regularizers", "model", "train", "sample")
FOLDERS = ("world", "inspection", "scaling", "evaluation")
TERM = re.compile(r"^- \*\*(.+?)\*\*: ", re.MULTILINE)  # an entry of the glossary
NO_PROSE = ["a", "code", "pre", "math", "summary", "h1", "h2", "h3", "h4"]
EVERYDAY = {"head", "key", "value", "v"}  # terms that mostly mean something else
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^\s$](?:[^$]*?[^\s$])?)\$", re.DOTALL)


def on_config(config):
    social = {"icon": "fontawesome/brands/github", "link": repository(), "name": "the repository"}
    config.extra["social"] = [social]
    config.nav = []
    for tab, patterns in NAVIGATION.items():
        found = [path for pattern in patterns for path in _matching(pattern)]
        config.nav.append({tab: list(dict.fromkeys(found))})
    config.nav.append({"API": [f"docs/api/{name}.md" for name in ("method", *FOLDERS)]})
    return config


def _matching(pattern: str) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob(pattern))]


@event_priority(100)  # before mkdocs-jupyter, which looks for notebooks among the files
def on_files(files, config):
    """The pages, wherever they lie, instead of all that lies in docs/."""
    ours = [file for file in files if file.src_dir != config.docs_dir]  # the theme's
    for pattern in PAGES:
        ours += [_file(path, config) for path in _matching(pattern)]
    for name, text in reference().items():
        ours.append(File.generated(config, f"docs/api/{name}.md", content=text))
    return Files(ours)


def _file(path: str, config) -> File:
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls)


def reference() -> dict[str, str]:
    """{page: text}: the method, and each folder that a notebook imports from."""
    pages = {"method": [f"e4t_minimal.{name}" for name in METHOD]}
    for folder in FOLDERS:
        files = sorted((ROOT / "e4t_minimal" / folder).glob("[a-z]*.py"))
        pages[folder] = [f"e4t_minimal.{folder}.{file.stem}" for file in files]
    return {
        name: f"# {name}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        for name, modules in pages.items()
    }


def on_page_content(html, page, config, files):
    soup = BeautifulSoup(html, "html.parser")
    _mend_links(soup, page, files)
    if page.file.src_uri.endswith(".ipynb"):
        _clean_notebook(soup, page.file.src_uri)
        glossary = files.get_file_from_path("docs/glossary.md").url_relative_to(page.file)
        _link_terms(soup, glossary)
    if page.file.src_uri == "docs/glossary.md":
        for term in soup.select("li > strong:first-child"):
            term.parent["id"] = _anchor(term.text)
    return str(soup)


def _anchor(term: str) -> str:
    return re.sub(r"\W+", "-", term.lower()).strip("-")


def terms() -> dict[str, re.Pattern]:
    """{anchor in the glossary: how the term looks in a text}

    Names with capitals look so only: to clip is not CLIP.
    """
    found = {}
    for term in TERM.findall((ROOT / "docs/glossary.md").read_text("utf-8")):
        term = term.replace("\\", "")
        names = [name for name in re.split(", | or ", term) if name not in EVERYDAY]
        looks = [f"(?i:{re.escape(name)})" if name.islower() else re.escape(name) for name in names]
        if looks:
            found[_anchor(term)] = re.compile(rf"(?<![\w-])(?:{'|'.join(looks)})s?(?![\w-])")
    return found


def _link_terms(soup, glossary: str):
    """The first use of each term in a notebook's text leads to what the glossary says of it."""
    left = terms()
    texts = [
        text for cell in soup.select(".jp-RenderedMarkdown") for text in cell.find_all(string=True)
    ]
    for text in texts:
        if not text.find_parent(NO_PROSE):
            html = _with_links(str(text), left, glossary)
            text.replace_with(BeautifulSoup(html, "html.parser"))


def _with_links(text: str, left: dict[str, re.Pattern], glossary: str) -> str:
    """The text as HTML with the terms that are left as links. What is linked leaves `left`."""
    html, done = "", 0
    while True:
        matches = {anchor: looks.search(text, done) for anchor, looks in left.items()}
        found = {anchor: match for anchor, match in matches.items() if match}
        if not found:
            return html + escape(text[done:])
        # of those that begin first the longest: "weight offset", not "offset"
        anchor = min(found, key=lambda anchor: (found[anchor].start(), -found[anchor].end()))
        start, end = found[anchor].span()
        link = f'<a class="term" href="{glossary}#{anchor}">{escape(text[start:end])}</a>'
        html += escape(text[done:start]) + link
        done = end
        del left[anchor]


def _mend_links(soup, page, files):
    for tag, name in (("a", "href"), ("img", "src")):
        for element in soup.find_all(tag, attrs={name: True}):
            element[name] = _target(element[name], page, files)
    for image in soup.find_all("img", src=re.compile("^https?://")):  # a badge
        badge = soup.new_tag("span", attrs={"class": "badge"})
        badge.string = image.get("alt", "")
        image.replace_with(badge)


def _target(link: str, page, files) -> str:
    """Where a link of a file leads on the site."""
    path, hash_, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link
    place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), path))
    file = files.get_file_from_path(place)
    if file:
        return file.url_relative_to(page.file) + hash_ + anchor
    if (ROOT / place).exists():
        kind = "tree" if (ROOT / place).is_dir() else "blob"
        return f"{repository()}/{kind}/main/{place}{hash_}{anchor}"
    return link  # mkdocs has been here already


def _clean_notebook(soup, path: str):
    """Buttons, folded checks and formulas, without the scripts and styles of Jupyter."""
    for element in soup.find_all(["script", "style"]) + soup.select(".celltoolbar, .jp-Collapser"):
        element.decompose()
    for link in soup.select(".anchor-link"):
        link["class"] = "headerlink"
    for editor in soup.select(".jp-InputArea-editor"):
        _set_code(soup, editor)
    images, words = soup.select(".jp-RenderedImage img"), descriptions(ROOT / path)
    if len(images) == len(words):
        for image, alt in zip(images, words, strict=True):
            image["alt"] = alt
    for text in soup.find_all(string=FORMULA):
        if not text.find_parent(["code", "pre"]):
            _replace_formulas(text)
    name = posixpath.basename(path)
    buttons = (
        f'<p class="buttons"><a class="md-button" href="{colab(path)}">Open in Colab</a> '
        f'<a class="md-button" href="{name}" download>Download</a></p>'
    )
    badge = soup.select_one('a[href^="https://colab"]')
    if badge:
        badge.parent.decompose()
    soup.h1.insert_after(BeautifulSoup(buttons, "html.parser"))


def descriptions(path: Path) -> list[str]:
    """The alternative text of each picture in a notebook's outputs; nbconvert leaves it out."""
    found = []
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            kinds = [kind for kind in output.get("data", {}) if kind in ("image/png", "image/jpeg")]
            found += [output.metadata.get(kind, {}).get("alt", "") for kind in kinds]
    return found


def _set_code(soup, editor):
    """The code of a cell, set as the site sets code; folded if it only helps or checks."""
    block = soup.new_tag("div", attrs={"class": "highlight"})
    block.append(soup.new_tag("pre"))
    code = editor.find("pre")
    code.name = "code"
    block.pre.append(code)
    if editor.find_parent(class_="celltag_hide-input"):
        folded = soup.new_tag("details")
        folded.append(soup.new_tag("summary"))
        folded.summary.string = "Code"
        folded.append(block)
        block = folded
    editor.replace_with(block)


def _replace_formulas(text: NavigableString):
    """$...$ and $$...$$ as MathML."""

    def formula(match: re.Match) -> str:
        block = match[1] is not None
        return convert(match[1] or match[2], display="block" if block else "inline")

    html = FORMULA.sub(formula, str(text))
    text.replace_with(BeautifulSoup(html, "html.parser"))
