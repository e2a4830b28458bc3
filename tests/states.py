"""States of trainings, changed after they were saved."""

import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def rewritten(path, facts=None, drop="", **tensors):
    """A state with other facts (None: without it) and tensors, without those named `drop`..."""
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    for name, fact in (facts or {}).items():
        texts[name] = json.dumps(fact)
        if fact is None:
            del texts[name]
    found = load_file(path) | tensors
    kept = {name: tensor for name, tensor in found.items() if not drop or drop not in name}
    save_file(kept, path, texts)
