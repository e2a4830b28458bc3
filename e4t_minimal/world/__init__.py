"""The toy world: an identity and a scene give a picture, its caption and its mask."""

from .captions import caption
from .dataset import as_dataset, example
from .drawing import draw
from .identities import DOMAINS, EXPRESSIONS, NAMES, SPLITS, Domain, Identity, identity, named
from .scene import Scene

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
