"""What must hold wherever something hangs on a model: it is called, by one thread at a time.

And it comes off again as a whole. Parametrizations are torch's (`torch.nn.utils.parametrize`).
"""

from threading import RLock

import torch
from torch.nn.utils import parametrize

# What hangs on a model for one pass would serve every thread's passes, and torch keeps one cache of
# parametrized weights for all of them: passes go one after another.
ONE_AT_A_TIME = RLock()

Modules = dict[str, torch.nn.Module]


def check_hookable(**models: torch.nn.Module):
    """Each model by its part's name: ValueError if hooks and parametrizations would be no use."""
    # only now: it takes a second
    from diffusers.models.attention_processor import FusedAttnProcessor2_0
    from diffusers.utils.torch_utils import is_compiled_module

    for part, model in models.items():
        for module in model.modules():
            if is_compiled_module(module) or module._compiled_call_impl is not None:
                raise ValueError(
                    f"The {part} is compiled, and a compiled model passes hooks and offsets by: "
                    "take one that is not, as `load_base` gives it."
                )
            if isinstance(getattr(module, "processor", None), FusedAttnProcessor2_0):
                raise ValueError(
                    f"The {part} computes Q, K and V with one fused projection, in which they are "
                    "not to be told apart: call `unfuse_qkv_projections()` first."
                )


def exchange_weights(modules: Modules, parametrizations: Modules):
    """Hang {name: parametrization} on the weights of {name: module}, in the place of what is there.

    All of them or, if anything goes wrong, none: then there is again what was there before.
    """
    before = {name: hanging(module) for name, module in modules.items() if hanging(module)}
    try:
        _hang(modules, parametrizations)
    except BaseException:
        _hang(modules, before)
        raise


def _hang(modules: Modules, parametrizations: Modules):
    for module in modules.values():
        restore_weight(module)
    for name, parametrization in parametrizations.items():
        module = modules[name]
        on_device = parametrization.to(module.weight.device)
        parametrize.register_parametrization(module, "weight", on_device)


def hanging(module: torch.nn.Module) -> torch.nn.Module | None:
    """The first parametrization of a module's weight."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    return module.parametrizations.weight[0]


def restore_weight(module: torch.nn.Module, merge: bool = False):
    """Take off what hangs on a module's weight, if anything; merge: the weight keeps its effect."""
    if not parametrize.is_parametrized(module, "weight"):
        return
    # A deep copy of a model shares the classes that torch has made for it: without one of its own,
    # taking this weight's property away would take it from the other, too.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=merge)
