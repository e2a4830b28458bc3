"""What README and the pages of docs/ take from files: tables and sentences, between two marks.

    python docs/generate.py    # after measuring, or after changing a notebook's times or an option

A block begins with `<!-- begin NAME -->`, ends with `<!-- end NAME -->`, and BLOCKS says who
writes it. `tests/test_docs.py` fails while a page is not what is generated here.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np

from e4t_minimal.evaluation.baselines import METHODS
from e4t_minimal.evaluation.results import CAPTION, read_report, table
from e4t_minimal.evaluation.scores import interval

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
DOMAINS = ("face", "critter", "robot")
BEFORE_AND_AFTER = {"0": "before any step", "5": "5 steps", "15": "15 steps"}
MARK = r"<!-- begin ([\w-]+) -->\n(.*?)<!-- end \1 -->"
TIMES = {  # how a notebook says it, and how a table does
    "a minute and a half": "1.5",
    "half a minute": "0.5",
    "a minute": "1",
    " minutes": "",
    " minute": "",
    "about ": "",
    "under ": "<",
}
BUILT = {
    "00": "the whole method, used",
    "01": "concepts, domains, scenes, captions",
    "02": "noise, latents, guidance, the sampling loop",
    "03": "S\\* in a prompt; Textual Inversion",
    "04": "from a picture to the word",
    "05": "W (1 + Delta), rank 3, folding",
    "06": "keeping S\\* a word and its surroundings; three bugs in losses",
    "07": "phase 1, and two exams to watch it by",
    "08": "phase 2: one picture, fifteen steps",
    "09": "the judge, other methods, a user study",
    "10": "a large base, and its costs",
    "11": "five questions, each answered from inside",
}


def repository() -> str:
    """The project's address: it stands in pyproject.toml alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Repository"]


def colab(path: str) -> str:
    """Where Colab opens a notebook of ours."""
    address = repository().replace("https://github.com", "")
    return f"https://colab.research.google.com/github{address}/blob/main/{path}"


