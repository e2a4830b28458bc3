"""E4T, built to be read: see README.md."""

from pathlib import Path

DATA = (
    Path(__file__).resolve().parent.parent / "data_samples"
)  # what is shipped: the toy base, the judge, E4Ts, faces
