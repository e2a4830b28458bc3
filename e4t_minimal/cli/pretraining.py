"""`e4t pretrain`: phase 1 on your own pictures, on one device or many, stopped and resumed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .loading import load_base_of, local
from .options import BaseOptions, MemoryOptions, Out, Resolution, command
from .writing import follow

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..model import E4T
    from ..train import Schedule, Step

Options = TypeVar("Options")


@dataclass(frozen=True)
class StartOptions:
    """What the training starts from."""

    base: Annotated[
        str | None,
        typer.Option(
            help='"toy", a diffusers folder, or a hub id '
            '(default: the one that --weights were made for, otherwise "toy").'
        ),
    ] = None
    class_word: Annotated[
        str | None,
        typer.Option(
            help="What the domain is, in one token of the base: face, cat, ... "
            "(default: what --weights say, otherwise face)."
        ),
    ] = None
    weights: Annotated[Path | None, typer.Option(help="An E4T folder to start from.")] = None
    vision: Annotated[str | None, typer.Option(help="Another CLIP vision tower.")] = None
    resolution: Resolution = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of the frozen base: fp32, bf16 or fp16 "
            "(default: accelerate's mixed precision)."
        ),
    ] = None

    def recorded(self, model: "E4T") -> dict:
        """What was chosen where nothing was given, as JSON can hold it."""
        base = model.base
        chosen = {
            "base": base.name,
            "class_word": model.placeholder.class_word,
            "vision": base.vision_name,
            "resolution": base.resolution,
        }
        return {name: _plain(value) for name, value in (asdict(self) | chosen).items()}

    def load(self, device: str, seed: int) -> "E4T":
        """The E4T at the first step. ValueError if class word and weights contradict each other."""
        import torch

        from ..model import E4T

        base = load_base_of(
            self.weights,
            BaseOptions(self.base, device, self.dtype),
            self.vision,
            self.resolution,
        )
        if self.weights is None:
            torch.manual_seed(seed)  # new offsets start from random constants
            return E4T(base, self.class_word or "face")
        model = E4T.from_pretrained(self.weights, base)
        if self.class_word not in (None, model.placeholder.class_word):
            raise ValueError(
                f"{self.weights} was made for the class word {model.placeholder.class_word!r}; "
                f"leave out --class-word {self.class_word}, or --weights."
            )
        return model


@dataclass(frozen=True)
class PretrainingOptions:
    """How it learns."""

    steps: Annotated[int, typer.Option(min=1)] = 1000
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures of a step, on all processes together.")
    ] = 16
    lr: Annotated[float, typer.Option(help="The encoder's learning rate.")] = 1.6e-5
    offsets_lr: Annotated[float, typer.Option(help="The offsets' learning rate.")] = 1.6e-5
    l2: Annotated[float, typer.Option(help="Weight of the L2 term.")] = 0.01
    seed: int = 0

    def change(self, schedule: "Schedule") -> "Schedule":
        changes = asdict(self)
        weights = schedule.weights | {"l2": changes.pop("l2")}
        return schedule.replace(weights=weights, **changes)


@dataclass(frozen=True)
class DataOptions:
    """How the pictures are read."""

    streaming: Annotated[bool, typer.Option(help="Read while training.")] = False
    column: Annotated[str, typer.Option(help="Of the data set: where the pictures are.")] = "image"
    split: str = "train"


@dataclass(frozen=True)
class RunOptions:
    """Where it is kept, and where it runs."""

    out: Out = Path("outputs/domain")
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between two states, and two models to try.")
    ] = 500
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on from the state in --out, with the options that the run was started with."
        ),
    ] = False
    cpu: Annotated[bool, typer.Option(help="Not on a GPU.")] = False

    @property
    def state(self) -> Path:
        return self.out / "state.safetensors"

    def check(self, pictures: str, start: StartOptions) -> None:
        """ValueError if something else lies where it should be written, or nothing can be.

        And if a run should go on of which nothing is known.
        """
        from ..helpers.files import OWN, check_apart, check_writable

        check_apart(self.out, pictures=pictures, weights=start.weights, base=local(start.base))
        check_writable(self.state)
        if not self.resume:
            # what a run that was killed before its first state has left is no obstacle
            names = [path.name for path in self.out.iterdir()] if self.out.exists() else []
            if not all(name.startswith(OWN) for name in names):
                raise ValueError(
                    f"{self.out} is not empty; nothing was written. Go on from it with --resume, "
                    "or choose another --out."
                )
        elif not self.state.exists():
            if start.base is None and start.weights is None:
                raise ValueError(
                    f"{self.out} holds no state yet, so nothing says how the run was started: "
                    "give --base (or --weights) and its other options again."
                )
            typer.echo(f"{self.out} holds no state to go on from: starting at step 0")


@command
def pretrain(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures of the domain, or the id of a data set on the hub."
        ),
    ],
    start: StartOptions,
    learning: PretrainingOptions,
    memory: MemoryOptions,
    data: DataOptions,
    run: RunOptions,
):
    """Phase 1 on your own pictures, on one device.

    Or on many: accelerate launch -m e4t_minimal pretrain SOURCE ...
    """
    from accelerate import Accelerator

    from ..scaling.distributed import Run, pretrain_on
    from ..scaling.folders import Pictures
    from ..train import PRETRAINING

    run.check(source, start)
    started = Run(run.out, resume=run.resume).started_with()
    start = _as_started(context, started, start)
    learning = _as_started(context, started, learning)
    memory = _as_started(context, started, memory)
    data = _as_started(context, started, data)

    accelerator = Accelerator(cpu=run.cpu)
    start = replace(start, dtype=_dtype(start.dtype, accelerator))
    pictures = Pictures(
        source,
        data.split,
        data.column,
        data.streaming,
        learning.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    if accelerator.is_main_process:
        for note in pictures.notes:
            typer.echo(f"{source}: {note}")
    model = start.load(str(accelerator.device), learning.seed)
    if memory.checkpointing:
        model.base.unet.enable_gradient_checkpointing()
    schedule = memory.change(learning.change(PRETRAINING))
    options = (
        start.recorded(model) | asdict(learning) | asdict(data) | {"eight_bit": memory.eight_bit}
    )
    del options["steps"]  # the run may be made longer
    steps = pretrain_on(
        accelerator,
        model,
        pictures,
        schedule,
        Run(run.out, run.save_every, run.resume, options),
    )
    folder = run.out / "model"
    main = accelerator.is_main_process
    if main:
        steps = _saving(steps, model, folder, schedule, run.save_every)
    follow(steps, schedule.steps, "pretrain", every=5, hidden=not main)
    if main:
        _save(model, folder, schedule, schedule.steps)
        typer.echo(f"{folder}  use it with `e4t personalize PICTURE --weights {folder}`")
    accelerator.end_training()


def _saving(
    steps: Iterator["Step"], model: "E4T", folder: Path, schedule: "Schedule", every: int
) -> Iterator["Step"]:
    """The steps, with the domain saved on the way, so that it can be tried before the end."""
    for step in steps:
        if (step.index + 1) % every == 0:
            _save(model, folder, schedule, step.index + 1)
        yield step


def _save(model: "E4T", folder: Path, schedule: "Schedule", steps: int):
    model.save_pretrained(folder, steps=steps, seed=schedule.seed, batch=schedule.batch)


def _as_started(context: typer.Context, started: dict, options: Options) -> Options:
    """The options with the values that a run was started with.

    ValueError if another value is given: the run would not be the one that was stopped.
    """
    changes = {}
    for field in fields(options):
        if field.name not in started:
            continue
        value, now = started[field.name], _plain(getattr(options, field.name))
        given = context.get_parameter_source(field.name).name == "COMMANDLINE"
        if given and now != value:
            name = field.name.replace("_", "-")
            raise ValueError(
                f"The run was started with --{name} {value}, not {now}: leave --{name} out, or "
                "start anew in another --out."
            )
        changes[field.name] = value
    return replace(options, **changes)


def _plain(value):
    """As JSON can hold it."""
    return str(value.resolve()) if isinstance(value, Path) else value


def _dtype(asked: str | None, accelerator: "Accelerator") -> str:
    """The base's number format; ValueError if accelerate does not go with it."""
    precision = accelerator.mixed_precision
    dtype = asked or ("fp32" if precision == "no" else precision)
    if dtype == "fp16" and precision != "fp16":
        raise ValueError(
            "A base in fp16 needs accelerate's loss scaling: "
            "accelerate launch --mixed_precision fp16 (or take --dtype bf16)."
        )
    return dtype
