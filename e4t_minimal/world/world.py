"""The toy world: an identity, put into a scene, gives a picture and its caption.

A *concept* is one `Identity` (this face). A *domain* is a kind of concept (`face`, `critter`, `robot`).
What may change while the person stays the same (expression, size, background, style) is the `Scene`.
DiceBear draws the subject as SVG, resvg turns it into pixels, PIL paints the places and the styles.
Everything is a pure function of its arguments: the same seed always gives the same picture.
"""

import io
import json
import random
import re
import zlib
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import count

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from .scenery import BACKGROUNDS, PLACES, PLAIN, SIZE, STYLES, background, rng_of, stylise

NAMES = 512  # identities of each domain that have a name of their own
SPLITS = {
    "held-out": (0,),
    "validation": (1,),
    "train": tuple(range(2, 10)),
}  # a tenth, a tenth, the rest


@dataclass(frozen=True)
class Domain:
    """How one kind of concept is drawn, as written in domains.json."""

    style: str  # DiceBear's
    attributes: dict  # {attribute: {word: (phrase of a caption, DiceBear options)}}; {} in a phrase stands for its colour's word
    expressions: dict  # {word: DiceBear options}
    colors: dict  # {attribute whose phrase has a {}: the attribute that fills it}
    always: dict  # DiceBear options that never change


DOMAINS = {
    name: Domain(**domain)
    for name, domain in json.loads(
        files("e4t_minimal.world").joinpath("domains.json").read_text("utf-8")
    ).items()
}
EXPRESSIONS = tuple(dict.fromkeys(e for d in DOMAINS.values() for e in d.expressions))


@dataclass(frozen=True)
class Identity:
    """One concept. attributes: {attribute: word}, every attribute of the domain given; name: a token of its own, or None."""

    domain: str
    attributes: dict
    name: str | None = None

    @property
    def visible(self) -> dict[str, str]:
        """The attributes that can be seen: a missing top has no colour."""
        unseen = [
            color
            for part, color in DOMAINS[self.domain].colors.items()
            if self.attributes[part] == "none"
        ]
        return {
            attribute: word
            for attribute, word in self.attributes.items()
            if attribute not in unseen
        }

    @property
    def split(self) -> str:
        """Which part of the world it belongs to: a hash of what can be seen decides, so two parts can never share an identity."""
        digit = zlib.crc32(json.dumps([self.domain, self.visible], sort_keys=True).encode()) % 10
        return next(split for split, digits in SPLITS.items() if digit in digits)

    @classmethod
    def sample(cls, domain: str, split: str, rng: random.Random) -> "Identity":
        while True:  # rejection: ten draws on average for held-out
            one = cls(
                domain, {a: _pick(words, rng) for a, words in DOMAINS[domain].attributes.items()}
            )
            if one.split == split:
                return one


def _pick(words, rng):  # "none" (no beard, no glasses) half of the time, all others alike
    if "none" in words and rng.random() < 0.5:
        return "none"
    return rng.choice([w for w in words if w != "none"])


def identity(domain: str, split: str, index: int) -> Identity:
    """The index-th identity of a split ("train", "validation", "held-out"): always the same one."""
    if domain not in DOMAINS or split not in SPLITS:
        raise ValueError(
            f"no identities of domain {domain!r}, split {split!r}: domains are {list(DOMAINS)}, splits {list(SPLITS)}"
        )
    return Identity.sample(domain, split, rng_of("identity", domain, split, index))


