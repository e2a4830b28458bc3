"""What this machine does faster, found by one short measurement: number format and attention."""

import time
from collections.abc import Callable

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

CALLS = 5  # of each contender; about a second in all


def autocast(device: str, half: bool | None = None) -> torch.autocast:
    """A context in which large products are in bf16, by default if that is faster there."""
    if half is None:
        half = bf16_is_faster(device)
    # Without the cache: it would go on using half-precision copies of weights that an optimizer
    # has changed since.
    return torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False)


def bf16_is_faster(device: str = "cpu") -> bool:
    """On processors with bf16 matrix units 2-4 times, elsewhere it is slower."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    if device != "cpu":
        return False
    # small: without such units a product in bf16 is emulated, and many times slower
    matrices = [torch.randn(256, 256, dtype=kind) for kind in (torch.float32, torch.bfloat16)]
    single, half = (_seconds(lambda a=a: a @ a) for a in matrices)
    return half < 0.8 * single


PROCESSORS = {"plain": AttnProcessor, "fused": AttnProcessor2_0}


def set_attention(unet: torch.nn.Module, kind: str):
    """kind: "plain" or "fused"; they differ in time, memory, and the last bits."""
    unet.set_attn_processor(PROCESSORS[kind]())


def choose_attention(unet: torch.nn.Module, device: str = "cpu") -> str:
    """Set the U-Net's attention to what is faster forwards and backwards, and say which it is."""
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1"))
    width = layer.to_q.in_features
    hidden = torch.randn(8, 256, width, device=device, requires_grad=True)  # (B, N, D)

    def step():
        layer(hidden).sum().backward()

    seconds = {}
    with autocast(device):
        for name, of_class in PROCESSORS.items():
            layer.set_processor(of_class())
            seconds[name] = _seconds(step)
    unet.zero_grad()
    faster = min(seconds, key=seconds.get)
    set_attention(unet, faster)
    return faster


def _seconds(function: Callable) -> float:
    """Of the fastest of some calls: what else the machine does meanwhile slows the others."""
    function()  # the first call prepares things
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
