"""From `runs/` to `data_samples/`: the trained folders, each with a card that says what it is and how it was made."""

import json
import shutil
from pathlib import Path

from .. import DATA
from ..world import Scene, draw, identity

LICENCES = (
    "Weights: MIT, as the project. The pictures they were trained on are drawn by DiceBear from Avataaars and Bottts by Pablo Stanley "
    "(free for personal and commercial use) and Critters by DiceBear (CC0 1.0)."
)
FACES = {
    7: "smiling",
    0: "serious",
    1: "smiling",
    2: "surprised",
    3: "smiling",
    5: "cheeky",
    10: "sad",
    11: "smiling",
}  # held-out index: expression


def _card(folder: Path, title: str, text: str, reports: dict[str, dict]):
    lines = [f"# {title}", "", text, ""]
    for name, report in reports.items():
        figures = {
            k: v for k, v in report.items() if k not in ("command", "seconds", "rows", "steps")
        }
        lines += [
            f"## {name}",
            "",
            f"Made by `{report['command']}` in {report['seconds'] / 60:.0f} minutes on a CPU.",
            "",
        ]
        lines += [
            "| figure | value |",
            "| --- | --- |",
            *(f"| {k} | {v} |" for k, v in _flat(figures).items()),
            "",
        ]
    (folder / "README.md").write_text("\n".join([*lines, LICENCES, ""]))


def _flat(figures: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in figures.items():
        out |= (
            _flat(value, f"{prefix}{key}: ") if isinstance(value, dict) else {prefix + key: value}
        )
    return out


def _copy(source: Path, target: Path):
    new = target.with_name(f".{target.name}")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(source, new)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)


def _report(path: Path) -> dict:
    return json.loads(path.read_text())


def toy_sd(runs: Path):
    _copy(runs / "unet/model", DATA / "toy-sd")
    reports = {part: _report(runs / part / "report.json") for part in ("clip", "vae", "unet")}
    last = (runs / "clip/log.jsonl").read_text().splitlines()[-1]
    reports["clip"] |= {k: v for k, v in json.loads(last).items() if "@" in k}
    reports["unet"] |= {
        "share as asked": _report(runs / "check.json")
    }  # `python -m e4t_minimal.training check`
    _card(
        DATA / "toy-sd",
        "A toy Stable Diffusion",
        "A diffusers pipeline folder for 64x64 pictures of the toy world: CLIP text encoder and vision tower, "
        "autoencoder (8 latent channels, 4 pixels a latent), U-Net, DDIM schedule with v-prediction. `StableDiffusionPipeline.from_pretrained` loads it. "
        "Gaps: how much worse the loss gets, relatively, with somebody else's name or attributes in the caption, on plain pictures that no training has seen.",
        reports,
    )


def judge(runs: Path):
    _copy(runs / "judge/model", DATA / "judge")
    _card(
        DATA / "judge",
        "The judge",
        "A small convolutional network (`e4t_minimal.evaluate.Judge`) that reads domain, style, background, expression and every identity "
        "attribute from a 64x64 picture. Trained on drawn pictures only; nothing that it scores is trained with it. Accuracies are on held-out identities.",
        {"judge": _report(runs / "judge/report.json")},
    )


def e4t(runs: Path, domain: str = "face"):
    _copy(runs / f"e4t-{domain}/model", DATA / f"e4t-{domain}")
    report = _report(runs / f"e4t-{domain}/report.json")
    gaps = {
        f"conditioning gap after {row['phase']} step {row['step']}": row["gap"]
        for row in report["rows"]
    }
    _card(
        DATA / f"e4t-{domain}",
        f"E4T for the domain {domain}",
        "Encoder (fp16) and folded weight offsets for `data_samples/toy-sd`; load with `E4T.from_pretrained`. "
        "The gap is measured on validation identities in plain pictures.",
        {"pretraining": report | gaps},
    )


def faces(runs: Path):
    folder = DATA / "faces"
    folder.mkdir(parents=True, exist_ok=True)
    for i, (index, expression) in enumerate(FACES.items()):
        image, _, mask = draw(identity("face", "held-out", index), Scene(expression=expression))
        image.putalpha(mask)
        image.save(folder / f"face-{i:02d}.png")
    (folder / "README.md").write_text(
        f"# Held-out faces\n\nEight faces that no training has seen, 64x64 with transparent background, "
        f"made by `python -m e4t_minimal.training pack faces` (held-out identities {', '.join(map(str, FACES))}). "
        "Avataaars by Pablo Stanley, free for personal and commercial use, drawn by DiceBear.\n"
    )