@lru_cache
def named(domain: str) -> tuple[Identity, ...]:
    """The domain's NAMES celebrities: training identities with a made-up name each ("bota"), unique over all domains."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    order = rng_of("names").sample(
        [a + b for a in syllables for b in syllables], len(DOMAINS) * NAMES
    )
    start, people = list(DOMAINS).index(domain) * NAMES, {}
    for index in count():
        one = identity(domain, "train", index)
        people.setdefault(str(one.visible), one)  # nobody has two names
        if len(people) == NAMES:
            return tuple(
                replace(one, name=name) for one, name in zip(people.values(), order[start:])
            )


@dataclass(frozen=True)
class Scene:
    """What may change while the identity stays: all but `seed` and `shift` can be asked for in words."""

    background: str = "white"
    style: str = "photo"
    expression: str = "smiling"
    size: str = "large"  # or "small"
    shift: int = 0  # pixels to the right
    seed: int = 0  # where the stars and the trees stand

    @property
    def shows_background(self) -> bool:
        """A place is seen in every style; a plain colour is lost in a sketch, in greys or in a negative."""
        return self.background in PLACES or self.style in ("photo", "pixel")

    @classmethod
    def sample(cls, domain: str, rng: random.Random, plain: float = 0.0) -> "Scene":
        """A random scene; with probability `plain` a large photo on a plain background."""
        pick = lambda words: rng.choice(list(words))  # noqa: E731
        easy = rng.random() < plain
        return cls(
            pick(PLAIN if easy or rng.random() < 0.3 else PLACES),
            "photo" if easy or rng.random() < 0.4 else pick(STYLES),
            pick(DOMAINS[domain].expressions),
            "large" if easy or rng.random() < 0.8 else "small",
            rng.randint(-3, 3),
            rng.randrange(2**31),
        )


def caption(
    identity: Identity, scene: Scene, rng: random.Random | None = None, subject: str | None = None
) -> str:
    """A sentence for the picture. With `rng`, details are left out at random; `subject` ("S*") stands for name and attributes."""
    keep = (lambda p: rng.random() < p) if rng is not None else (lambda p: True)
    adjectives = ["small"] * (scene.size == "small") + [scene.expression] * keep(0.5)
    subject = subject or identity.name
    words = [STYLES[scene.style]] + (
        adjectives + [subject] if subject else ["a"] + adjectives + [identity.domain]
    )
    if not subject:
        domain, phrases = DOMAINS[identity.domain], []
        for attribute, word in identity.attributes.items():
            phrase = domain.attributes[attribute][word][0]
            if phrase and keep(0.7):
                color = domain.colors.get(attribute)
                phrases.append(
                    phrase.format(identity.attributes[color] if color and keep(0.9) else "")
                )
        words += ["with " + " and ".join(phrases)] if phrases else []
    words += [BACKGROUNDS[scene.background]] * (scene.shows_background and keep(0.9))
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(" ".join(words).split()))


@lru_cache
def _style(name: str) -> Style:
    return Style(json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")))


def _subject(identity: Identity, expression: str, pixels: int) -> Image.Image:
    domain = DOMAINS[identity.domain]
    options = {"seed": "0", **domain.always, **domain.expressions[expression]}
    for attribute, word in identity.attributes.items():
        options |= domain.attributes[attribute][word][1]
    svg = Avatar(_style(domain.style), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def draw(
    identity: Identity, scene: Scene, rng: random.Random | None = None
) -> tuple[Image.Image, str, Image.Image]:
    """(picture RGB 64x64, caption, mask "L" 64x64: how much of each pixel is the subject, 0..255)."""
    pixels = SIZE if scene.size == "large" else 46
    subject, place = (
        _subject(identity, scene.expression, pixels),
        ((SIZE - pixels) // 2 + scene.shift, SIZE - pixels),
    )
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(subject.getchannel("A"), place)
    image = background(scene.background, scene.seed)
    image.paste(subject.convert("RGB"), place, subject.getchannel("A"))
    return stylise(image, scene.style), caption(identity, scene, rng), mask


def example(domain: str, split: str, index: int, seed: int = 0, plain: float = 0.5) -> dict:
    """The index-th row of a dataset. split "named": the celebrities in turn, three times in four under their name."""
    rng = rng_of("example", domain, split, seed, index)
    if split == "named":
        one = named(domain)[index % NAMES]
        called = one if rng.random() < 0.75 else replace(one, name=None)
    else:
        one = called = identity(domain, split, index)
    scene = Scene.sample(domain, rng, plain)
    image, text, mask = draw(called, scene, rng)
    return {
        "image": image,
        "caption": text,
        "mask": mask,
        "identity": json.dumps(asdict(one)),
        "scene": json.dumps(asdict(scene)),
    }


def as_dataset(
    domain: str,
    split: str = "train",
    pictures: int = 1000,
    seed: int = 0,
    plain: float = 0.5,
    num_proc: int | None = None,
):
    """A Hugging Face `Dataset` (columns image, caption, mask, identity, scene), drawn once and then read from its cache."""
    from datasets import Dataset

    def rows(indices):
        for i in indices:
            yield example(domain, split, i, seed, plain)

    drawn_by = "".join(
        files("e4t_minimal.world").joinpath(name).read_text("utf-8")
        for name in ("world.py", "scenery.py", "domains.json")
    )  # other code, other cache
    return Dataset.from_generator(
        rows,
        gen_kwargs={"indices": list(range(pictures))},
        num_proc=num_proc,
        fingerprint=f"e4t-world-{zlib.crc32(drawn_by.encode()):08x}-{domain}-{split}-{pictures}-{seed}-{plain}",
    )
