"""A tokenizer in which every word of the toy world's grammar, and every name, is one token."""

from functools import cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ..helpers.reading import parse_json
from ..world import DOMAINS, EXPRESSIONS, named
from ..world.scenery import BACKGROUNDS, STYLES

MAX_TOKENS = 40
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,*'-!?<>"
WORD_END = "</w>"


@cache
def names() -> list[str]:
    """The celebrities of all domains."""
    return [one.name for domain in DOMAINS for one in named(domain)]


@cache
def grammar() -> frozenset[str]:
    """Every word that a caption may have, without the names."""
    texts = [*STYLES.values(), *BACKGROUNDS.values(), *EXPRESSIONS, *DOMAINS]
    texts.append("a an and with small picture person")
    for domain in DOMAINS.values():
        for attribute in domain.attributes.values():
            for word, (phrase, _) in attribute.items():
                texts += [phrase.replace("{}", ""), word]
    return frozenset(" ".join(texts).split())


def build_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learned from the words; any other word falls into letters."""
    words = sorted(grammar()) + names()
    model = models.BPE(end_of_word_suffix=WORD_END, unk_token="<|endoftext|>")
    bpe = Tokenizer(model)
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        min_frequency=1,
        end_of_word_suffix=WORD_END,
        initial_alphabet=list(LETTERS),
        # numbered here, they break ties alike every time; else in the order of a hash table
        special_tokens=[letter + WORD_END for letter in LETTERS],
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    learned = parse_json(bpe.to_str(), "the tokenizer")["model"]
    tokens = [*learned["vocab"], *LETTERS, *(letter + WORD_END for letter in LETTERS)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in learned["merges"]],
        model_max_length=MAX_TOKENS,
    )
    split = [word for word in words if len(tokenizer(word).input_ids) != 3]
    if split:
        raise ValueError(f"These words are of more than one token: {', '.join(split)}.")
    return tokenizer


def name_tokens(tokenizer, called: list[str]) -> list[int]:
    """The token number of each name."""
    return tokenizer.convert_tokens_to_ids([name + WORD_END for name in called])