def as_table(rows: list[list[str]]) -> list[str]:
    """Lines of Markdown; the first row is the head."""
    head, *others = rows
    return [_row(head), "|" + "---|" * len(head), *map(_row, others)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def number(score: dict) -> str:
    return f"{score['mean']:.2f}"


def with_interval(score: dict) -> str:
    return f"{score['mean']:.2f} ({score['low']:.2f}-{score['high']:.2f})"


# --- the notebooks ---------------------------------------------------------------------------


def badges() -> list[str]:
    """Colab for the first notebook, the tests of the main branch, licence, Python."""
    first = colab("notebooks/00_first_light.ipynb")
    tests = f"{repository()}/actions/workflows/tests.yml"
    shield = "https://img.shields.io/badge"
    return [
        f"[![Open 00 in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({first})",
        f"[![tests]({tests}/badge.svg)]({tests})",
        f"[![licence: MIT]({shield}/licence-MIT-blue)](LICENSE)",
        f"[![Python 3.10 or newer]({shield}/python-3.10+-blue)](pyproject.toml)",
    ]


def clone() -> list[str]:
    return ["```sh", f"git clone --depth 1 {repository()} && cd e4t-minimal", "```"]


def notebooks() -> list[str]:
    """One row for each notebook: its minutes are those that stand in it."""
    rows = [["notebook", "Colab", "builds", "read", "run", "do"]]
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        title, reading, running = times_of(path)
        place = f"notebooks/{path.name}"
        rows.append(
            [
                f"[{title}]({place})",
                f"[open]({colab(place)})",
                BUILT[path.name[:2]],
                reading,
                running,
                str(minutes_of_cards(path.name[:2])),
            ]
        )
    return as_table(rows)


def times_of(path: Path) -> tuple[str, str, str]:
    """A notebook's title, minutes to read, and its run time, shortened."""
    cells = nbformat.read(path, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = re.search(r"^# (\d\d) · (.*?)(?::.*)?$", text, re.M)
    times = re.search(r"\*\*Reading: (\d+) minutes\. Running: (.*?) on two CPU cores[^.]*\.", text)
    if not title or not times:
        raise ValueError(f"{path.name} does not say in its head how long it takes")
    running = times[2]
    for words, short in TIMES.items():
        running = running.replace(words, short)
    return f"{title[1]} {title[2]}", times[1], running


def minutes_of_cards(number: str) -> int:
    cards = (ROOT / "notebooks/exercises" / f"{number}.toml").read_text("utf-8")
    return sum(card["minutes"] for card in tomllib.loads(cards)["card"])


# --- what was measured -----------------------------------------------------------------------


def evaluation(domain: str) -> dict:
    return json.loads((ROOT / f"docs/evaluation-{domain}.json").read_text("utf-8"))


def domains() -> list[str]:
    """`e4t evaluate`: one column for each domain."""
    reports = [evaluation(domain) for domain in DOMAINS]

    def line(title: str, cell: Callable[[dict], str]) -> list[str]:
        return [title, *map(cell, reports)]

    def after(steps: str, score: str, as_text: Callable[[dict], str]) -> Callable[[dict], str]:
        return lambda report: as_text(report["steps"][steps][score])

    def floor(score: str, as_text: Callable[[dict], str]) -> Callable[[dict], str]:
        return lambda report: as_text(report["floor"][score])

    def by_name(score: str, as_text: Callable[[dict], str]) -> Callable[[dict], str]:
        return lambda report: as_text(report["named"][score]) if "named" in report else ""

    rows = [
        line("", lambda report: report["domain"]),
        line("people", lambda report: str(report["identities"])),
        line("identity: class word alone (the floor)", floor("identity", with_interval)),
    ]
    for steps, title in BEFORE_AND_AFTER.items():
        rows.append(line(f"identity: S\\*, {title}", after(steps, "identity", with_interval)))
    rows += [
        line(
            "the last, as a share of the way from floor to ceiling",
            after("15", "normalised", with_interval),
        ),
        line(
            "identity: the picture itself, through the autoencoder (the ceiling)",
            lambda report: number(report["ceiling"]),
        ),
        line("identity: celebrities, by their names", by_name("identity", with_interval)),
        line("prompt: S\\*, 15 steps", after("15", "prompt", with_interval)),
        line("diversity of eight photos: class word, eight people", floor("diversity", number)),
        line("diversity: one celebrity, by name", by_name("diversity", number)),
        line("diversity: S\\*, before any step", after("0", "diversity", number)),
        line("diversity: S\\*, 15 steps", after("15", "diversity", number)),
    ]
    return as_table([row for row in rows if any(row[1:])])  # what was not measured is left out


def benchmark(name: str) -> list[str]:
    """`e4t bench`: one line for each method, and the command that measured it."""
    report = read_report(RESULTS / f"{name}.json")
    found = table(report["methods"])
    columns = list(next(iter(found.values())))
    rows = [["steps", *columns]]
    for method, cells in found.items():
        rows.append([method, *(cells[column] for column in columns)])
    people = next(iter(report["methods"].values()))["identities"]
    return [*as_table(rows), "", f"`{command_of(report)}`; {people} people."]


def command_of(report: dict) -> str:
    """The command that measured a report, from what it says was compared."""
    asked = report["comparison"]
    words = ["e4t bench", f"--domain {asked['domain']}"]
    if asked["kind"] != "full":
        words.append(f"--{asked['kind']}")
    if asked["kind"] != "quick":  # which has a number of people of its own
        words.append(f"--identities {asked['identities']}")
    if set(report["methods"]) != set(METHODS):
        words += [f'--method "{method}"' for method in report["methods"]]
    words += [f"--weights {asked['weights']}"] if asked["weights"] else []
    words += [f"--batch {asked['batch']}", f"--seed {asked['seed']}"]
    words += [f"--{name.replace('_', '-')}" for name in ("bf16", "hold_background") if asked[name]]
    return " ".join(words)


def what_differs() -> list[str]:
    return [CAPTION.replace("*", "\\*")]


def small_batch() -> list[str]:
    """Steps and seconds with two rows a step until the identity of E4T after 80 such steps."""
    report = read_report(RESULTS / "bench-face-batch-2.json")
    eighty = report["methods"]["E4T"]["steps"][80]  # as many rows as ten steps of sixteen
    goal = eighty["identity"]["mean"]
    rows = [["two rows a step", f"steps to {goal:.3f}", "CPU seconds", "times E4T's"]]
    for method, found in report["methods"].items():
        stops = [n for n, at in found["steps"].items() if at["identity"]["mean"] >= goal]
        if stops:
            seconds = found["steps"][stops[0]]["seconds"]["mean"]
            share = seconds / eighty["seconds"]["mean"]
            rows.append([method, str(stops[0]), f"{seconds:.0f}", f"{share:.1f}"])
        else:
            rows.append([method, f"not within {max(found['steps'])}", "", ""])
    return [*as_table(rows), "", f"`{command_of(report)}`"]


def ablations(trained: bool = False) -> list[str]:
    """`python -m e4t_minimal.training ablate`: one line for each variant.

    trained: those that were trained for this; else those of the shipped models.
    """
    report = json.loads((RESULTS / "ablation-face.json").read_text("utf-8"))
    shipped = report["E4T"]["made by"]
    report = {
        name: found for name, found in report.items() if (found["made by"] != shipped) == trained
    }
    stops = sorted({n for found in report.values() for n in found["steps"]}, key=int)
    rows = [
        ["variant", "what it changes", *(f"identity, {n}" for n in stops), "prompt", "diversity"]
    ]
    for name, found in report.items():
        steps = found["steps"]
        last = steps[max(steps, key=int)]
        identities = [with_interval(steps[n]["identity"]) if n in steps else "" for n in stops]
        what = found["what"].replace("*", "\\*")
        rows.append([name, what, *identities, number(last["prompt"]), number(last["diversity"])])
    return as_table(rows)


def rates() -> list[str]:
    """`e4t bench --search`: what each method was tried with, and what was best."""
    report = json.loads((RESULTS / "search-face.json").read_text("utf-8"))
    methods = report["methods"]
    factors = list(next(iter(methods.values()))["factor"])
    rows = [["learning rates times", "people", *factors, "best"]]
    for name, found in methods.items():
        tried = [found["factor"].get(factor) for factor in factors]
        cells = [f"{at['identity']:.2f} ({at['prompt']:.2f})" if at else "" for at in tried]
        rows.append([name, str(found["people"]), *cells, f"{found['best']:g}"])
    return [*as_table(rows), "", f"`{command_of(report)}`, of validation people."]


def speed() -> list[str]:
    """`e4t speed`: E4T beside the stock pipeline and beside a LoRA step."""
    report = json.loads((ROOT / "docs/speed.json").read_text("utf-8"))
    rows = [["", "CPU seconds, E4T / theirs", "ratio", "ratio by the clock on the wall"]]
    for base, works in report.items():
        if base in ("commit", "machine"):
            continue
        for work, found in works.items():
            cpu = found["cpu"]
            seconds = f"{cpu['ours']:.1f} / {cpu['theirs']:.1f}"
            ratios = [f"**{cpu['ratio']:.2f}**", f"{found['seconds']['ratio']:.2f}"]
            rows.append([f"{base}: {work}", seconds, *ratios])
    return as_table(rows)


def findings() -> list[str]:
    """README's three sentences."""
    return [f"- {_how_good()}", f"- {_compared()}", f"- {_at_what_price()}"]


def _how_good() -> str:
    report = evaluation("face")
    before, after = (report["steps"][n]["identity"] for n in ("0", "15"))
    floor, ceiling = report["floor"]["identity"], report["ceiling"]
    return (
        f"S\\* has {with_interval(before)} of the attributes of {report['identities']} held-out "
        f"faces before any step, {with_interval(after)} after fifteen; "
        f'"a face" {number(floor)}, the picture itself {number(ceiling)}.'
    )


def _compared() -> str:
    """How far the others have to go to be as good as E4T after five steps."""
    methods = read_report(RESULTS / "bench-face.json")["methods"]
    five = methods["E4T"]["steps"][5]
    others = {name: found for name, found in methods.items() if name != "E4T"}
    lines = [f"{name} {_arrival(found, five)}" for name, found in others.items()]
    sure = [_surely_behind(found, five) for found in others.values()]
    return (
        f"After five steps and {five['seconds']['mean']:.0f} CPU seconds E4T has "
        f"{number(five['identity'])} of {len(five['each'])} faces. The others' "
        f"means follow after: {'; '.join(lines)}. Each is surely behind for only "
        f"{min(sure):.1f} to {max(sure):.1f} times as long."
    )


def _surely_behind(found: dict, goal: dict) -> float:
    """Until when a method has surely less than the goal, in times the goal's seconds."""
    times = [0.0]
    for at in found["steps"].values():
        apart = np.array(goal["each"]) - at["each"]
        if interval(apart)["low"] > 0:
            times.append(at["seconds"]["mean"] / goal["seconds"]["mean"])
    return max(times)


def _arrival(found: dict, goal: dict) -> str:
    """When a method first has the identity of the goal, and in how many times the seconds."""
    steps = found["steps"]
    good = [n for n in steps if steps[n]["identity"]["mean"] >= goal["identity"]["mean"]]
    if not good:
        return f"more than {max(steps)} steps"
    times = steps[min(good)]["seconds"]["mean"] / goal["seconds"]["mean"]
    return f"{min(good)} steps ({times:.1f} times)"


def _at_what_price() -> str:
    """How alike eight photos of one person become, E4T's and the others'."""
    report = evaluation("face")
    own, one = report["steps"]["15"]["diversity"], report["named"]["diversity"]
    methods = read_report(RESULTS / "bench-face.json")["methods"]
    others = [found["steps"] for name, found in methods.items() if name != "E4T"]
    last = [steps[max(steps)] for steps in others]
    identities, diversities = (
        [at[score]["mean"] for at in last] for score in ("identity", "diversity")
    )
    return (
        f"After fifteen steps eight photos of S\\* differ by {number(own)}, eight of a person "
        f"known by name by {number(one)}. The others end at {_range(identities)}, their photos at "
        f"{_range(diversities)}."
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


# --- the command line ------------------------------------------------------------------------


def commands() -> list[str]:
    """Each command of `e4t`: what it does, its arguments and options."""
    from typer.main import get_command

    from e4t_minimal.cli.app import app

    lines = []
    for name, command in get_command(app).commands.items():
        words = [param.name.upper() for param in command.params if _is_argument(param)]
        usage = " ".join(["e4t", name, *words, "[OPTIONS]"])
        lines += ["", f"## e4t {name}", "", _plain(command.help), "", f"`{usage}`", ""]
        options = [_option(param) for param in command.params if param.name != "help"]
        if options:
            lines += as_table([["option", "default", "what"], *options])
    return lines[1:]


def _is_argument(param) -> bool:
    return param.param_type_name == "argument"


def _option(param) -> list[str]:
    if _is_argument(param):
        names = f"`{param.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    default = param.default
    if isinstance(default, (list, tuple)):
        default = ", ".join(map(str, default))
    shown = "" if default is None or callable(default) else f"`{default}`"
    return [names, "required" if param.required else shown, _plain(param.help or "")]


def _plain(text: str) -> str:
    """One line, without what Markdown would take for its own."""
    return " ".join(text.split()).replace("*", "\\*").replace("|", "\\|")


# --- writing ---------------------------------------------------------------------------------

BLOCKS = {
    "badges": badges,
    "clone": clone,
    "notebooks": notebooks,
    "findings": findings,
    "domains": domains,
    "methods": lambda: benchmark("bench-face"),
    "methods-critter": lambda: benchmark("bench-critter"),
    "methods-robot": lambda: benchmark("bench-robot"),
    "far-away": lambda: benchmark("bench-robot-on-face"),
    "what-differs": what_differs,
    "small-batch": small_batch,
    "ablations": ablations,
    "ablations-trained": lambda: ablations(trained=True),
    "rates": rates,
    "speed": speed,
    "commands": commands,
}


def pages() -> list[Path]:
    """Every page that has a block."""
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in texts if "<!-- begin " in path.read_text("utf-8")]


def generated(text: str) -> str:
    """A page's text with every block as it should be; ValueError for an unknown one."""

    def block(match: re.Match) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise ValueError(f"no block {name!r}; there are {', '.join(BLOCKS)}")
        lines = "\n".join(BLOCKS[name]())
        return f"<!-- begin {name} -->\n{lines}\n<!-- end {name} -->"

    return re.sub(MARK, block, text, flags=re.DOTALL)


def main():
    for path in pages():
        text = path.read_text("utf-8")
        new = generated(text)
        if new != text:
            path.write_text(new, "utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
