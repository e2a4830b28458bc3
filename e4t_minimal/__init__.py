"""E4T, built to be read: see README.md.

`import e4t_minimal as e4t` gives what a notebook needs: `e4t.load_base`, `e4t.E4T`, ... Each is
loaded when it is first used, so that the import itself takes no time.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

__all__ = [
    "DATA",
    "E4T",
    "PERSONALIZATION",
    "PRETRAINING",
    "Encoder",
    "Placeholder",
    "Schedule",
    "load_base",
    "patch",
    "personalize",
    "pretrain",
    "sample",
    "trace",
]
_WHERE = {
    "load_base": "base",
    "Placeholder": "placeholder",
    "Encoder": "encoder",
    "E4T": "model",
    "Schedule": "train",
    "PRETRAINING": "train",
    "PERSONALIZATION": "train",
    "pretrain": "train",
    "personalize": "train",
    "sample": "sample",
    "trace": "inspection.trace",
    "patch": "inspection.trace",
}
_HERE = Path(__file__).resolve().parent
_IN_WHEEL = _HERE / "data_samples"
# what is shipped: the toy base, the judge, an E4T for each domain, faces. In a clone it stands
# beside the package, in an installed wheel inside.
DATA = _IN_WHEEL if _IN_WHEEL.is_dir() else _HERE.parent / "data_samples"


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A module whose `sample` stays the function, though one of its files has that name too."""

    def __setattr__(self, name: str, value):
        # when a file is imported, Python would put it here under its name
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
