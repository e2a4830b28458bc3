"""What a picture is called: a sentence made by a small grammar, style, expression, who, where."""

import random
import re

from .identities import DOMAINS, Identity
from .scene import Scene
from .scenery import BACKGROUNDS, STYLES

COMPLETE = 0.7  # share of captions that leave nothing out: what is never said cannot be heard


def caption(
    identity: Identity,
    scene: Scene,
    rng: random.Random | None = None,
    subject: str | None = None,
) -> str:
    """A sentence for the picture of an identity in a scene.

    rng: leave details out at random; without it, none is left out.
    subject: a word ("S*") that stands for the identity; default: its name, if it has one.
    """
    complete = rng is None or rng.random() < COMPLETE

    def keep(share: float) -> bool:
        return complete or rng.random() < share

    subject = subject or identity.name
    words = [STYLES[scene.style]]
    if not subject:
        words.append("a")
    if scene.size == "small":
        words.append("small")
    if keep(0.5):
        words.append(scene.expression)
    words.append(subject or identity.domain)
    if not subject:
        phrases = _attribute_phrases(identity, keep)
        if phrases:
            words += ["with", " and ".join(phrases)]
    if scene.shows_background and keep(0.9):
        words.append(BACKGROUNDS[scene.background])
    # a phrase without its color's word has two spaces in it
    text = " ".join(" ".join(words).split())
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _attribute_phrases(identity: Identity, keep) -> list[str]:
    """Such as ["pale skin", "long brown hair"]; keep(share) -> whether a detail is said."""
    domain = DOMAINS[identity.domain]
    phrases = []
    for attribute, word in identity.attributes.items():
        phrase, _ = domain.attributes[attribute][word]
        if phrase and keep(0.7):
            color = domain.colors.get(attribute)
            said = identity.attributes[color] if color and keep(0.9) else ""
            phrases.append(phrase.format(said))
    return phrases
