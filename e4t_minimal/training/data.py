"""The drawn pictures that the toy models learn from, as tensors; and their tokenizer."""

import json
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ..world.scenery import BACKGROUNDS, STYLES
from ..world import DOMAINS, EXPRESSIONS, as_dataset, named

MAX_TOKENS = 40
MIX = {
    ("face", "named"): 20000,
    ("face", "train"): 20000,  # how many pictures of each kind the base learns from
    ("critter", "named"): 8000,
    ("critter", "train"): 8000,
    ("robot", "named"): 8000,
    ("robot", "train"): 8000,
}
PLAIN = 0.5  # share of large photos on plain backgrounds: there, the loss is about who it is


def pictures(domain: str, split: str, count: int, seed: int = 0, plain: float = PLAIN) -> dict:
    """{images (n, 64, 64, 3) uint8, captions, identities, scenes}: `count` rows of the world as arrays and lists."""
    rows = as_dataset(domain, split, count, seed, plain, num_proc=2 if count > 2000 else None)
    images = np.stack([np.asarray(image) for image in rows["image"]])
    return {
        "images": images,
        "captions": list(rows["caption"]),
        "identities": [json.loads(x) for x in rows["identity"]],
        "scenes": [json.loads(x) for x in rows["scene"]],
    }


def training_pictures(mix: dict = MIX) -> dict:
    parts = [pictures(domain, split, count) for (domain, split), count in mix.items()]
    return {
        "images": np.concatenate([p["images"] for p in parts]),
        **{k: sum((p[k] for p in parts), []) for k in ("captions", "identities", "scenes")},
    }


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@cache
def names() -> list[str]:
    return [one.name for domain in DOMAINS for one in named(domain)]


def build_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in which every word of the grammar, and every name, is one token; other words fall into letters."""
    words = " ".join(
        [
            *STYLES.values(),
            *BACKGROUNDS.values(),
            *EXPRESSIONS,
            *DOMAINS,
            "a an and with small picture person",
            *(
                phrase.replace("{}", "") + " " + word
                for d in DOMAINS.values()
                for part in d.attributes.values()
                for word, (phrase, _) in part.items()
            ),
        ]
    )
    words = sorted(set(words.split())) + names()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer, bpe.pre_tokenizer = (
        normalizers.Lowercase(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,*'-!?<>")
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=5000,
            min_frequency=1,
            end_of_word_suffix="</w>",
            initial_alphabet=letters,
            show_progress=False,
        ),
    )
    saved = json.loads(bpe.to_str())["model"]
    vocab = list(dict.fromkeys([*saved["vocab"], *letters, *(c + "</w>" for c in letters)]))
    vocab = {token: i for i, token in enumerate(vocab + ["<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=[tuple(m) for m in saved["merges"]], model_max_length=MAX_TOKENS
    )
    split = [w for w in words if len(tokenizer(w).input_ids) != 3]
    assert not split, f"words of more than one token: {split}"
    return tokenizer
