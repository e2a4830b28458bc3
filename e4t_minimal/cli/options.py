"""Options that several commands share, and `command`, which makes a command of a function.

Options that belong together are a frozen dataclass: a command takes one as a parameter, and each of
its fields is an option.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..helpers.errors import one_sentence

if TYPE_CHECKING:
    from ..train import Schedule

Prompts = Annotated[
    list[str], typer.Option("--prompt", help="A prompt with S* in it; may be given several times.")
]
Steps = Annotated[int, typer.Option(min=0, help="Steps of personalization.")]
Denoising = Annotated[
    int,
    typer.Option(min=1, help="Denoising steps of a picture: real bases want 20 to 50."),
]
Guidance = Annotated[
    float, typer.Option(help="How much more than nothing a prompt counts: real bases want 7.5.")
]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Report = Annotated[Path | None, typer.Option("--json", help="Write the report here too.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels (default: the base's own).")]
Bf16 = Annotated[
    bool,
    typer.Option(
        help="Half-precision products: faster on CPUs that have them, and a little different."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the frozen base: fp32, bf16 or fp16. What learns is always fp32."
    ),
]
Micro = Annotated[
    int | None,
    typer.Option(
        min=1, help="Pictures of a batch at a time: same gradients, less memory (default: all)."
    ),
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        help="Compute the U-Net's activations twice instead of keeping them: less memory, "
        "a third slower."
    ),
]
EightBit = Annotated[bool, typer.Option(help="Adam's averages in 8 bits (needs bitsandbytes).")]


@dataclass(frozen=True)
class BaseOptions:
    """Which base an E4T is put on, and how."""

    base: Annotated[
        str | None,
        typer.Option(
            help='"toy", a diffusers folder, or a hub id (default: the one that the weights or '
            "the concept were made for)."
        ),
    ] = None
    device: Annotated[str, typer.Option(help='"cpu", "cuda", "mps".')] = "cpu"
    dtype: Dtype = "fp32"


@dataclass(frozen=True)
class MemoryOptions:
    """What saves memory in a training."""

    micro: Micro = None
    checkpointing: Checkpointing = False
    eight_bit: EightBit = False

    def change(self, schedule: "Schedule") -> "Schedule":
        return schedule.replace(micro=self.micro, eight_bit=self.eight_bit)


@dataclass(frozen=True)
class ScheduleOptions:
    """Changes of a phase's schedule: what is not given stays as it is."""

    lr: Annotated[float | None, typer.Option(help="The encoder's learning rate.")] = None
    offsets_lr: Annotated[float | None, typer.Option(help="The offsets' learning rate.")] = None
    l2: Annotated[float | None, typer.Option(help="Weight of the L2 term.")] = None
    outside: Annotated[float | None, typer.Option(help="Weight of the outside term.")] = None
    t_min: Annotated[
        int | None, typer.Option(min=0, max=999, help="The lowest timestep to learn at.")
    ] = None
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures of a step.")] = None

    def change(self, schedule: "Schedule") -> "Schedule":
        given = {name: value for name, value in asdict(self).items() if value is not None}
        terms = {name: given.pop(name) for name in ("l2", "outside") if name in given}
        return schedule.replace(weights=schedule.weights | terms, **given)


def command(function: Callable) -> Callable:
    """What typer can call: with an option for every field of the function's dataclasses.

    A bad input ends in one sentence, not in a traceback; see `errors`.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    groups = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if is_dataclass(parameter.annotation)
    }

    @wraps(function)
    def run(**given):
        with one_sentence("e4t"):
            for name, group in groups.items():
                own = {field.name: given.pop(field.name) for field in fields(group)}
                given[name] = group(**own)
            function(**given)

    options = list(_options_of(parameters.values()))
    run.__signature__ = inspect.Signature(options)
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _options_of(parameters: Iterator[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """The parameters by name alone, with each dataclass replaced by its fields."""
    for parameter in parameters:
        if not is_dataclass(parameter.annotation):
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        for field in fields(parameter.annotation):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=field.type,
            )
