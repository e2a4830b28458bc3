"""`e4t export`, `import-weights`: files of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from .loading import load_model, local
from .options import BaseOptions, Out, command


@command
def export(concept: Path, base: BaseOptions, out: Out = Path("outputs/export")):
    """Write a CONCEPT as files for stock diffusers and other tools.

    A textual-inversion embedding and merged attention weights.
    """
    from ..helpers.files import check_apart, check_new
    from ..scaling.convert import export

    check_apart(out, concept=concept)
    check_new(out)
    export(load_model(concept, base), out)
    names = ", ".join(sorted(path.name for path in out.iterdir()))
    typer.echo(f"{out}  {names}; S* is fixed there, no longer predicted at every step")


@command
def import_weights(
    folder: Annotated[
        Path, typer.Argument(help="With weight_offsets.pt, as mkshing/e4t-diffusion writes it.")
    ],
    base: Annotated[str, typer.Option(help="The base it was made for.")],
    class_word: Annotated[str | None, typer.Option(help="If its config.json does not say.")] = None,
    out: Out = Path("outputs/imported"),
):
    """Take over the weight offsets of a public E4T checkpoint; its encoder cannot be."""
    from ..base import load_base
    from ..helpers.stored import check_target
    from ..scaling.convert import import_public

    check_target(out, checkpoint=folder, base=local(base))
    model, notes = import_public(folder, load_base(base), class_word)
    model.save_pretrained(out, imported=str(folder.name))
    typer.echo("\n".join([*notes, str(out)]))
