"""What each choice is worth: the same pretraining and the same look at held-out people, with one thing changed at a time."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import DATA
from ..base import load_base
from ..evaluation.scores import evaluate, floor_scores
from ..files import replacing
from ..evaluation.speed import commit
from ..training.e4t import fit


@dataclass(frozen=True)
class Variant:
    """One line of the table. fit: what differs in phase 1 (options of `e4t.fit`, over SHORT; None: the shipped weights). how: what differs in phase 2
    (options of `personalize`). rates: the learning rates of the offsets to choose among, on validation identities."""

    what: str
    fit: dict | None = None
    how: dict = field(default_factory=dict)
    rates: tuple[float, ...] = ()


SHORT = {
    "dictionary_steps": 500,
    "steps": 100,
}  # half of what is shipped, so that all variants fit into a night; the same for all
ADDITIVE = (
    1e-4,
    1e-3,
    1e-2,
)  # a full-size Delta is added to weights of about 0.05, so it wants smaller steps
VARIANTS = {
    "E4T": Variant("as shipped"),
    "E4T, short": Variant("half the training, as in all rows below", {}),
    "no offsets": Variant("the encoder alone", {"offsets": "none"}),
    "no encoder": Variant(
        "the offsets alone; S* is one learned word, the same for all pictures", {"encoder": "word"}
    ),
    "no dictionary": Variant(
        "the paper's loss from the first step on, for the same time",
        {"dictionary_steps": 0, "steps": 325},
    ),
    "ResNet-18": Variant("its encoder sees the picture alone", {"encoder": "resnet18"}),
    "contrastive": Variant("a contrastive term in phase 1", {"weights": {"contrastive": 0.01}}),
    "additive": Variant("W + Delta, of full size", {"offsets": "additive"}, rates=ADDITIVE),
    "additive, L1": Variant(
        "with a sparsity term",
        {"offsets": "additive", "weights": {"sparsity": 1.0}},
        rates=ADDITIVE,
    ),
    "additive, cosine": Variant(
        "with a term that keeps the weights' directions",
        {"offsets": "additive", "weights": {"cosine": 1.0}},
        rates=ADDITIVE,
    ),
    "s = 0.01": Variant("the offset of S* scaled down", {"s": 0.01}),
    "s = 1": Variant("the offset of S* scaled up", {"s": 1.0}),
    "1 block": Variant("the encoder sees the U-Net's mid block only", {"blocks": 1}),
    "2 blocks": Variant("mid block and the one before", {"blocks": 2}),
    "L2 0": Variant("no penalty on the length of s E in phase 2", how={"l2": 0.0}),
    "L2 1": Variant("that penalty with ten times the usual weight", how={"l2": 1.0}),
    "L2 10": Variant("with a hundred times", how={"l2": 10.0}),
    "L2 0, offsets still": Variant(
        "no penalty, and the encoder alone learns in phase 2", how={"l2": 0.0, "offsets_lr": 0.0}
    ),
    "L2 0.1, offsets still": Variant(
        "the usual weight, and the encoder alone learns in phase 2", how={"offsets_lr": 0.0}
    ),
    "L2 1, offsets still": Variant(
        "ten times, and the encoder alone learns in phase 2", how={"l2": 1.0, "offsets_lr": 0.0}
    ),
    "L2 10, offsets still": Variant(
        "a hundred times, and the encoder alone learns in phase 2",
        how={"l2": 10.0, "offsets_lr": 0.0},
    ),
    "background free": Variant("nothing holds the background in phase 2", how={"outside": 0.0}),
    "one embedding": Variant(
        "S* is not predicted anew at every step of drawing: the mean of 16 predictions serves all",
        how={"fixed_embedding": True},
    ),
    "all timesteps": Variant("phase 2 learns at low noise, too", how={"t_min": 0}),
}


def pretrained(name: str, variant: Variant, runs: Path, domain: str) -> Path:
    """The E4T folder of a variant: the shipped one, or one trained here, from the dictionary of "E4T, short" where the encoder is the same."""
    if variant.fit is None:
        return DATA / f"e4t-{domain}"
    folder = lambda name: runs / f"ablate-{domain}" / name.replace(" ", "-").replace(",", "")  # noqa: E731
    own, first = folder(name), folder("E4T, short")
    if not (own / "model").exists():
        same = variant.fit != {} and not {"encoder", "s", "blocks", "dictionary_steps"} & set(
            variant.fit
        )
        own.mkdir(parents=True, exist_ok=True)
        if same:
            pretrained("E4T, short", VARIANTS["E4T, short"], runs, domain)
            shutil.copytree(first / "dictionary", own / "dictionary", dirs_exist_ok=True)
            rows = [
                row
                for row in (first / "log.jsonl").read_text().splitlines()
                if json.loads(row)["phase"] != "pretrain"
            ]
            (own / "log.jsonl").write_text("\n".join(rows) + "\n")
        fit(own, domain, **SHORT | variant.fit, resume=same)
    return own / "model"


def ablate(
    runs: Path, path: Path, domain: str, identities: int, steps: int, names: list[str]
) -> dict:
    """Train and measure the named variants, or all; those that `path` (JSON) holds already are not done again."""
    if unknown := set(names or []) - set(VARIANTS):
        raise ValueError(
            f"There is no variant {', '.join(sorted(unknown))}; choose from {', '.join(VARIANTS)}."
        )
    missing = [name for name in names or VARIANTS if name not in read(path)]
    if not missing:
        return read(path)
    base = load_base("toy")
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        floor = floor_scores(base, domain, identities)  # the same for all
        floor_of_three = (
            floor_scores(base, domain, 3, "validation")
            if any(VARIANTS[name].rates for name in missing)
            else None
        )
    for name in tqdm(missing, desc="variants"):
        variant = VARIANTS[name]
        weights, how = pretrained(name, variant, runs, domain), dict(variant.how)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            if variant.rates:
                tried = {
                    lr: evaluate(
                        base,
                        weights,
                        domain,
                        3,
                        (steps,),
                        "validation",
                        floor=floor_of_three,
                        offsets_lr=lr,
                        **how,
                    )["steps"][str(steps)]
                    for lr in variant.rates
                }
                how["offsets_lr"] = max(
                    tried,
                    key=lambda lr: tried[lr]["identity"]["mean"] + tried[lr]["prompt"]["mean"],
                )
            stops = (
                (steps,) if variant.how else (0, steps)
            )  # what differs in phase 2 alone makes no difference before it
            report = evaluate(base, weights, domain, identities, stops, floor=floor, **how)
        size = sum(file.stat().st_size for file in weights.iterdir())
        made = json.loads((weights / "e4t.json").read_text())
        row = {
            "what": variant.what,
            "commit": commit(),
            "made by": made["command"],
            "training seconds": made["seconds"],
            "bytes": size,
        } | report
        found = read(path) | {
            name: row
        }  # read again: another process may do other variants meanwhile
        with replacing(path) as new:
            new.write_text(
                json.dumps({one: found[one] for one in VARIANTS if one in found}, indent=1) + "\n"
            )
    return read(path)


def read(path: Path) -> dict:
    """{variant: its report}; {} before the first."""
    return json.loads(path.read_text()) if path.exists() else {}
