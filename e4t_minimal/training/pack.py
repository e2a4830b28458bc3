"""From `runs/` to `data_samples/`: trained folders, each with a card that says how it was made."""

import shutil
from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPVisionModelWithProjection

from .. import DATA
from ..base import load_base
from ..helpers.checks import choice
from ..helpers.files import replacing_folder
from ..helpers.reading import read_json
from ..world import DOMAINS, Scene, draw, identity
from .unet import save

LICENCES = (
    "Weights: MIT, as the project. The pictures they were trained on are drawn by DiceBear from "
    "Avataaars and Bottts by Pablo Stanley (free for personal and commercial use) and Critters by "
    "DiceBear (CC0 1.0)."
)
# the shipped held-out faces {index: expression}
FACES = {
    7: "smiling",
    0: "serious",
    1: "smiling",
    2: "surprised",
    3: "smiling",
    5: "cheeky",
    10: "sad",
    11: "smiling",
}
NOT_FIGURES = {"command", "seconds", "rows", "steps"}


def toy_sd(runs: Path):
    """The base of runs/unet; from runs/vision and runs/decoder tower and decoder, if any."""
    base = load_base(runs / "unet/model")
    tower, autoencoder = runs / "vision/model", runs / "decoder/model"
    if tower.exists():
        base.vision = CLIPVisionModelWithProjection.from_pretrained(tower)
    if autoencoder.exists():
        base.vae = AutoencoderKL.from_pretrained(autoencoder)
    parts = [
        part
        for part in ("clip", "vae", "text", "unet", "vision", "decoder")
        if (runs / part).exists()
    ]
    reports = {part: _read(runs / part / "report.json") for part in parts}
    figures = {"share as asked": _read(runs / "check.json")}
    if (runs / "probe.json").exists():
        figures["linear probe of the vision tower"] = _read(runs / "probe.json")
    target = DATA / "toy-sd"
    with replacing_folder(target) as new:
        save(base, new)
    _write_card(
        target,
        "A toy Stable Diffusion",
        "A diffusers pipeline folder for 64x64 pictures of the toy world: CLIP text encoder and "
        "vision tower, autoencoder (8 latent channels, 4 pixels a latent), U-Net, DDIM schedule "
        "with v-prediction. `StableDiffusionPipeline.from_pretrained` loads it. Gaps: how much "
        "worse the loss gets, relatively, with somebody else's name or attributes in the caption, "
        "on plain pictures that no training has seen.",
        reports,
        figures,
    )


def judge(runs: Path):
    """The judge of runs/judge."""
    target, report = DATA / "judge", _read(runs / "judge/report.json")
    with replacing_folder(target) as new:
        shutil.copytree(runs / "judge/model", new, dirs_exist_ok=True)
    _write_card(
        target,
        "The judge",
        "A small convolutional network (`e4t_minimal.evaluation.judge.Judge`) that reads domain, "
        "style, background, expression and every identity attribute from a 64x64 picture. Trained "
        "on drawn pictures only; nothing that it scores is trained with it. Accuracies are on "
        "held-out identities.",
        {"judge": report},
    )


def e4t(runs: Path, domain: str = "face"):
    """A domain's E4T of runs/e4t-DOMAIN."""
    choice("domain", domain, DOMAINS)
    target, report = DATA / f"e4t-{domain}", _read(runs / f"e4t-{domain}/report.json")
    with replacing_folder(target) as new:
        shutil.copytree(runs / f"e4t-{domain}/model", new, dirs_exist_ok=True)
    # every 500 steps, and the ends
    rows = [row for row in report["rows"] if row["step"] % 500 == 0 or row == report["rows"][-1]]
    gaps = {f"after {row['phase']} step {row['step']}": row["gap"] for row in rows}
    _write_card(
        target,
        f"E4T for the domain {domain}",
        "Encoder (fp16) and folded weight offsets for `data_samples/toy-sd`; load with "
        "`E4T.from_pretrained`. How good it is: `docs/results.md`. The conditioning gap is how "
        "much worse the loss gets, relatively, with somebody else's picture: 0 where S* says "
        "nothing (notebook 07). It is measured on validation identities in plain pictures.",
        {"pretraining": {name: report[name] for name in ("command", "seconds")}},
        {"conditioning gap": gaps},
    )


def faces():
    """Eight held-out faces as PNG files with transparent background."""
    folder = DATA / "faces"
    folder.mkdir(parents=True, exist_ok=True)
    for i, (index, expression) in enumerate(FACES.items()):
        image, _, mask = draw(identity("face", "held-out", index), Scene(expression=expression))
        image.putalpha(mask)
        image.save(folder / f"face-{i:02d}.png")
    (folder / "README.md").write_text(
        "# Held-out faces\n\nEight faces that no training has seen, 64x64 with transparent "
        "background, made by `python -m e4t_minimal.training pack faces` (held-out identities "
        f"{', '.join(map(str, FACES))}). Avataaars by Pablo Stanley, free for personal and "
        "commercial use, drawn by DiceBear.\n"
    )


def _read(path: Path) -> dict:
    """A report; ValueError if what it tells of has not been trained."""
    if not path.exists():
        raise ValueError(f"There is no {path}: train first, then pack.")
    return read_json(path, dict)


def _write_card(
    folder: Path, title: str, text: str, reports: dict[str, dict], figures: dict | None = None
):
    lines = [f"# {title}", "", text, ""]
    for name, report in reports.items():
        minutes = report["seconds"] / 60
        lines += [f"## {name}", "", f"Made by `{report['command']}` in {minutes:.0f} minutes.", ""]
        lines += _table({k: v for k, v in report.items() if k not in NOT_FIGURES})
    for name, found in (figures or {}).items():
        lines += [f"## {name}", "", *_table(found)]
    (folder / "README.md").write_text("\n".join([*lines, LICENCES, ""]))


def _table(figures: dict) -> list[str]:
    rows = [f"| {name} | {value} |" for name, value in _flat(figures).items()]
    return ["| figure | value |", "| --- | --- |", *rows, ""] if rows else []


def _flat(figures: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}: ")
        else:
            flat[prefix + name] = value
    return flat
