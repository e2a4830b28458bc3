"""`e4t evaluate`, `bench`, `speed`: how good, compared with what, and how fast."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import DATA
from .options import Bf16, Report, ScheduleOptions, command
from .writing import write_report

if TYPE_CHECKING:
    from ..evaluation.benchmark import Comparison
    from ..evaluation.scores import People


@dataclass(frozen=True)
class PeopleOptions:
    """On whom it is measured."""

    domain: str = "face"
    identities: Annotated[int, typer.Option(min=2)] = 32
    split: str = "held-out"
    seed: int = 0

    def people(self) -> "People":
        from ..evaluation.scores import People

        return People(self.domain, self.identities, self.split, self.seed)


@command
def evaluate(
    people: PeopleOptions,
    schedule: ScheduleOptions,
    steps: Annotated[str, typer.Option(help="Numbers of steps to score after.")] = "0,5,15",
    weights: Annotated[
        Path | None, typer.Option(help="An E4T folder (default: the shipped one of the domain).")
    ] = None,
    bf16: Bf16 = False,
    out: Report = None,
):
    """Measure floor, ceiling, gap, and identity and prompt scores after each number of steps.

    "named" is what the base draws of people whose names it knows, for comparison.

    --lr to --batch change the schedule of personalization, whose defaults hold otherwise.
    """
    import torch

    from ..base import load_base
    from ..evaluation.scores import evaluate, named_scores
    from ..helpers.files import check_file
    from ..helpers.stored import read_config
    from ..train import PERSONALIZATION

    if not re.fullmatch(r"\d+(,\d+)*", steps):
        raise ValueError(f"--steps takes whole numbers with commas, such as 0,5,15, not {steps!r}.")
    stops = sorted({int(number) for number in steps.split(",")})
    measured = people.people()
    weights = weights or DATA / f"e4t-{people.domain}"
    read_config(weights)
    check_file(out, weights=weights)
    base = load_base("toy")
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
        report = evaluate(base, weights, measured, tuple(stops), schedule.change(PERSONALIZATION))
        report["named"] = named_scores(base, measured)
    write_report({"bf16": bf16} | report, out)


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared, and on whom."""

    domain: str = "face"
    identities: Annotated[
        int | None, typer.Option(min=2, help="(default: 16; with --search 4)")
    ] = None
    quick: Annotated[
        bool,
        typer.Option(help="4 validation identities, few steps, a batch of 8 always."),
    ] = False
    search: Annotated[
        bool, typer.Option(help="Try learning rates on validation identities instead.")
    ] = False
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Do this one now; may be given several times. The report is of all that are "
            "done. A method of your own is path.py:Class (docs/own-method.md); its report has "
            "files of its own, and is of the methods that are given."
        ),
    ] = None
    weights: Annotated[
        str, typer.Option(help="Another domain, whose E4T has to learn these people.")
    ] = ""
    hold_background: Annotated[
        bool,
        typer.Option(
            help="Every method holds what lies outside the mask, before 16 other backgrounds. "
            "Otherwise E4T alone does, and has the L2 term; all else but what learns is the same."
        ),
    ] = False
    batch: Annotated[
        int,
        typer.Option(
            min=2,
            help="Pictures of a step. With fewer than 16, as many more steps, and smaller "
            "learning rates.",
        ),
    ] = 16
    bf16: Bf16 = False
    seed: int = 0

    def comparison(self) -> "Comparison":
        from ..evaluation.benchmark import SEARCHED, Comparison
        from ..evaluation.own import register

        if self.quick and self.search:
            raise ValueError("--quick and --search are two different things: give one of them.")
        kind = "quick" if self.quick else "full"
        if self.search:
            kind = "search"
        return Comparison(
            domain=self.domain,
            identities=self.identities or (SEARCHED if self.search else Comparison.identities),
            kind=kind,
            methods=tuple(register(name) if ":" in name else name for name in self.method or ()),
            batch=self.batch,
            seed=self.seed,
            bf16=self.bf16,
            weights=self.weights,
            hold_background=self.hold_background,
        )


@command
def bench(
    options: ComparisonOptions,
    out: Annotated[Path, typer.Option(help="Folder for .jsonl, .json and pictures.")] = Path(
        "docs/results"
    ),
):
    """E4T against Textual Inversion, DreamBooth and LoRA: identity after steps and seconds.

    Stopped runs go on where they were.
    """
    from ..evaluation.benchmark import execute, finished
    from ..evaluation.provenance import machine
    from ..evaluation.results import summarise, summarise_search

    asked = options.comparison()
    whole = asked if asked.own_methods else asked.replace(methods=())
    path = out / f"{whole.name}.jsonl"
    execute(path, asked.runs())
    records = finished(path, whole.runs())
    if options.search:
        summary = summarise_search(records)
    else:
        summary = summarise(records)
        _draw(path, summary, options.domain)
    report = {
        "comparison": asdict(whole),
        "commits": sorted({record["commit"] or "" for record in records}),
        "machine": machine(),
        "methods": summary,
    }
    if asked.own_methods:
        report["sources"] = _sources(asked)
    write_report(report, path.with_suffix(".json"))


def _sources(asked: "Comparison") -> dict[str, dict]:
    """{method that is somebody's own: where it stands, and the checksum of its file}."""
    from ..evaluation.baselines import METHODS

    own = {name: METHODS[name] for name in asked.own_methods}
    return {name: {"source": each.source, "sha256": each.sha256} for name, each in own.items()}


def _draw(path: Path, summary: dict[str, dict], domain: str) -> None:
    """Curves, and a gallery of last pictures, beside the records in `path`."""
    from ..evaluation.figures import curves, last_pictures
    from ..evaluation.pictures import picture_path
    from ..helpers.files import replacing

    with replacing(path.with_suffix(".png")) as new:
        curves(summary).savefig(new, format="png")
    # with another run under way, perhaps not yet
    if all(picture_path(path, method, 0).exists() for method in summary):
        with replacing(path.with_name(f"{path.stem}-pictures.jpg")) as new:
            last_pictures(path, summary, domain).savefig(new, format="jpg")


@command
def speed(
    narrow: Annotated[
        int,
        typer.Option(
            min=1,
            help="Besides the toy, Stable Diffusion 1.5 at 1/n of its width, with random weights.",
        ),
    ] = 4,
    resolution: int = 256,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    out: Report = None,
):
    """Seconds of sampling against the stock pipeline's, and of a step against a LoRA step's."""
    from ..evaluation.speed import measure
    from ..helpers.files import check_file

    check_file(out)
    write_report(measure(narrow, resolution, repeats), out)
