"""Is the teaching kit true of the notebooks, and does what it plans run?"""

import ast
import base64
import importlib
import re
import sys
import zlib
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parent.parent
TEACHING = ROOT / "teaching"
PAGES = sorted(TEACHING.rglob("*.md"))

sys.path.insert(0, str(TEACHING))
sys.path.insert(0, str(ROOT / "notebooks"))
book, quiz, slides, student, times = (
    importlib.import_module(name) for name in ("book", "quiz", "slides", "student", "times")
)
cards = importlib.import_module("build").cards

SESSION = re.compile(r"^## (Session \d|The plan).*$", re.MULTILINE)
ROW = re.compile(r"^\| (\d+):(\d\d) \| (\d+) \| .* \|(.*)\|$", re.MULTILINE)


def of_each(values, **options):
    return pytest.mark.parametrize("one", values, ids=str, **options)


# -- what the pages cite


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TEACHING)))
def test_cited_sections_and_linked_files_exist(page):
    text = page.read_text("utf-8")
    for number, heading in book.CITATION.findall(text):
        assert book.section(number, heading)
    # what looks like a citation is one: a slip in its form would not be tried
    assert len(book.CITATION.findall(text)) == text.count(" › ")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_a_heading_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="04 has no heading 'It learn'.*It learns"):
        book.section("04", "It learn")


def test_a_section_holds_its_lower_headings_and_ends_before_the_next():
    part = book.section("02", "Part 1 · Points")
    inside = [text for _, text, _ in book.headings(part)]
    assert "Training" in inside
    assert "Part 2 · Pictures" not in inside
    training = book.section("02", "Training")
    assert len(training) < len(part)
    assert "def train_step" in "".join(cell.source for cell in training)


# -- the plans


def plans(name):
    """{session: [(clock in minutes, minutes, cited sections)]} of a page."""
    text = (TEACHING / name).read_text("utf-8")
    starts = [(match.start(), match[1]) for match in SESSION.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    found = {}
    for (start, title), end in zip(starts, ends, strict=True):
        rows = ROW.findall(text[start:end])
        found[title] = [
            (60 * int(hours) + int(minutes), int(length), book.CITATION.findall(cited))
            for hours, minutes, length, cited in rows
        ]
    return found


def test_there_is_one_lab_and_three_sessions():
    assert list(plans("lab-90.md")) == ["The plan"]
    assert list(plans("unit-3x90.md")) == ["Session 1", "Session 2", "Session 3"]


@of_each(["lab-90.md", "unit-3x90.md"])
def test_a_session_has_ninety_minutes_without_a_gap(one):
    for rows in plans(one).values():
        clock = 0
        for start, length, _ in rows:
            assert start == clock
            clock += length
        assert clock == 90


def parts_to_run():
    """(page, session, notebook): the sections of a notebook that a session runs."""
    for page in ("lab-90.md", "unit-3x90.md"):
        for session, rows in plans(page).items():
            cited = [citation for _, _, citations in rows for citation in citations]
            for number in dict.fromkeys(number for number, _ in cited):
                headings = [heading for other, heading in cited if other == number]
                name = f"{page}-{session}-{number}".replace(" ", "-")
                yield pytest.param(number, headings, id=name)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "headings"), parts_to_run())
def test_the_cells_that_a_plan_names_run_in_that_order(number, headings):
    cells = list(book.opening(number))
    for heading in headings:
        cells += book.section(number, heading)
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    execute(code)  # an error in a cell is an error here


def execute(cells):
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}
    return NotebookClient(notebook, timeout=600, resources=folder).execute()


# -- the table of times


def test_the_table_of_times_is_what_the_script_writes():
    text = times.README.read_text("utf-8")
    inside = text.split(times.BEGIN)[1].split(times.END)[0].strip()
    assert inside == times.table().strip(), "run `make teaching`"


