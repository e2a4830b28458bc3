"""`python -m e4t_minimal.training COMMAND`: make the toy models again.

From nothing: clip, vae, unet --start parts, vision, judge. From what is shipped: text, unet,
vision, decoder. Then check and probe (what was reached), e4t for each domain, and pack (runs/ ->
data_samples/).
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..helpers.errors import one_sentence

if TYPE_CHECKING:
    from .loop import Training

PROGRAM = "e4t_minimal.training"
app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
RUNS = Path("runs")
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps (default: as shipped).")]
Seed = Annotated[int, typer.Option(min=0)]
Resume = Annotated[bool, typer.Option(help="Go on from the state that an earlier run has left.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Start = Annotated[str, typer.Option(help='The base to go on from: "toy", or a folder.')]


def command(function: Callable) -> Callable:
    """A command of the app; a bad input ends in one sentence, not in a traceback."""
    return app.command()(one_sentence(PROGRAM)(function))


def write_report(path: Path, report: dict):
    """Print a report and write it as JSON."""
    from ..helpers.files import replacing

    text = json.dumps(report, indent=2, allow_nan=False)
    with replacing(path) as new:
        new.write_text(text + "\n")
    typer.echo(text)


def training_of(name: str, *options, **more) -> "Training":
    """Of the module that is named, into its folder of runs/; what cannot be done is told now."""
    from .loop import Training

    training = Training(name, RUNS / name, *options, **more)
    training.check()
    return training


def check_start(start: str, text: str | None = None):
    """ValueError, told before any picture is drawn, if there is nothing to start from."""
    from ..scaling.architectures import read_architecture

    if start == "parts":
        for part in ("clip/model", "clip/tokenizer", "vae/model"):
            check_folder(RUNS / part, "train its parts first, with `clip` and `vae`")
    else:
        read_architecture(start)
    if text is not None:
        check_folder(Path(text), "give the folder of a text encoder, such as runs/text/model")


def check_folder(folder: Path, advice: str):
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: {advice}.")


def train_part(training: "Training", **options):
    """Run the module that is named as the part, and keep its report in the folder.

    options: what its `fit` takes besides; the report says which, for the card.
    """
    if "start" in options:
        check_start(**options)
    module = import_module(f".{training.name}", __package__)
    report = module.fit(training, **options)
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        report = {"options": given} | report
    write_report(training.folder / "report.json", report)


@command
def clip(steps: Steps = 800, seed: Seed = 0, resume: Resume = False, device: Device = "cpu"):
    """Train a new CLIP and its tokenizer, into runs/clip."""
    train_part(training_of("clip", steps, seed, resume, device, check_every=100))


@command
def vae(steps: Steps = 3000, seed: Seed = 0, resume: Resume = False, device: Device = "cpu"):
    """Train a new autoencoder, into runs/vae."""
    train_part(training_of("vae", steps, seed, resume, device, check_every=250))


@command
def text(
    steps: Steps = 500,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Teach the base's text encoder to say all that a caption says, into runs/text."""
    training = training_of("text", steps, seed, resume, device, check_every=100)
    train_part(training, start=start)


@command
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
    training = training_of("unet", steps, seed, resume, device, cool=0.3)
    train_part(training, start=start, text=text)


@command
def vision(
    steps: Steps = 1500,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Train the base's vision tower on, into runs/vision."""
    training = training_of("vision", steps, seed, resume, device, check_every=100)
    train_part(training, start=start)


@command
def decoder(
    steps: Steps = 3000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
    start: Start = "toy",
):
    """Train the decoder of the base's autoencoder on, into runs/decoder."""
    training = training_of("decoder", steps, seed, resume, device, check_every=250)
    train_part(training, start=start)


@command
def judge(steps: Steps = 1500, seed: Seed = 0, resume: Resume = False):
    """Train a new judge, into runs/judge."""
    train_part(training_of("judge", steps, seed, resume, check_every=250))


@command
def check(
    base: str = str(RUNS / "unet/model"),
    judge: Annotated[str | None, typer.Option(help="A judge's folder (default: shipped).")] = None,
    people: Annotated[int, typer.Option(min=1, max=256, help="Of each domain.")] = 64,
):
    """Let the judge look at what a base draws; the figures go to runs/check.json and its card."""
    from ..helpers.files import check_file
    from ..scaling.architectures import read_architecture
    from .check import check as look_at

    check_file(RUNS / "check.json")
    read_architecture(base)
    write_report(RUNS / "check.json", look_at(base, judge, people))


@command
def probe(base: str = "toy"):
    """What a linear layer finds in the vision tower's [CLS] tokens, into runs/probe.json."""
    from ..helpers.files import check_file
    from ..scaling.architectures import read_architecture
    from .probe import probe as measure

    check_file(RUNS / "probe.json")
    read_architecture(base)
    write_report(RUNS / "probe.json", measure(base))


@command
def e4t(
    domain: str = "face",
    steps: Annotated[int, typer.Option(min=0, help="Of the paper's loss.")] = 3000,
    dictionary_steps: Annotated[int, typer.Option(min=0, help="Before that.")] = 1000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
):
    """Pretrain E4T on a domain (phase 1), into runs/e4t-DOMAIN."""
    from .e4t import fit

    folder = RUNS / f"e4t-{domain}"
    choices = {"steps": steps, "dictionary_steps": dictionary_steps, "seed": seed}
    write_report(folder / "report.json", fit(folder, domain, resume, device, **choices))


@command
def ablate(
    names: Annotated[list[str] | None, typer.Argument(help="Variants (default: all).")] = None,
    domain: str = "face",
    identities: Annotated[int, typer.Option(min=2)] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Of personalization.")] = 10,
    out: Path = Path("docs/results"),
):
    """What each choice of E4T is worth: train and measure variants with one thing changed."""
    from ..evaluation.scores import People
    from ..helpers.files import check_file
    from .ablations import ablate as measure

    people = People(domain, identities)
    path = out / f"ablation-{domain}.json"
    check_file(path)
    measure(RUNS, path, people, steps, names)


@command
def pack(what: Annotated[str, typer.Argument(help="toy-sd, judge, e4t-DOMAIN or faces.")]):
    """Copy what was trained from runs/ to data_samples/, with its card and its checksums."""
    from .. import DATA
    from ..helpers.checksums import write_checksums
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
        raise ValueError(f"Nothing is called {what!r}; choose toy-sd, judge, e4t-DOMAIN or faces.")
    write_checksums(DATA)


if __name__ == "__main__":
    with one_sentence(PROGRAM):
        app()
