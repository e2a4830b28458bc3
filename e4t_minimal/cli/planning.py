"""`e4t plan`: will it fit?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .loading import local, number_format
from .options import Checkpointing, Dtype, EightBit, Report, Resolution, command
from .writing import write_report

if TYPE_CHECKING:
    from ..scaling.plan import Plan
    from ..train import Schedule


@dataclass(frozen=True)
class StepOptions:
    """A training step, on one device."""

    batch: int = 16
    micro: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures of a batch at a time (default: 4, or the batch if that is less)."
        ),
    ] = None
    checkpointing: Checkpointing = True
    eight_bit: EightBit = False

    @property
    def at_a_time(self) -> int:
        return min(4, self.batch) if self.micro is None else self.micro

    def change(self, schedule: "Schedule") -> "Schedule":
        return schedule.replace(batch=self.batch, micro=self.at_a_time, eight_bit=self.eight_bit)


@command
def plan(
    step: StepOptions,
    base: Annotated[
        str,
        typer.Option(
            help='"sd15", "sd21", "toy", a diffusers folder, or a hub id '
            "(only its configs are fetched)."
        ),
    ] = "sd15",
    resolution: Resolution = None,
    dtype: Dtype = "fp16",
    out: Report = None,
):
    """Peak memory and stored bytes of both phases on one device, without allocating them."""
    from ..helpers.files import check_file
    from ..scaling.architectures import read_architecture
    from ..scaling.plan import PHASES, plan

    check_file(out, base=local(base))
    architecture, torch_dtype = read_architecture(base), number_format(dtype)
    plans = {}
    for phase, default in PHASES.items():
        schedule = step.change(default)
        plans[phase] = plan(
            architecture, phase, schedule, resolution, torch_dtype, step.checkpointing
        )
    concept = plans["personalize"]
    report = {
        "base": base,
        "batch": step.batch,
        "micro": step.at_a_time,
        "resolution": resolution,
        "dtype": dtype,
        "checkpointing": step.checkpointing,
        **{phase: _in_gigabytes(found) for phase, found in plans.items()},
        "stored": {
            "concept_MB": round(concept.stored / 1e6, 1),
            "of_which_offsets_MB": round(concept.offsets / 1e6, 2),
        },
    }
    write_report(report, out)


def _in_gigabytes(found: "Plan") -> dict[str, float]:
    return {
        "peak_GB": round(found.peak / 1e9, 2),
        "base_GB": round(found.base / 1e9, 2),
        "trained_GB": round(found.trained / 1e9, 2),
    }
