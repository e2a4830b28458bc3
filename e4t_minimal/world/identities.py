"""Who is drawn: three domains of concepts, and the identities in them.

A *concept* is one `Identity` (this face). A *domain* is a kind of concept (`face`, `critter`,
`robot`). An identity is a short list of attributes; everything about it follows from them, its
split too, so that no list of identities has to be stored.
"""

import json
import random
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import count

from ..helpers import checks
from ..helpers.reading import parse_json
from .random_numbers import rng_of

NAMES = 512  # identities of each domain that have a name of their own
# the last digits of an identity's hash that fall into each part: a tenth, a tenth, the rest
SPLITS = {"held-out": (0,), "validation": (1,), "train": tuple(range(2, 10))}


@dataclass(frozen=True)
class Domain:
    """How one kind of concept is drawn, as written in domains.json."""

    # the name of DiceBear's style
    style: str
    # {attribute: {word: (phrase of a caption, DiceBear options)}};
    # {} in a phrase stands for its color's word
    attributes: dict
    # {word: DiceBear options}
    expressions: dict
    # {attribute whose phrase has a {}: the attribute that fills it}
    colors: dict
    # DiceBear options that never change
    always: dict


def _read_domains() -> dict[str, Domain]:
    text = files(__package__).joinpath("domains.json").read_text("utf-8")
    return {name: Domain(**domain) for name, domain in parse_json(text, "domains.json").items()}


DOMAINS = _read_domains()


def _all_expressions() -> tuple[str, ...]:
    """Each expression once, in the order in which the domains name them."""
    words = {}
    for domain in DOMAINS.values():
        words |= dict.fromkeys(domain.expressions)
    return tuple(words)


EXPRESSIONS = _all_expressions()


@dataclass(frozen=True)
class Identity:
    """One concept.

    attributes: {attribute: word}, with every attribute of the domain in it, or ValueError.
    name: a token of its own, or None.
    """

    domain: str
    attributes: dict
    name: str | None = None

    def __post_init__(self):
        checks.choice("domain", self.domain, DOMAINS)
        known = DOMAINS[self.domain].attributes
        for name in {**known, **self.attributes}:
            checks.choice(f"attribute of a {self.domain}", name, known)
            checks.choice(name.replace("_", " "), self.attributes.get(name), known[name])

    @property
    def visible(self) -> dict[str, str]:
        """The attributes that can be seen: a missing top has no color."""
        colors = DOMAINS[self.domain].colors
        unseen = {colors[part] for part in colors if self.attributes[part] == "none"}
        return {name: word for name, word in self.attributes.items() if name not in unseen}

    @property
    def split(self) -> str:
        """Which part of the world it belongs to.

        A hash of what can be seen decides, so two parts can never share an identity.
        """
        text = json.dumps([self.domain, self.visible], sort_keys=True)
        digit = zlib.crc32(text.encode()) % 10
        return next(split for split, digits in SPLITS.items() if digit in digits)

    @classmethod
    def sample(cls, domain: str, split: str, rng: random.Random) -> "Identity":
        """A random identity of a split, by rejection: ten draws on average for held-out."""
        checks.choice("domain", domain, DOMAINS)
        checks.choice("split", split, SPLITS)
        while True:
            attributes = {}
            for attribute, words in DOMAINS[domain].attributes.items():
                attributes[attribute] = _random_word(words, rng)
            one = cls(domain, attributes)
            if one.split == split:
                return one


def _random_word(words: dict, rng: random.Random) -> str:
    """ "none" (no beard, no glasses) half of the time, all other words equally often."""
    if "none" in words and rng.random() < 0.5:
        return "none"
    return rng.choice([word for word in words if word != "none"])


def identity(domain: str, split: str, index: int) -> Identity:
    """The index-th identity of a split ("train", "validation", "held-out"): always the same one.

    ValueError if there is no such domain or split.
    """
    checks.whole(0, checks.MANY, index=index)
    return Identity.sample(domain, split, rng_of("identity", domain, split, index))


@lru_cache
def named(domain: str) -> tuple[Identity, ...]:
    """The domain's NAMES celebrities: training identities with a made-up name each ("bota").

    No two identities share a name, in all domains together, and none has two.
    """
    people = {}
    for index in count():
        one = identity(domain, "train", index)
        people.setdefault(str(one.visible), one)
        if len(people) == NAMES:
            break
    start = list(DOMAINS).index(domain) * NAMES
    names = _all_names()[start : start + NAMES]
    return tuple(replace(one, name=name) for one, name in zip(people.values(), names, strict=True))


def _all_names() -> list[str]:
    """A name of two syllables for every celebrity of every domain, in random order."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    names = [first + second for first in syllables for second in syllables]
    return rng_of("names").sample(names, len(DOMAINS) * NAMES)
