"""`e4t`: its commands, each a function of a file beside this one.

Those files load what a command needs only when it runs, so that `e4t --help` takes no time.
"""

import typer

from .concepts import personalize, sample
from .demo import demo
from .doctor import doctor
from .exchange import export, import_weights
from .measure import bench, evaluate, speed
from .planning import plan
from .pretraining import pretrain

app = typer.Typer(
    help="One picture of a new face becomes a word, S*, that a text-to-image model can draw.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    demo,
    doctor,
    personalize,
    sample,
    evaluate,
    bench,
    speed,
    plan,
    pretrain,
    export,
    import_weights,
)
for function in COMMANDS:
    app.command()(function)
