"""`python -m e4t_minimal.training clip|vae|unet|judge|e4t|check|ablate|pack`: make the toy models again, from nothing, on a CPU."""

import json
from pathlib import Path

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
RUNS = Path("runs")


def _command(name: str, steps: int):
    def command(
        steps: int = steps, seed: int = 0, resume: bool = False, folder: Path = RUNS / name
    ):
        from importlib import import_module

        report = import_module(f".{name}", __package__).fit(
            folder, steps=steps, seed=seed, resume=resume
        )
        (folder / "report.json").write_text(json.dumps(report, indent=2))
        typer.echo(json.dumps(report, indent=2))

    command.__doc__ = (
        f"Train the toy {name} (checkpoints in runs/{name}, --resume goes on from the last one)."
    )
    app.command(name)(command)


for _name, _steps in dict(clip=800, vae=3000, unet=6000, judge=1500).items():
    _command(_name, _steps)


@app.command()
def e4t(
    domain: str = "face",
    steps: int = 200,
    dictionary_steps: int = 1000,
    seed: int = 0,
    encoder: str = "e4t",
    offsets: str = "multiplicative",
    blocks: int | None = None,
    s: float | None = None,
    extra: list[str] = typer.Option([], help="A further term of the loss, as in contrastive=0.01."),
    folder: Path | None = None,
    resume: bool = False,
):
    """Pretrain E4T on a domain (phase 1), into runs/e4t-DOMAIN; other kinds of encoder, offsets and loss to compare with."""
    from ..training.e4t import fit

    folder = folder or RUNS / f"e4t-{domain}"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: float(weight) for name, _, weight in (term.partition("=") for term in extra)}
    (folder / "report.json").write_text(
        json.dumps(
            fit(
                folder,
                domain,
                steps,
                dictionary_steps,
                seed,
                encoder,
                offsets,
                blocks,
                s,
                weights,
                resume,
            ),
            indent=2,
        )
    )


@app.command()
def check():
    """Let the judge look at what the trained base draws; the figures go to runs/check.json and into the base's card."""
    from ..training.check import check

    report = check(RUNS / "unet/model", RUNS / "judge/model")
    (RUNS / "check.json").write_text(json.dumps(report, indent=2))
    typer.echo(json.dumps(report, indent=2))


@app.command()
def ablate(
    names: list[str] = typer.Argument(None, help="Variants by name (default: all)."),
    domain: str = "face",
    identities: int = 8,
    steps: int = 10,
    out: Path = Path("docs/results"),
):
    """What each choice of E4T is worth: train and measure variants with one thing changed; what the file in --out holds already is not done again."""
    from ..evaluation.ablations import ablate as run

    run(RUNS, out / f"ablation-{domain}.json", domain, identities, steps, names)


@app.command()
def pack(what: str):
    """Copy trained folders from runs/ to data_samples/ with their cards: toy-sd, judge, e4t-DOMAIN or faces."""
    from ..toy import pack as packer

    name, _, domain = what.partition("-")
    packer.e4t(RUNS, domain) if name == "e4t" else getattr(packer, what.replace("-", "_"))(RUNS)


if __name__ == "__main__":
    app()
