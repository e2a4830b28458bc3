"""`python -m e4t_minimal.training COMMAND`: make the toy models again.

From nothing: clip, vae, unet --start parts, vision, judge. From what is shipped: text, unet,
vision, decoder. Then check and probe (what was reached), e4t for each domain, and pack (runs/ ->
data_samples/).
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ..files import replacing
from .loop import Training

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
RUNS = Path("runs")
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps (default: as shipped).")]
Seed = Annotated[int, typer.Option(min=0)]
Resume = Annotated[bool, typer.Option(help="Go on from the state that an earlier run has left.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Start = Annotated[str, typer.Option(help='The base to go on from: "toy", or a folder.')]


def write_report(path: Path, report: dict):
    """Print a report and write it as JSON."""
    text = json.dumps(report, indent=2)
    with replacing(path) as new:
        new.write_text(text + "\n")
    typer.echo(text)


def train_part(training: Training, **options):
    """Run the module that is named as the part, and keep its report in the folder.

    options: what its `fit` takes besides; the report says which, for the card.
    """
    module = import_module(f".{training.name}", __package__)
    report = module.fit(training, **options)
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        report = {"options": given} | report
    write_report(training.folder / "report.json", report)


@app.command()
def clip(steps: Steps = 800, seed: Seed = 0, resume: Resume = False, device: Device = "cpu"):
    """Train a new CLIP and its tokenizer, into runs/clip."""
    train_part(Training("clip", RUNS / "clip", steps, seed, resume, device, check_every=100))


@app.command()
def vae(steps: Steps = 3000, seed: Seed = 0, resume: Resume = False, device: Device = "cpu"):
    """Train a new autoencoder, into runs/vae."""
    train_part(Training("vae", RUNS / "vae", steps, seed, resume, device, check_every=250))


@app.command()
def text(
    steps: Steps = 500,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Teach the base's text encoder to say all that a caption says, into runs/text."""
    training = Training("text", RUNS / "text", steps, seed, resume, device, check_every=100)
    train_part(training, start=start)


@app.command()
def unet(
    steps: Steps = 6000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Annotated[
        str, typer.Option(help='"toy", a folder, or "parts" for a new U-Net.')
    ] = "toy",
    text: Annotated[str | None, typer.Option(help="Folder of another text encoder.")] = None,
):
    """Train U-Net and text encoder together, into runs/unet."""
    training = Training("unet", RUNS / "unet", steps, seed, resume, device, cool=0.3)
    train_part(training, start=start, text=text)


@app.command()
def vision(
    steps: Steps = 1500,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Train the base's vision tower on, into runs/vision."""
    training = Training("vision", RUNS / "vision", steps, seed, resume, device, check_every=100)
    train_part(training, start=start)


@app.command()
def decoder(
    steps: Steps = 3000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Train the decoder of the base's autoencoder on, into runs/decoder."""
    training = Training("decoder", RUNS / "decoder", steps, seed, resume, device, check_every=250)
    train_part(training, start=start)


@app.command()
def judge(steps: Steps = 1500, seed: Seed = 0, resume: Resume = False):
    """Train a new judge, into runs/judge."""
    train_part(Training("judge", RUNS / "judge", steps, seed, resume, check_every=250))


@app.command()
def check(
    base: str = str(RUNS / "unet/model"),
    judge: Annotated[str | None, typer.Option(help="A judge's folder (default: shipped).")] = None,
    people: int = 64,
):
    """Let the judge look at what a base draws; the figures go to runs/check.json and its card."""
    from .check import check as look_at

    write_report(RUNS / "check.json", look_at(base, judge, people))


@app.command()
def probe(base: str = "toy"):
    """What a linear layer finds in the vision tower's [CLS] tokens, into runs/probe.json."""
    from .probe import probe as measure

    write_report(RUNS / "probe.json", measure(base))


@app.command()
def e4t(
    domain: str = "face",
    steps: int = 200,
    dictionary_steps: int = 1000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
):
    """Pretrain E4T on a domain (phase 1), into runs/e4t-DOMAIN."""
    from .e4t import fit

    folder = RUNS / f"e4t-{domain}"
    choices = {"steps": steps, "dictionary_steps": dictionary_steps, "seed": seed}
    write_report(folder / "report.json", fit(folder, domain, resume, device, **choices))


@app.command()
def ablate(
    names: Annotated[list[str] | None, typer.Argument(help="Variants (default: all).")] = None,
    domain: str = "face",
    identities: int = 8,
    steps: int = 10,
    out: Path = Path("docs/results"),
):
    """What each choice of E4T is worth: train and measure variants with one thing changed."""
    from ..evaluation.ablations import ablate as measure
    from ..evaluation.scores import People

    people = People(domain, identities)
    measure(RUNS, out / f"ablation-{domain}.json", people, steps, names)


@app.command()
def pack(what: Annotated[str, typer.Argument(help="toy-sd, judge, e4t-DOMAIN or faces.")]):
    """Copy what was trained from runs/ to data_samples/, with its card."""
    from . import pack as packer

    name, _, domain = what.partition("-")
    if what == "toy-sd":
        packer.toy_sd(RUNS)
    elif what == "judge":
        packer.judge(RUNS)
    elif what == "faces":
        packer.faces()
    elif name == "e4t":
        packer.e4t(RUNS, domain)
    else:
        raise typer.BadParameter("choose toy-sd, judge, e4t-DOMAIN or faces")


if __name__ == "__main__":
    app()