def test_words_leave_out_cards_links_and_formulas(monkeypatch):
    cells = [
        nbformat.v4.new_markdown_cell("one [two](https://three.four) $five + six$"),
        nbformat.v4.new_markdown_cell("seven", metadata={"tags": ["exercise"]}),
        new_code_cell("eight"),
    ]
    monkeypatch.setattr(book, "read", lambda number: nbformat.v4.new_notebook(cells=cells))
    assert book.words_of("00") == 3  # the formula is one


def test_measured_seconds_are_of_notebooks_that_exist():
    for number, seconds in times.measured().items():
        assert number in book.NUMBERS
        assert 0 < seconds["cpu_seconds"] < 600


# -- the quiz


@of_each(quiz.SESSIONS)
def test_a_quiz_has_ten_questions_with_a_reason_for_every_answer(one):
    questions = quiz.questions(one)
    assert len(questions) == 10
    for question in questions:
        assert set(question["answers"]) == set(question["reasons"]) == set(quiz.LETTERS)
        assert question["right"] in quiz.LETTERS
        assert len(set(question["answers"].values())) == 4
        [(number, heading)] = book.CITATION.findall(f"`{question['where']}`")
        assert book.section(number, heading)
    letters = [question["right"] for question in questions]
    assert all(letters.count(letter) <= 4 for letter in quiz.LETTERS)


@of_each(quiz.SESSIONS)
def test_the_longest_answer_is_not_always_the_right_one(one):
    longest = [
        max(question["answers"], key=lambda letter: len(question["answers"][letter]))
        for question in quiz.questions(one)
    ]
    right = [question["right"] for question in quiz.questions(one)]
    assert sum(a == b for a, b in zip(longest, right, strict=True)) <= 5


def test_quiz_pages_are_what_the_script_writes():
    for path, text in quiz.pages().items():
        assert path.read_text("utf-8") == text, "run `make teaching`"


@of_each(quiz.SESSIONS)
def test_the_page_for_the_class_tells_no_answer(one):
    for question in quiz.questions(one):
        assert not any(reason in quiz.page(one) for reason in question["reasons"].values())
        assert all(reason in quiz.answers(one) for reason in question["reasons"].values())


# -- the slides

DECKS = sorted(slides.FOLDER.glob("*.md"))


def test_there_are_three_decks():
    assert len(DECKS) == 3


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)
def test_a_deck_takes_its_figures_from_the_notebooks(deck, tmp_path):
    text = deck.read_text("utf-8")
    taken = slides.TAKEN.findall(text)
    assert sum(kind == "figure" for kind, *_ in taken) >= 4
    page = slides.build(deck, tmp_path).read_text("utf-8")
    assert "\n@ " not in page
    assert page.count("data:image/") >= sum(kind == "figure" for kind, *_ in taken)
    pictures = re.findall(r'<img alt="([^"]*)"', page)
    assert all(len(alt) > 10 for alt in pictures)
    titles = re.findall(r"^# (.+)$", text, re.MULTILINE)
    assert len(titles) == len(re.split(r"^---$", text, flags=re.MULTILINE))


def test_a_slide_that_asks_for_too_much_is_named():
    match = slides.TAKEN.match("@ figure 99 of `04 › It learns`")
    with pytest.raises(ValueError, match="It learns.*not 99"):
        slides.take(match)


# -- the students' copies


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    made = student.build(tmp_path_factory.mktemp("student") / "copies.zip")
    with ZipFile(made) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def copy_of(archive, number):
    [text] = [text for name, text in archive.items() if name.startswith(f"e4t-student/{number}_")]
    return nbformat.reads(text, 4)


def test_the_archive_holds_the_notebooks_and_nothing_else(archive):
    names = [name.removeprefix("e4t-student/") for name in archive]
    assert names == ["READ-ME.txt", *(book.path_of(number).name for number in book.NUMBERS)]


@of_each(book.NUMBERS)
def test_no_solution_is_in_the_archive(one, archive):
    shown = "\n".join(cell.source for cell in copy_of(archive, one).cells)
    public = "\n".join(cell.source for cell in book.read(one).cells)
    for card in cards(one):
        lines = [line.strip() for line in card["solution"].splitlines()]
        secret = [line for line in lines if len(line) > 12 and line not in public]
        assert secret
        assert [line for line in secret if line in shown] == []
        assert card["why"].strip() not in shown
    assert "_solutions" not in shown
    assert "colab-badge" not in shown  # it leads to the notebook with outputs


