"""`e4t`: the same as the notebooks, from a terminal."""
