"""The conceptual figures of the notebooks, one function each; `../figures.py` renders them.

Colours: yellow is lit, blue is an aside; a thick frame is what E4T trains. None of it is told by
colour alone.
"""

from . import base_model, encoder, offsets, system_map, training  # noqa: F401, they fill FIGURES
from .catalogue import FIGURES

__all__ = ["FIGURES"]