@of_each(book.NUMBERS)
def test_checks_are_hidden_and_the_same(one, archive):
    pairs = zip(checks_of(copy_of(archive, one)), checks_of(book.read(one)), strict=True)
    for source, plain in pairs:
        longest = max(plain.splitlines(), key=len)
        assert longest not in source
        assert max(map(len, source.splitlines())) <= 88
        packed = {}
        exec(source[: source.index("exec(")], packed)
        assert zlib.decompress(base64.b85decode(packed["check"])).decode() == plain


@of_each(book.NUMBERS)
def test_what_figures_will_show_is_hidden_and_the_same(one, archive):
    cells = [cell for cell in book.read(one).cells if "colab-badge" not in cell.source]
    for copied, cell in zip(copy_of(archive, one).cells, cells, strict=True):
        if "alt =" not in cell.source or book.is_tagged(cell, "check"):
            continue
        [words] = [node for node in ast.walk(ast.parse(cell.source)) if is_alt(node)]
        if isinstance(words.value, ast.JoinedStr):
            continue
        assert words.value.value not in copied.source
        [packed] = [node for node in ast.walk(ast.parse(copied.source)) if is_alt(node)]
        assert eval(ast.unparse(packed.value), {"base64": base64}) == words.value.value


@of_each(book.NUMBERS)
def test_the_words_of_a_figure_have_a_name_so_that_they_can_be_hidden(one):
    for cell in book.read(one).cells:
        if cell.cell_type == "code" and "show(" in cell.source:
            calls = [node for node in ast.walk(ast.parse(cell.source)) if is_call_of_show(node)]
            assert all(isinstance(call.args[1], ast.Name) for call in calls), cell.source


def is_call_of_show(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "show"


def is_alt(node):
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "alt"


def checks_of(notebook):
    exercises = [cell for cell in notebook.cells if book.is_tagged(cell, "exercise")]
    return [cell.source for cell in exercises if book.is_tagged(cell, "check")]


def test_copies_have_no_outputs(archive):
    for number in book.NUMBERS:
        code = [cell for cell in copy_of(archive, number).cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_a_hidden_check_tells_unsolved_from_solved(archive):
    [card] = [card for card in cards("01") if card["title"] == "The nearest relative"]
    copy = copy_of(archive, "01").cells
    [start] = [i for i, cell in enumerate(copy) if cell.source == card["start"].strip()]
    setup = new_code_cell(card.get("setup", ""))
    unsolved, check = copy[start], copy[start + 1]
    solved = new_code_cell(card["solution"])
    ran = execute([setup, unsolved, check, solved, nbformat.from_dict(check)]).cells
    assert ran[2].outputs[0].text.startswith("not yet")
    assert ran[4].outputs[0].text.strip() == "right"


# -- the whole


def test_every_notebook_has_notes_with_the_same_parts():
    for number in book.NUMBERS:
        text = (TEACHING / "notes" / f"{number}.md").read_text("utf-8")
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == [
            "The point",
            "Where students stall",
            "Three misconceptions",
            "What to cut",
            "Open exercises",
        ]
        misconceptions = text.split("## Three misconceptions")[1].split("## What to cut")[0]
        assert len(re.findall(r"^\d\. ", misconceptions, re.MULTILINE)) == 3
        assert misconceptions.count("*Ask:*") == 3


def test_there_are_six_projects_with_a_rubric():
    text = (TEACHING / "projects.md").read_text("utf-8")
    assert len(re.findall(r"^## \d · ", text, re.MULTILINE)) == 6
    assert "e4t bench" in text
    assert "own-method.md" in text


def test_make_builds_the_kit():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("student", "teaching", "room"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_has_a_row_for_every_notebook():
    text = times.table()
    assert all(f"../notebooks/{book.path_of(number).name}" in text for number in book.NUMBERS)
