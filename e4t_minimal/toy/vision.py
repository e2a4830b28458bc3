"""The vision tower that E4T's encoder looks through: CLIP's, trained on, until it tells a red hat and a green coat from a green hat and a red coat.

Captions spell out everybody, celebrities too, and beside them stand captions that are almost right. The text tower that trains along is thrown away: the
base keeps the one that its U-Net has learned to read. (Stable Diffusion 1.x and the CLIP that E4T looks through are two different CLIPs, too.)
"""
import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..scenery import rng_of
from ..world import DOMAINS, Identity, Scene, caption
from .clip import features, tokens
from .data import pictures, to_tensor, training_pictures
from .loop import train


def almost(one: Identity, rng: random.Random) -> Identity:
    """Nearly the same: two of its colours exchanged if they differ, or else one attribute changed."""
    domain, looks = DOMAINS[one.domain], dict(one.attributes)
    colors = [a for a in domain.colors.values() if a in one.visible]
    if len(colors) > 1 and rng.random() < 0.5 and len({looks[a] for a in colors}) > 1 and all(looks[a] in domain.attributes[b] for a in colors for b in colors):
        looks |= {a: looks[b] for a, b in zip(colors, reversed(colors))}
    else:
        attribute = rng.choice(list(one.visible))
        looks[attribute] = rng.choice([word for word in domain.attributes[attribute] if word != looks[attribute]])
    return replace(one, attributes=looks)


def fit(folder, steps: int = 1500, batch: int = 96, lr: float = 5e-4, seed: int = 0, resume: bool = False):
    torch.manual_seed(seed)
    model, tokenizer = CLIPModel.from_pretrained(folder.parent / "clip/model"), CLIPTokenizer.from_pretrained(folder.parent / "clip/tokenizer")
    model.set_attn_implementation("eager")
    data = training_pictures()
    people = [Identity(**{**who, "name": None}) for who in data["identities"]]
    scenes = [Scene(**where) for where in data["scenes"]]

    def logits_of(images, ones, places, rng):
        """(B, 2 B): every picture against every right caption and every almost right one."""
        right = [caption(one, place) for one, place in zip(ones, places)]
        wrong = [caption(almost(one, rng), place) for one, place in zip(ones, places)]
        texts = features(model, ids=tokens(tokenizer, right + wrong)).float()
        logits = model.logit_scale.exp().clamp(max=50) * features(model, images=to_tensor(images)).float() @ texts.T
        same = torch.tensor([[a == b for b in right + wrong] for a in right])
        same[:, :len(right)] &= ~torch.eye(len(right), dtype=torch.bool)
        return logits.masked_fill(same, -1e4)  # an identical caption is not a wrong one

    def loss_of_step(g):
        rows = torch.randint(len(people), (batch,), generator=g).tolist()
        logits = logits_of(data["images"][rows], [people[i] for i in rows], [scenes[i] for i in rows], rng_of("almost", g.initial_seed()))
        target = torch.arange(batch)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :batch].T, target)) / 2

    held = {d: pictures(d, "held-out", 256, plain=1.0) for d in DOMAINS}

    def check():
        out = {}
        for domain, rows in held.items():
            ones, places = [Identity(**who) for who in rows["identities"]], [Scene(**where) for where in rows["scenes"]]
            logits = logits_of(rows["images"], ones, places, rng_of("check"))
            n = torch.arange(len(ones))
            out |= {f"{domain}: caption@1 of 256": (logits[:, :256].argmax(1) == n).float().mean(),
                    f"{domain}: rather than almost right": (logits[n, n] > logits[n, n + 256]).float().mean()}
        return out

    report = train("vision", model, [{"params": model.parameters(), "lr": lr}], loss_of_step, steps, folder, seed, resume, check, 100)
    model.eval()
    with torch.no_grad():
        report |= {k: round(float(v), 3) for k, v in check().items()}
    tower = CLIPVisionModelWithProjection(model.config.vision_config)
    tower.vision_model.load_state_dict(model.vision_model.state_dict())
    tower.visual_projection.load_state_dict(model.visual_projection.state_dict())
    tower.save_pretrained(folder / "model")
    return report | {"command": f"python -m e4t_minimal.toy vision --steps {steps} --seed {seed}"}
