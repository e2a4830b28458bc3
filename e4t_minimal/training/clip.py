"""CLIP, twice contrastive: picture against captions, celebrity's picture against all names."""

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from .data import pictures, training_pictures
from .loop import Training, train
from .tokenizer import MAX_TOKENS, build_tokenizer, names

WIDTH = 192
BATCH = 128


def build(tokenizer) -> CLIPModel:
    """A new CLIP for 64 x 64 pictures: text 4 layers, vision 6 layers, patches of 8 pixels."""
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 6,
        "hidden_act": "quick_gelu",
        "projection_dim": WIDTH,
    }
    text = shared | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "num_hidden_layers": 4,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shared | {"image_size": 64, "patch_size": 8, "num_hidden_layers": 6}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def tokens(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (B, T), padded to the longest text."""
    return torch.tensor(tokenizer(texts, padding=True, truncation=True).input_ids)


def image_features(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> unit vectors (B, D)."""
    return F.normalize(model.get_image_features(pixels).pooler_output.float(), dim=-1)


def text_features(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, T) -> unit vectors (B, D)."""
    return F.normalize(model.get_text_features(ids).pooler_output.float(), dim=-1)


def caption_loss(logits: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """CLIP's loss of logits (B, B), pictures by captions -> scalar."""
    numbers = torch.tensor([texts.index(text) for text in texts], device=logits.device)
    same = numbers[:, None] == numbers  # (B, B)
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, -1e4)  # an identical caption is not a wrong one
    right = torch.arange(len(texts), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def fit(training: Training, lr: float = 1e-3) -> dict:
    """Train CLIP and its tokenizer into the folder: model/, tokenizer/. Returns the report."""
    torch.manual_seed(training.seed)
    device = training.device
    tokenizer, data = build_tokenizer(), training_pictures()
    model = build(tokenizer).to(device)
    number = {name: i for i, name in enumerate(names())}
    # also if the caption hides the name
    of_picture = [number.get(one.name, -1) for one in data.identities]
    celebrities = torch.tensor([i for i, name in enumerate(of_picture) if name >= 0])
    of_picture = torch.tensor(of_picture)
    bare = tokens(tokenizer, [f"a photo of {name}" for name in names()]).to(device)  # (names, 6)

    def loss_of_step(g, step):
        indices = torch.randint(len(data), (BATCH,), generator=g)
        chosen = torch.randint(len(celebrities), (BATCH // 2,), generator=g)
        indices[: BATCH // 2] = celebrities[chosen]  # half of each batch shows somebody with a name
        texts = [data.captions[i] for i in indices]
        scale = model.logit_scale.exp().clamp(max=50)
        seen = image_features(model, data.pixels(indices).to(device))
        said = text_features(model, tokens(tokenizer, texts).to(device))
        loss = caption_loss(scale * seen @ said.T, texts)
        with_name = of_picture[indices] >= 0
        to_names = scale * seen[with_name.to(device)] @ text_features(model, bare).T
        return loss + F.cross_entropy(to_names, of_picture[indices][with_name].to(device))

    fresh = pictures("face", "named", 512, seed=1)
    fresh_names = torch.tensor([number[one.name] for one in fresh.identities])
    held = pictures("face", "held-out", 256)
    held_ids = tokens(tokenizer, held.captions).to(device)

    def check():
        everyone = range(len(fresh))
        to_names = image_features(model, fresh.pixels(everyone).to(device))
        to_names = to_names @ text_features(model, bare).T
        retrieval = image_features(model, held.pixels(range(len(held))).to(device))
        retrieval = retrieval @ text_features(model, held_ids).T
        right_name = to_names.argmax(1).cpu() == fresh_names
        right_caption = retrieval.argmax(1).cpu() == torch.arange(len(held))
        return {
            f"name@1 of {len(names())}": right_name.float().mean(),
            f"caption@1 of {len(held)}": right_caption.float().mean(),
        }

    groups = [{"params": model.parameters(), "lr": lr}]
    report = train(model, groups, loss_of_step, training, check)
    model.cpu().save_pretrained(training.folder / "model")
    tokenizer.save_pretrained(training.folder / "tokenizer")
    return report
