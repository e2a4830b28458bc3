"""`e4t demo`: the whole of E4T on one picture, in less than a minute."""

from pathlib import Path
from typing import Annotated

import typer

from .. import DATA
from .loading import load_model, load_picture
from .options import BaseOptions, Denoising, Steps, command
from .writing import follow


@command
def demo(
    picture: Annotated[
        Path | None,
        typer.Argument(
            help="A picture of a face (default: a shipped one that no training has seen)."
        ),
    ] = None,
    steps: Steps = 10,  # five more win nothing: docs/results.md
    seed: int = 3,  # of 0 to 7: clean pictures, and strangers who are least like her
    denoising: Denoising = 10,
    out: Path = Path("outputs/demo.png"),
):
    """Learn the face of one picture, draw it in eight prompts, and score the result."""
    from ..evaluation.judge import Judge
    from ..evaluation.prompts import PROMPTS
    from ..evaluation.scores import score
    from ..helpers.files import check_file, replacing
    from ..helpers.pictures import square
    from ..inspection.plots import gallery
    from ..sample import sample
    from ..train import PERSONALIZATION, personalize

    check_file(out, picture=picture)
    image = load_picture(picture or DATA / "faces" / "face-00.png")
    model = load_model(DATA / "e4t-face", BaseOptions("toy"))
    templates = [prompt.template for prompt in PROMPTS]
    prompts = [template.format("S*") for template in templates]
    plain_prompts = [template.format("a face") for template in templates]
    typer.echo(
        f"personalizing on one picture in {steps} steps, then drawing {2 * len(prompts)} pictures"
    )
    schedule = PERSONALIZATION.replace(steps=steps, seed=seed)
    seconds = follow(personalize(model, image, schedule), steps, "personalize")
    pictures = sample(model, prompts, steps=denoising, seed=seed)
    plain_pictures = sample(model.detach(), plain_prompts, steps=denoising, seed=seed)

    judge = Judge.from_pretrained()
    one = judge.identify(image, "face")  # the results are held against what the judge sees here
    ours = score(judge, pictures, one)
    plain = score(judge, plain_pictures, one)
    rows = {f"S*, {steps} steps": pictures, "a face": plain_pictures}
    figure = gallery(square(image, 64), rows, templates)
    with replacing(out) as new:
        figure.savefig(new, format="png")
    for what, explanation in (
        ("identity", "share of the face's attributes found in photos of S*"),
        ("prompt", "share of scenes and styles that came as asked"),
    ):
        typer.echo(f"{what:8}  {ours[what]:.2f}  (class word: {plain[what]:.2f})   {explanation}")
    typer.echo(f"seconds   {seconds:.1f}  for {steps} steps of personalization")
    typer.echo(f"picture   {out}")
