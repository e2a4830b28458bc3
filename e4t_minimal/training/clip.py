"""CLIP, twice contrastive: picture against captions, and a celebrity's picture against all the names."""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from ..training.data import (
    MAX_TOKENS,
    build_tokenizer,
    names,
    pictures,
    to_tensor,
    training_pictures,
)
from ..training.loop import train

WIDTH = 192


def build(tokenizer) -> CLIPModel:
    ends = dict(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shape = dict(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_attention_heads=6,
        hidden_act="quick_gelu",
    )
    return CLIPModel(
        CLIPConfig(
            text_config=dict(
                vocab_size=len(tokenizer),
                max_position_embeddings=MAX_TOKENS,
                num_hidden_layers=4,
                projection_dim=WIDTH,
                **shape,
                **ends,
            ),
            vision_config=dict(
                image_size=64, patch_size=8, num_hidden_layers=6, projection_dim=WIDTH, **shape
            ),
            projection_dim=WIDTH,
        )
    )


def tokens(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (B, T), padded to the longest text."""
    return torch.tensor(tokenizer(texts, padding=True, truncation=True).input_ids)


def features(model, images=None, ids=None) -> torch.Tensor:
    """Unit vectors (B, D) of pictures or of texts."""
    out = model.get_image_features(images) if images is not None else model.get_text_features(ids)
    return F.normalize(getattr(out, "pooler_output", out), dim=-1)


def fit(
    folder,
    steps: int = 600,
    batch: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    resume: bool = False,
):
    torch.manual_seed(seed)
    tokenizer, data = build_tokenizer(), training_pictures()
    model, images = build(tokenizer), data["images"]
    model.set_attn_implementation(
        "eager"
    )  # on a CPU its backward pass is faster than the fused one's
    number = {name: i for i, name in enumerate(names())}
    who = [
        number.get(one["name"]) for one in data["identities"]
    ]  # of each picture, whether or not its caption says the name
    celebrity = np.array([i for i, n in enumerate(who) if n is not None])
    bare = tokens(tokenizer, [f"a photo of {name}" for name in names()])  # (1536, 6)

    def loss_of_step(g, step):
        rows = torch.randint(len(images), (batch,), generator=g).numpy()
        rows[: batch // 2] = celebrity[
            torch.randint(len(celebrity), (batch // 2,), generator=g).numpy()
        ]
        texts = [data["captions"][i] for i in rows]
        pixel = features(model, images=to_tensor(images[rows]))
        words = features(model, ids=tokens(tokenizer, texts))
        scale = model.logit_scale.exp().clamp(max=50)
        logits = scale * pixel.float() @ words.float().T  # (B, B)
        same = torch.tensor([[a == b for b in texts] for a in texts]) & ~torch.eye(
            batch, dtype=torch.bool
        )
        logits = logits.masked_fill(same, -1e4)  # an identical caption is not a wrong one
        right = torch.arange(batch)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        mine = [j for j, i in enumerate(rows) if who[i] is not None]
        to_names = scale * pixel[mine].float() @ features(model, ids=bare).float().T  # (b, 1536)
        return loss + F.cross_entropy(to_names, torch.tensor([who[rows[j]] for j in mine]))

    fresh = pictures("face", "named", 512, seed=1)
    fresh_who = torch.tensor([number[one["name"]] for one in fresh["identities"]])
    held = pictures("face", "held-out", 256)

    def check():
        to_names = features(model, images=to_tensor(fresh["images"])) @ features(model, ids=bare).T
        retrieval = (
            features(model, images=to_tensor(held["images"]))
            @ features(model, ids=tokens(tokenizer, held["captions"])).T
        )
        return {
            f"name@1 of {len(names())}": (to_names.argmax(1) == fresh_who).float().mean(),
            "caption@1 of 256": (retrieval.argmax(1) == torch.arange(256)).float().mean(),
        }

    report = train(
        "clip",
        model,
        [{"params": model.parameters(), "lr": lr}],
        loss_of_step,
        steps,
        folder,
        seed,
        resume,
        check,
        100,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "tokenizer")
    return report | {
        "command": f"python -m e4t_minimal.training clip --steps {steps} --seed {seed}"
    }
