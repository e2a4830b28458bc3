"""`e4t personalize`, `sample`: learn the concept of one picture, and draw it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import DATA
from .loading import load_model, load_picture, local
from .options import (
    BaseOptions,
    Denoising,
    Guidance,
    MemoryOptions,
    Out,
    Prompts,
    ScheduleOptions,
    Steps,
    command,
)
from .writing import follow, write_pictures

if TYPE_CHECKING:
    from ..train import Schedule


@dataclass(frozen=True)
class SubjectOptions:
    """Where in the picture the concept is."""

    box: Annotated[
        str | None,
        typer.Option(
            help="left,top,right,bottom in pixels: the part to keep, such as the face "
            "(default: the middle)."
        ),
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture as large as PICTURE, white where the subject is "
            "(default: what is not transparent)."
        ),
    ] = None


@dataclass(frozen=True)
class DomainOptions:
    """What the concept is one of."""

    domain: str = "face"
    weights: Annotated[
        Path | None,
        typer.Option(help="A pretrained E4T folder (default: the shipped one of the domain)."),
    ] = None

    @property
    def folder(self) -> Path:
        return self.weights or DATA / f"e4t-{self.domain}"


@dataclass(frozen=True)
class LearningOptions(MemoryOptions):
    """How it is learned."""

    steps: Steps = 15
    seed: int = 0

    def change(self, schedule: "Schedule") -> "Schedule":
        return super().change(schedule).replace(steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class ResultOptions:
    """What is written: the concept, and pictures of it."""

    prompt: Prompts = ("a photo of S*",)
    denoising: Denoising = 10
    guidance: Guidance = 4.0
    out: Out = Path("outputs/concept")


@command
def personalize(
    picture: Path,
    subject: SubjectOptions,
    domain: DomainOptions,
    learning: LearningOptions,
    changes: ScheduleOptions,
    base: BaseOptions,
    result: ResultOptions,
):
    """Learn the concept of one PICTURE, save it as a folder, and draw it."""
    from ..helpers.stored import check_target
    from ..sample import sample
    from ..train import PERSONALIZATION, personalize

    check_target(
        result.out,
        picture=picture,
        mask=subject.mask,
        weights=domain.folder,
        base=local(base.base),
    )
    image = load_picture(picture, subject.box, subject.mask)
    mask = None
    if subject.mask:  # then the encoder sees what lies around the subject too, as in phase 1
        mask = image.getchannel("A")
        image = image.convert("RGB")
    model = load_model(domain.folder, base)
    model.placeholder.tokenize(result.prompt)  # refuses what S* is missing in, before the training
    if learning.checkpointing:
        model.base.unet.enable_gradient_checkpointing()
    schedule = changes.change(learning.change(PERSONALIZATION))
    follow(personalize(model, image, schedule, mask), schedule.steps, "personalize")
    model.save_pretrained(result.out, steps=schedule.steps, seed=schedule.seed)
    pictures = sample(
        model,
        result.prompt,
        steps=result.denoising,
        guidance=result.guidance,
        seed=schedule.seed,
    )
    write_pictures(result.out / "pictures", pictures, result.prompt)


@command
def sample(
    concept: Path,
    base: BaseOptions,
    prompt: Prompts = ("a photo of S*",),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write (default: CONCEPT/pictures).")
    ] = None,
    steps: Denoising = 10,
    guidance: Guidance = 4.0,
    seed: int = 0,
):
    """Draw a CONCEPT that `personalize` saved."""
    from ..helpers.files import check_writable
    from ..sample import sample

    folder = out or concept / "pictures"
    model = load_model(concept, base)
    check_writable(folder / "picture.png")
    model.placeholder.tokenize(prompt)
    if model.picture is None:
        raise ValueError(
            f"{concept} holds a domain, not a concept: it has no picture. "
            "Make a concept with `e4t personalize PICTURE`."
        )
    pictures = sample(model, prompt, steps=steps, guidance=guidance, seed=seed)
    write_pictures(folder, pictures, prompt)
