"""`e4t`: the same as the notebooks, from a terminal."""

import json
import re
import time
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from .. import DATA
from ..files import replacing

app = typer.Typer(
    help="One picture of a new face becomes a word, S*, that a text-to-image model can draw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Prompts = Annotated[
    list[str], typer.Option("--prompt", help="A prompt with S* in it; may be given several times.")
]
BaseName = Annotated[
    str | None,
    typer.Option(
        "--base",
        help='"toy", a diffusers folder, or a hub id (default: the one the weights were made for).',
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option(
        help="Half-precision products: faster on CPUs that have them, and a little different."
    ),
]
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
Device = Annotated[str, typer.Option(help='"cpu", "cuda", "mps".')]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the frozen base: fp32, bf16 or fp16. What learns is always fp32."
    ),
]
Micro = Annotated[
    int | None,
    typer.Option(
        min=1, help="Rows of a batch at a time: same gradients, less memory (default: all)."
    ),
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        help="Compute the U-Net's activations twice instead of keeping them: less memory, a third slower."
    ),
]
EightBit = Annotated[bool, typer.Option(help="Adam's averages in 8 bits (needs bitsandbytes).")]
Steps = Annotated[int, typer.Option(min=0, help="Steps of personalization.")]


def command(function):
    """A bad input ends in one sentence and exit status 2, not in a traceback."""

    @wraps(function)
    def run(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ValueError, OSError) as error:
            typer.secho(f"e4t: {error}", fg="red", err=True)
            raise typer.Exit(2) from None

    return app.command()(run)


def write_report(report: dict, path: Path | None):
    """Print a report, and write it if there is a path."""
    typer.echo(json.dumps(report, indent=2))
    if path:
        with replacing(path) as new:
            new.write_text(json.dumps(report, indent=2) + "\n")


def load_picture(path: Path, box: str | None = None, mask: Path | None = None):
    """`open_photo`, with its notes printed; box as "left,top,right,bottom", mask as a file."""
    from ..scaling.photos import open_photo

    if box and not re.fullmatch(r"\d+(,\d+){3}", box):
        raise ValueError(
            f"--box takes left,top,right,bottom in pixels, such as 120,40,380,300, not {box!r}."
        )
    picture, notes = open_photo(path, tuple(map(int, box.split(","))) if box else None, mask=mask)
    for note in notes:
        typer.echo(f"{path}: {note}")
    return picture


def load_model(base: str | None, weights: Path, device: str = "cpu", dtype: str = "fp32"):
    """An E4T folder on its base: the one it names unless `base` says another."""
    from ..base import VISION, load_base
    from ..model import E4T, read_config

    config = read_config(weights)
    return E4T.from_pretrained(
        weights,
        load_base(
            base or config["base"],
            config.get("vision") or VISION,
            device,
            number_format(dtype),
            config.get("resolution"),
        ),
    )


def number_format(name: str):
    """The torch dtype of fp32, bf16 or fp16."""
    import torch

    if name not in DTYPES:
        raise ValueError(f"There is no number format {name!r}; choose one of {', '.join(DTYPES)}.")
    return getattr(torch, DTYPES[name])


def tune(model, picture, steps: int, seed: int, **how) -> float:
    """Personalize under a progress bar; returns seconds."""
    from tqdm import tqdm

    from ..train import personalize

    start = time.perf_counter()
    for state in (
        bar := tqdm(
            personalize(model, picture, steps=steps, seed=seed, **how),
            total=steps,
            desc="personalize",
        )
    ):
        bar.set_postfix(loss=f"{state['terms']['diffusion'].item():.3f}")
    return time.perf_counter() - start


def write_pictures(folder: Path, pictures: list, prompts: list[str]):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts)):
        path = folder / f"{i:02d}-{'-'.join(re.findall('[A-Za-z0-9]+', prompt))[:60]}.png"
        picture.save(path)
        typer.echo(f"{path}  {prompt}")


