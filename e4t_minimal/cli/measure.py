"""`e4t evaluate`, `bench`, `speed`: how good, compared with what, and how fast."""

import re
from pathlib import Path
from typing import Annotated

import typer

from .. import DATA
from ..cli.app import Bf16, command, write_report
from ..files import replacing


@command
def evaluate(
    domain: str = "face",
    identities: Annotated[int, typer.Option(min=2)] = 32,
    steps: str = "0,5,15",
    split: str = "held-out",
    weights: Path | None = None,
    seed: int = 0,
    bf16: Bf16 = False,
    lr: float | None = None,
    offsets_lr: float | None = None,
    l2: float | None = None,
    outside: float | None = None,
    t_min: int | None = None,
    batch: int | None = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
):
    """Measure floor, ceiling, gap, and identity and prompt scores after each number of steps. --lr to --batch: as in `personalize`, whose defaults hold."""
    import torch
    from tqdm import tqdm

    from ..base import load_base
    from ..evaluation.scores import evaluate as measure
    from ..model import read_config
    from ..world import identity

    weights = weights or DATA / f"e4t-{domain}"
    (
        identity(domain, split, 0),
        read_config(weights),
    )  # refuse what is not there before the bar starts
    if not re.fullmatch(r"\d+(,\d+)*", steps):
        raise ValueError(f"--steps takes whole numbers with commas, such as 0,5,15, not {steps!r}.")
    numbers = sorted({int(n) for n in steps.split(",")})
    how = {
        name: value
        for name, value in dict(
            lr=lr, offsets_lr=offsets_lr, l2=l2, outside=outside, t_min=t_min, batch=batch
        ).items()
        if value is not None
    }
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False),
        tqdm(total=(1 + len(numbers)) * identities, desc="drawing") as bar,
    ):
        show = lambda subject: (bar.set_description(f"drawing {subject}"), bar.update())  # noqa: E731
        report = {"bf16": bf16} | measure(
            load_base("toy"), weights, domain, identities, numbers, split, seed, show, **how
        )
    write_report(report, out)


@command
def bench(
    domain: str = "face",
    identities: Annotated[int, typer.Option(min=2)] = 16,
    quick: Annotated[
        bool,
        typer.Option(
            help="4 identities, few steps, a batch of 8 always, pictures in 10 denoising steps."
        ),
    ] = False,
    search: Annotated[
        bool, typer.Option(help="Try learning rates on validation identities instead.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Do this one now; may be given several times. The report is of all that are done."
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Another domain, whose E4T has to learn these people.")
    ] = "",
    batch: Annotated[
        int,
        typer.Option(
            min=2,
            help="Rows of a step. With fewer than 16, as many more steps, and smaller learning rates.",
        ),
    ] = 16,
    bf16: Bf16 = False,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Folder for .jsonl, .json and pictures.")] = Path(
        "docs/results"
    ),
):
    """E4T against Textual Inversion, DreamBooth and LoRA: identity after steps and seconds. Stopped runs go on where they were."""
    from ..evaluation.baselines import METHODS
    from ..evaluation.bench import BATCH, execute, finished, plan
    from ..evaluation.results import (
        curves,
        last_pictures,
        picture_path,
        summarise,
        summarise_search,
    )
    from ..evaluation.speed import machine

    name = (
        ("search-" if search else "bench-")
        + domain
        + f"-on-{weights}" * bool(weights)
        + "-quick" * quick
    )
    name += f"-batch-{batch}" * (batch != BATCH) + f"-seed-{seed}" * bool(seed)
    path, how = out / f"{name}.jsonl", dict(batch=batch, bf16=bf16, seed=seed, weights=weights)
    execute(path, plan(domain, identities, quick, search, tuple(method or ()), **how))
    rows = finished(path, plan(domain, identities, quick, search, **how))
    figures = summarise_search(rows) if search else summarise(rows)
    if not search:
        shown = {f"{name}.png": curves(figures)}
        if all(
            picture_path(path, one, 0).exists() for one in figures
        ):  # with another run under way, perhaps not yet
            shown[f"{name}-pictures.jpg"] = last_pictures(path, figures, domain)
        for file, figure in shown.items():
            with replacing(out / file) as new:
                figure.savefig(new, format=file[-3:])
    asked = (
        f"e4t bench --domain {domain} --identities {identities}"
        + " --quick" * quick
        + " --search" * search
        + f" --weights {weights}" * bool(weights)
    )
    asked += f" --batch {batch}" * (batch != BATCH)
    asked += "".join(f' --method "{one}"' for one in figures) if len(figures) < len(METHODS) else ""
    write_report(
        {
            "command": asked + " --bf16" * bf16 + f" --seed {seed}",
            "commits": sorted({row["commit"] or "" for row in rows}),
            "machine": machine(),
            "methods": figures,
        },
        out / f"{name}.json",
    )


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
    out: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
):
    """Seconds of sampling against the stock pipeline's, and of a pretraining step against a LoRA step's."""
    from ..evaluation.speed import measure

    write_report(measure(narrow, resolution, repeats), out)
