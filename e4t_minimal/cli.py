"""`e4t`: the same as the notebooks, from a terminal."""
import json
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="One picture of a new face becomes a word, S*, that a text-to-image model can draw.", no_args_is_help=True, pretty_exceptions_enable=False)
Prompts = Annotated[list[str], typer.Option("--prompt", help="A prompt with S* in it; may be given several times.")]
BaseName = Annotated[str, typer.Option("--base", help='"toy", a diffusers folder, or a hub id.')]
Weights = Annotated[Path | None, typer.Option("--weights", help="A pretrained E4T folder (default: the shipped one for the domain).")]


def command(function):
    """A bad input ends in one sentence and exit status 2, not in a traceback."""
    @wraps(function)
    def run(*args, **kwargs):
        import diffusers
        import transformers

        transformers.logging.set_verbosity_error(), transformers.logging.disable_progress_bar()
        diffusers.logging.set_verbosity_error(), diffusers.logging.disable_progress_bar()
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            typer.secho(f"e4t: {error}", fg="red", err=True)
            raise typer.Exit(2) from None
    return app.command()(run)


def load_picture(path: Path):
    """(PIL picture, mask or None): the mask is the picture's own transparency, if it has any."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = ImageOps.exif_transpose(Image.open(path))
        picture.load()
    except FileNotFoundError:
        raise ValueError(f"There is no picture at {path}. Give the path of a PNG or JPEG file.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}). Give a PNG or JPEG file.") from None
    alpha = picture.convert("RGBA").getchannel("A")
    return picture, alpha if alpha.getextrema()[0] < 128 else None


def load_model(base: str, weights: Path | None, domain: str = "face"):
    from .base import DATA, load_base
    from .model import E4T

    return E4T.from_pretrained(weights or DATA / f"e4t-{domain}", load_base(base))


def tune(model, picture, mask, steps: int, seed: int) -> float:
    """Personalize under a progress bar; returns seconds."""
    from tqdm import tqdm

    from .train import personalize

    start = time.perf_counter()
    for state in (bar := tqdm(personalize(model, picture, mask, steps=steps, seed=seed), total=steps, desc="personalize")):
        bar.set_postfix(loss=f"{state['terms']['diffusion'].item():.3f}")
    return time.perf_counter() - start


def check_prompts(model, prompts: list[str]):
    model.placeholder.tokenize(prompts)


def write_pictures(folder: Path, pictures: list, prompts: list[str]):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts)):
        name = "".join(c if c.isalnum() else "-" for c in prompt.replace("S*", "S")).strip("-")[:60]
        picture.save(folder / f"{i:02d}-{name}.png")
        typer.echo(f"{folder / f'{i:02d}-{name}.png'}  {prompt}")


@command
def demo(picture: Annotated[Path | None, typer.Argument(help="A picture of a face (default: a shipped one that no training has seen).")] = None,
         steps: int = 15, seed: int = 0, out: Path = Path("outputs/demo.png")):
    """Learn the face of one picture, draw it in eight prompts, and score the result."""
    from .base import DATA, load_base, square
    from .evaluate import PROMPTS, QUESTIONS, Judge, score
    from .plots import gallery, save
    from .sample import sample
    from .world import Identity

    picture, mask = load_picture(picture or DATA / "faces" / "face-00.png")
    model, judge = load_model("toy", None), Judge.from_pretrained()
    prompts = [prompt for _, prompt, _ in PROMPTS]
    typer.echo(f"personalizing on one picture, {steps} steps, then drawing 16 pictures")
    seconds = tune(model, picture, mask, steps, seed)
    found = sample(model, [p.format("S*") for p in prompts], seed=seed)
    plain = sample(load_base("toy"), [p.format("a face") for p in prompts], seed=seed)
    reading = judge.read([picture])[0]  # who is this? the judge's answer for the input is what the results are held against
    one = Identity("face", {q.removeprefix("face."): reading[q] for q in QUESTIONS if q.startswith("face.")})
    ours, theirs = score(judge, found, one), score(judge, plain, one)
    save(gallery(square(picture, 64), {"S*": found, "a face": plain}, prompts, f"E4T after {steps} steps ({seconds:.1f} s)  above: S*, below: the class word alone"), out)
    typer.echo(f"identity  {ours['identity']:.2f}  (class word: {theirs['identity']:.2f})   share of the face's attributes found in photos of S*\n"
               f"prompt    {ours['prompt']:.2f}  (class word: {theirs['prompt']:.2f})   share of scenes and styles that came as asked\n"
               f"seconds   {seconds:.1f}  for {steps} steps of personalization\npicture   {out}")


@command
def personalize(picture: Path, prompt: Prompts = ("a photo of S*",), steps: int = 15, out: Path = Path("outputs/concept"), base: BaseName = "toy",
                weights: Weights = None, domain: str = "face", seed: int = 0):
    """Learn the concept of one PICTURE, save it as a folder, and draw it."""
    from .sample import sample

    image, mask = load_picture(picture)
    model = load_model(base, weights, domain)
    check_prompts(model, list(prompt))
    if out.exists() and not (out / "e4t.json").exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not a concept of ours; nothing was written. Choose another --out.")
    tune(model, image, mask, steps, seed)
    model.save_pretrained(out, steps=steps, seed=seed)
    write_pictures(out / "pictures", sample(model, list(prompt), seed=seed), list(prompt))


@command
def sample(concept: Path, prompt: Prompts = ("a photo of S*",), out: Path | None = None, steps: int = 30, guidance: float = 5.0, seed: int = 0, base: BaseName = "toy"):
    """Draw a CONCEPT that `personalize` saved."""
    from .sample import sample as draw

    model = load_model(base, concept)
    check_prompts(model, list(prompt))
    if model.picture is None:
        raise ValueError(f"{concept} holds a domain, not a concept: it has no picture. Make a concept with `e4t personalize PICTURE`.")
    write_pictures(out or concept / "pictures", draw(model, list(prompt), steps=steps, guidance=guidance, seed=seed), list(prompt))


@command
def evaluate(domain: str = "face", identities: int = 32, steps: str = "0,5,15", split: str = "held-out", weights: Weights = None, seed: int = 0,
             out: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None):
    """Measure floor, ceiling, gap, and identity and prompt scores after each number of steps."""
    from tqdm import tqdm

    from .base import DATA, load_base
    from .evaluate import evaluate as measure
    from .evaluate import save_report
    from .world import DOMAINS

    if domain not in DOMAINS:
        raise ValueError(f"There is no domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    try:
        counts = tuple(sorted({int(n) for n in steps.split(",")}))
    except ValueError:
        raise ValueError(f"--steps takes whole numbers with commas, such as 0,5,15, not {steps!r}.") from None
    bar = tqdm(total=2 * identities, file=sys.stderr)

    def progress(text, done, total):
        bar.set_description(text), bar.update(done - bar.n)

    report = measure(load_base("toy"), weights or DATA / f"e4t-{domain}", domain, identities, counts, split, seed, progress)
    bar.update(bar.total - bar.n), bar.close()
    typer.echo(json.dumps(report, indent=2))
    if out:
        save_report(report, out)


if __name__ == "__main__":
    app()
