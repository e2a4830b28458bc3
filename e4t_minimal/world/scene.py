"""What may change while the identity stays: place, style, expression, size."""

import random
from dataclasses import dataclass

from ..helpers import checks
from .identities import DOMAINS, EXPRESSIONS
from .scenery import BACKGROUNDS, PLACES, PLAIN, STYLES


@dataclass(frozen=True)
class Scene:
    """All but `seed` and `shift` can be asked for in words. ValueError for what there is not."""

    background: str = "white"
    style: str = "photo"
    expression: str = "smiling"
    size: str = "large"  # or "small"
    shift: int = 0  # pixels to the right
    seed: int = 0  # where the stars and the trees stand

    def __post_init__(self):
        checks.choice("background", self.background, BACKGROUNDS)
        checks.choice("style", self.style, STYLES)
        checks.choice("expression", self.expression, EXPRESSIONS)
        checks.choice("size", self.size, ("large", "small"))
        checks.whole(-32, 32, shift=self.shift)
        checks.seed(self.seed)

    @property
    def shows_background(self) -> bool:
        """Whether the background can be told from the picture.

        A place is seen in every style; a plain color is lost in a sketch, in greys or in a
        negative.
        """
        return self.background in PLACES or self.style in ("photo", "pixel")

    @classmethod
    def sample(cls, domain: str, rng: random.Random, plain: float = 0.0) -> "Scene":
        """A random scene; with probability `plain` a large photo on a plain background."""
        # the order of the draws is part of the data: another order gives other pictures
        easy = rng.random() < plain
        backgrounds = PLAIN if easy or rng.random() < 0.3 else PLACES
        background = rng.choice(list(backgrounds))
        style = "photo" if easy or rng.random() < 0.4 else rng.choice(list(STYLES))
        expression = rng.choice(list(DOMAINS[domain].expressions))
        size = "large" if easy or rng.random() < 0.8 else "small"
        shift = rng.randint(-3, 3)
        seed = rng.randrange(2**31)
        return cls(background, style, expression, size, shift, seed)
