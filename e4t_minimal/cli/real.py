"""`e4t plan`, `pretrain`, `export`, `import-weights`: what a real Stable Diffusion needs."""

from pathlib import Path
from typing import Annotated

import typer

from ..cli.app import (
    BaseName,
    Checkpointing,
    Device,
    Dtype,
    EightBit,
    Micro,
    command,
    load_model,
    number_format,
    write_report,
)

Out = Annotated[Path, typer.Option(help="Folder to write.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels (default: the base's own).")]
ClassWord = Annotated[
    str | None,
    typer.Option(
        help="What the domain is, in one token of the base: face, cat, ... (default: what --weights says, or face)."
    ),
]


@command
def plan(
    base: Annotated[
        str,
        typer.Option(
            help='"sd15", "sd21", "toy", a diffusers folder, or a hub id (only its configs are fetched).'
        ),
    ] = "sd15",
    batch: int = 16,
    micro: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows of a batch at a time (default: 4, or the batch if that is less)."
        ),
    ] = None,
    resolution: Resolution = None,
    dtype: Dtype = "fp16",
    checkpointing: Checkpointing = True,
    eight_bit: EightBit = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
):
    """Peak memory and stored bytes of both phases on one device, without allocating them."""
    from ..scaling.architectures import read_architecture
    from ..scaling.plan import PHASES
    from ..scaling.plan import plan as foresee

    architecture = read_architecture(base)
    micro = min(4, batch) if micro is None else micro
    found = {
        phase: foresee(
            architecture,
            phase,
            batch,
            micro,
            resolution,
            number_format(dtype),
            checkpointing,
            eight_bit,
        )
        for phase in PHASES
    }
    report = {
        "base": base,
        "batch": batch,
        "micro": micro,
        "resolution": resolution,
        "dtype": dtype,
        "checkpointing": checkpointing,
    }
    for phase, numbers in found.items():
        report[phase] = {
            f"{name}_GB": round(numbers[name] / 1e9, 2) for name in ("peak", "base", "trained")
        }
    tuned = found["personalize"]
    report["stored"] = {
        "concept_MB": round(tuned["stored"] / 1e6, 1),
        "of_which_offsets_MB": round(tuned["offsets"] / 1e6, 2),
    }
    write_report(report, out)


@command
def pretrain(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures of the domain, or the id of a data set on the hub."
        ),
    ],
    class_word: ClassWord = None,
    base: BaseName = "toy",
    out: Out = Path("outputs/domain"),
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures of a step, on all processes together.")
    ] = 16,
    micro: Micro = None,
    lr: float = 3e-5,
    offsets_lr: float = 1e-3,
    l2: float = 0.01,
    seed: int = 0,
    resolution: Resolution = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of the frozen base (default: accelerate's mixed precision)."
        ),
    ] = None,
    checkpointing: Checkpointing = False,
    eight_bit: EightBit = False,
    streaming: Annotated[bool, typer.Option(help="Read while training.")] = False,
    column: Annotated[str, typer.Option(help="Of the data set: where the pictures are.")] = "image",
    split: str = "train",
    weights: Annotated[Path | None, typer.Option(help="An E4T folder to start from.")] = None,
    vision: Annotated[str | None, typer.Option(help="Another CLIP vision tower.")] = None,
    save_every: Annotated[int, typer.Option(min=1)] = 500,
    resume: Annotated[bool, typer.Option(help="Go on from the state in --out.")] = False,
    cpu: Annotated[bool, typer.Option(help="Not on a GPU.")] = False,
):
    """Phase 1 on your own pictures, on one device, or on many: accelerate launch -m e4t_minimal pretrain SOURCE ..."""
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    from ..base import VISION, load_base
    from ..scaling.folders import Pictures
    from ..scaling.distributed import pretrain_on
    from ..model import E4T

    if resume and not (out / "state.safetensors").exists():
        typer.echo(f"{out} holds no state to go on from: starting at step 0")
    accelerator = Accelerator(cpu=cpu)
    dtype = dtype or {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    if dtype == "fp16" and accelerator.mixed_precision != "fp16":
        raise ValueError(
            "A base in fp16 needs accelerate's loss scaling: accelerate launch --mixed_precision fp16 (or take --dtype bf16)."
        )
    if out.exists() and not resume and any(out.iterdir()):
        raise ValueError(
            f"{out} is not empty; nothing was written. Go on from it with --resume, or choose another --out."
        )
    pictures = Pictures(
        source, split, column, streaming, seed, accelerator.process_index, accelerator.num_processes
    )
    loaded = load_base(
        base, vision or VISION, str(accelerator.device), number_format(dtype), resolution
    )
    if checkpointing:
        loaded.unet.enable_gradient_checkpointing()
    torch.manual_seed(seed)  # new offsets start from random constants
    model = E4T.from_pretrained(weights, loaded) if weights else E4T(loaded, class_word or "face")
    if class_word not in (None, model.placeholder.class_word):
        raise ValueError(
            f"{weights} was made for the class word {model.placeholder.class_word!r}; leave out --class-word {class_word}, or --weights."
        )
    loop = pretrain_on(
        accelerator,
        model,
        pictures,
        steps,
        batch,
        micro,
        lr,
        offsets_lr,
        l2,
        seed,
        eight_bit,
        out,
        save_every,
        resume,
    )
    bar = tqdm(total=steps, desc="pretrain", disable=not accelerator.is_main_process, mininterval=5)
    for state in loop:
        bar.update(state["step"] + 1 - bar.n)
        bar.set_postfix(
            loss=f"{state['terms']['diffusion'].item():.4f}",
            l2=f"{state['terms']['l2'].item():.4f}",
            refresh=False,
        )
    bar.close()
    if accelerator.is_main_process:
        model.save_pretrained(out / "model", steps=steps, seed=seed, batch=batch)
        typer.echo(
            f"{out / 'model'}  use it with `e4t personalize PICTURE --weights {out / 'model'}`"
        )
    accelerator.end_training()


@command
def export(
    concept: Path,
    out: Out = Path("outputs/export"),
    base: BaseName = None,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
):
    """Write a CONCEPT as files for stock diffusers and other tools: a textual-inversion embedding and merged attention weights."""
    from ..scaling.convert import export as write

    write(load_model(base, concept, device, dtype), out)
    typer.echo(
        f"{out}  {', '.join(sorted(path.name for path in out.iterdir()))}; S* is fixed there, no longer predicted at every step"
    )


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
    from ..scaling.convert import import_public
    from ..model import check_target

    check_target(out)
    model, notes = import_public(folder, load_base(base), class_word)
    model.save_pretrained(out, imported=str(folder.name))
    typer.echo("\n".join([*notes, str(out)]))
