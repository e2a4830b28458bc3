"""Queries, keys, values, maps and weight offsets of one attention layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch.nn.utils import parametrize

from ..offsets import WeightOffset
from .observer import Observer

# all of them compute softmax(Q K^T / sqrt(d)) V and nothing else
PLAIN = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)


class ObservedAttention:
    """A diffusers attention processor: `AttnProcessor2_0`, step by step before observers.

    For the layers of a U-Net's transformer blocks. As long as nobody changes a map, it ends in the
    same fused kernel, which never stores one; the map that is seen is computed beside.
    """

    def __init__(self, name: str, original):
        self.name = name
        self.original = original  # the processor in whose place it stands
        self.observers: list[Observer] = []

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states (B, N, C), encoder_hidden_states (B, T, D) -> (B, N, C)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = self.show("to_q", attn.to_q(hidden_states))  # (B, N, C)
        k = self.show("to_k", attn.to_k(context))  # (B, N or T, C)
        v = self.show("to_v", attn.to_v(context))
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            attention_mask = mask.unflatten(0, (-1, attn.heads))  # (B, heads, 1 or N, N or T)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = self._mix(q, k, v, attention_mask)  # (B, heads, N, d)
        mixed = mixed.transpose(1, 2).flatten(2).to(q.dtype)  # (B, N, C)
        projection, dropout = attn.to_out
        return dropout(projection(mixed))

    def show(self, part: str, tensor: torch.Tensor) -> torch.Tensor:
        for observer in self.observers:
            tensor = observer(f"{self.name}.{part}", tensor)
        return tensor

    def _mix(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """softmax(Q K^T / sqrt(d)) V for q, k, v (B, heads, N or T, d)."""
        watching = [o for o in self.observers if o.sees(f"{self.name}.map")]
        if any(observer.changing for observer in watching):
            return self.show("map", attention_map(q, k, mask)).to(v.dtype) @ v
        if watching:
            with torch.no_grad():
                self.show("map", attention_map(q, k, mask))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_map(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d)), in fp32: q (B, heads, N, d), k (B, heads, T, d) -> (..., N, T)."""
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1)


@contextmanager
def observed_attention(name: str, layer: torch.nn.Module, observer: Observer) -> Iterator[None]:
    """Inside, the layer computes its attention before the observer's eyes.

    All observers of a layer share one processor, so that they may leave in any order; the last one
    puts the layer's own back. ValueError if that one does more than attention.
    """
    processor = layer.get_processor()
    if not isinstance(processor, ObservedAttention):
        _check_plain(name, layer)
        processor = ObservedAttention(name, processor)
        layer.set_processor(processor)
    processor.observers.append(observer)
    try:
        yield
    finally:
        processor.observers.remove(observer)
        # somebody may have set another one meanwhile
        if not processor.observers and layer.get_processor() is processor:
            layer.set_processor(processor.original)


def _check_plain(name: str, layer: torch.nn.Module):
    processor = type(layer.get_processor())
    norms = (layer.norm_cross, layer.norm_q, layer.norm_k, layer.group_norm, layer.spatial_norm)
    unusual = any(norm is not None for norm in norms) or layer.residual_connection
    if processor not in PLAIN or unusual or not layer.scale_qk:
        raise ValueError(
            f"{name} computes more than softmax(Q K^T / sqrt(d)) V ({processor.__name__}), so its "
            "Q, K, V and map cannot be observed. Ask for other names, such as 'unet.mid', or set "
            "diffusers' AttnProcessor2_0."
        )


class ObservedDelta:
    """A forward hook of one projection: Delta of the offset that hangs on it, if one does.

    Observers see it one after the other, each what the one before has made of it. Who only looks
    sees an unchanged Delta again only when it has been trained since. The offset is asked for every
    time: folding puts another in its place.
    """

    def __init__(self, name: str):
        self.name = name
        self.seen: dict[Observer, list | None] = {}  # which version of Delta each has seen
        self.handle = None  # takes the hook off again

    def __call__(self, linear: torch.nn.Module, args: tuple, output: torch.Tensor):
        watching = [observer for observer in self.seen if observer.sees(self.name)]
        if not watching or not parametrize.is_parametrized(linear, "weight"):
            return None
        offset = linear.parametrizations.weight[0]
        if any(observer.changing for observer in watching):
            return self._changed(linear, offset, args[0], watching)
        version = [(id(p), p._version) for p in offset.parameters()]
        for observer in watching:
            if self.seen[observer] != version:
                self.seen[observer] = version
                with torch.no_grad():
                    observer(self.name, offset.delta())
        return None

    def _changed(
        self,
        linear: torch.nn.Module,
        offset: torch.nn.Module,
        x: torch.Tensor,
        watching: list[Observer],
    ) -> torch.Tensor:
        """What the projection makes of x with the changed Delta in the place of Delta."""
        delta = offset.delta()
        for observer in watching:
            delta = observer(self.name, delta)
        weight = linear.parametrizations.weight.original
        change = weight * delta if isinstance(offset, WeightOffset) else delta
        return F.linear(x, (weight + change).to(weight.dtype), linear.bias)


@contextmanager
def observed_delta(name: str, linear: torch.nn.Module, observer: Observer) -> Iterator[None]:
    """Inside, the observer sees the projection's Delta; all of its observers share one hook."""
    hooks = [hook for hook in linear._forward_hooks.values() if isinstance(hook, ObservedDelta)]
    hook = hooks[0] if hooks else ObservedDelta(name)
    if not hooks:
        hook.handle = linear.register_forward_hook(hook)
    hook.seen[observer] = None
    try:
        yield
    finally:
        del hook.seen[observer]
        if not hook.seen:
            hook.handle.remove()