@command
def demo(
    picture: Annotated[
        Path | None,
        typer.Argument(
            help="A picture of a face (default: a shipped one that no training has seen)."
        ),
    ] = None,
    steps: Steps = 15,
    seed: int = 0,
    out: Path = Path("outputs/demo.png"),
):
    """Learn the face of one picture, draw it in eight prompts, and score the result."""
    from ..base import load_base, square
    from ..evaluation.scores import PROMPTS, QUESTIONS, Judge, score
    from ..inspection.plots import gallery
    from ..sample import sample
    from ..world import Identity

    if out.is_dir():
        raise ValueError(f"--out is the PNG file to write, but {out} is a folder.")
    image = load_picture(picture or DATA / "faces" / "face-00.png")
    model, judge = load_model("toy", DATA / "e4t-face"), Judge.from_pretrained()
    prompts = [prompt for _, prompt, _ in PROMPTS]
    typer.echo(
        f"personalizing on one picture in {steps} steps, then drawing {2 * len(prompts)} pictures"
    )
    seconds = tune(model, image, steps, seed)
    found = sample(model, [p.format("S*") for p in prompts], seed=seed)
    plain = sample(load_base("toy"), [p.format("a face") for p in prompts], seed=seed)
    reading = judge.read([image])[
        0
    ]  # who is this? the judge's answer for the input is what the results are held against
    one = Identity(
        "face", {q.removeprefix("face."): reading[q] for q in QUESTIONS if q.startswith("face.")}
    )
    ours, theirs = score(judge, found, one), score(judge, plain, one)
    figure = gallery(square(image, 64), {f"S*, {steps} steps": found, "a face": plain}, prompts)
    with replacing(out) as new:
        figure.savefig(new, format="png")
    typer.echo(
        f"identity  {ours['identity']:.2f}  (class word: {theirs['identity']:.2f})   share of the face's attributes found in photos of S*\n"
        f"prompt    {ours['prompt']:.2f}  (class word: {theirs['prompt']:.2f})   share of scenes and styles that came as asked\n"
        f"seconds   {seconds:.1f}  for {steps} steps of personalization\npicture   {out}"
    )


@command
def personalize(
    picture: Path,
    prompt: Prompts = ("a photo of S*",),
    steps: Steps = 15,
    out: Path = Path("outputs/concept"),
    weights: Annotated[
        Path | None,
        typer.Option(help="A pretrained E4T folder (default: the shipped one of the domain)."),
    ] = None,
    domain: str = "face",
    base: BaseName = None,
    seed: int = 0,
    box: Annotated[
        str | None,
        typer.Option(
            help="left,top,right,bottom in pixels: the part to keep, such as the face (default: the middle)."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture as large as PICTURE, white where the subject is (default: what is not transparent)."
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    micro: Micro = None,
    checkpointing: Checkpointing = False,
    eight_bit: EightBit = False,
):
    """Learn the concept of one PICTURE, save it as a folder, and draw it."""
    from ..model import check_target
    from ..sample import sample

    image, where = load_picture(picture, box, mask), None
    if mask:  # then the encoder sees the photo with what lies around the subject, as in phase 1
        where, image = image.getchannel("A"), image.convert("RGB")
    check_target(out)
    model = load_model(base, weights or DATA / f"e4t-{domain}", device, dtype)
    model.placeholder.tokenize(prompt)
    if checkpointing:
        model.base.unet.enable_gradient_checkpointing()
    tune(model, image, steps, seed, mask=where, micro=micro, eight_bit=eight_bit)
    model.save_pretrained(out, steps=steps, seed=seed)
    write_pictures(out / "pictures", sample(model, prompt, seed=seed), prompt)


@command
def sample(
    concept: Path,
    prompt: Prompts = ("a photo of S*",),
    out: Path | None = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: float = 4.0,
    base: BaseName = None,
    seed: int = 0,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
):
    """Draw a CONCEPT that `personalize` saved."""
    from ..sample import sample as draw

    model = load_model(base, concept, device, dtype)
    model.placeholder.tokenize(prompt)
    if model.picture is None:
        raise ValueError(
            f"{concept} holds a domain, not a concept: it has no picture. Make a concept with `e4t personalize PICTURE`."
        )
    write_pictures(
        out or concept / "pictures",
        draw(model, prompt, steps=steps, guidance=guidance, seed=seed),
        prompt,
    )


from . import measure, real  # noqa: E402, F401  more commands of the same app
