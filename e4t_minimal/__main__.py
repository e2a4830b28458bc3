"""`python -m e4t_minimal`: the same as `e4t`, as `accelerate launch -m` needs it."""

from .cli.app import app

app()
