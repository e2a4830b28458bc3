"""The toy world: an identity and a scene give a picture, its caption and its mask."""

from .world import (
    DOMAINS,
    EXPRESSIONS,
    NAMES,
    SPLITS,
    Domain,
    Identity,
    Scene,
    as_dataset,
    caption,
    draw,
    example,
    identity,
    named,
)

__all__ = [
    "DOMAINS",
    "EXPRESSIONS",
    "NAMES",
    "SPLITS",
    "Domain",
    "Identity",
    "Scene",
    "as_dataset",
    "caption",
    "draw",
    "example",
    "identity",
    "named",
]
