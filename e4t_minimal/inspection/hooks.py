"""Where a model's tensors pass, and under what name: the hooks behind `trace` and `patch`. They live only inside a `with` block.

Names: text.hidden; unet.down.0, unet.mid, unet.up.1 (blocks); unet.down.0.attn2 (an attention layer; attn2[0], attn2[1] where a block has several), of each
its .to_q, .to_k, .to_v, .map and .to_q.weight.delta; guidance.uncond, guidance.cond, guidance.prediction; latent[981] (what the step at t = 981 starts from),
latent[end]. With an `E4T` also encoder.clip.cls[0], encoder.features, encoder.offset, placeholder.embedding, loss.diffusion. Wildcards: * and ?.
"""

from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial, wraps

import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from ..offsets import AdditiveOffset


def layers(unet) -> dict[str, torch.nn.Module]:
    """{name: module} of the U-Net's blocks and of their attention layers (diffusers' `Attention`)."""
    down, up = (
        {f"unet.{side}.{i}": block for i, block in enumerate(blocks)}
        for side, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks))
    )
    out = down | {"unet.mid": unet.mid_block} | up
    for name, block in list(out.items()):
        for kind in ("attn1", "attn2"):
            found = [layer for path, layer in block.named_modules() if path.endswith(f".{kind}")]
            out |= {
                f"{name}.{kind}" + f"[{i}]" * (len(found) > 1): layer
                for i, layer in enumerate(found)
            }
    return out


def names(model) -> list[str]:
    """Every name that `trace` and `patch` know in an `E4T`, a `Base` or a diffusers `StableDiffusionPipeline`."""
    e4t, base = (model, model.base) if hasattr(model, "placeholder") else (None, model)
    out = [
        "text.hidden",
        "guidance.uncond",
        "guidance.cond",
        "guidance.prediction",
        "latent[t]",
        "latent[end]",
    ]
    for name, layer in layers(base.unet).items():
        out += [name] + [
            f"{name}.{part}" for part in ("to_q", "to_k", "to_v", "map") if ".attn" in name
        ]
        out += [
            f"{name}.{to}.weight.delta"
            for to in ("to_q", "to_k", "to_v")
            if ".attn" in name and parametrize.is_parametrized(getattr(layer, to), "weight")
        ]
    if e4t:
        out += [
            f"encoder.clip.cls[{i}]" for i in range(len(getattr(e4t.encoder, "levels", ())))
        ] + ["encoder.features", "encoder.offset", "placeholder.embedding"]
        out += [
            f"loss.{term}"
            for term in ("diffusion", "l2", "outside", "contrastive", "sparsity", "cosine", "loss")
        ]
    return out


def match(name: str, patterns: str | tuple[str, ...]) -> bool:
    return any(
        fnmatchcase(name, p.replace("[", "[[]"))
        for p in ((patterns,) if isinstance(patterns, str) else patterns)
    )  # a bracket is a bracket


def _first(output, change):
    """A tensor, or the first tensor of a tuple or of a library's output, changed in its place."""
    if isinstance(output, (torch.Tensor, tuple)):
        return (
            change(output) if isinstance(output, torch.Tensor) else (change(output[0]), *output[1:])
        )
    key = next(iter(output.keys()))
    output[key] = change(output[key])
    return output


@contextmanager
def taps(model, patterns, see, changing: bool):
    """While open, call see(name, tensor, t, part) wherever a tensor with a wanted name passes, and go on with what it returns.

    t: the timestep (a tuple in training). part: the U-Net's pass: "uncond", "cond", "both" (one batch, as diffusers' pipeline), "features" (E4T's, in training)."""
    e4t, base = (model, model.base) if hasattr(model, "placeholder") else (None, model)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not pattern.startswith("latent[") and not any(
            match(name, pattern) for name in names(model)
        ):
            raise ValueError(
                f"Nothing here is called {pattern!r}; `names(model)` lists what is, such as {', '.join(names(model)[:2] + names(model)[6:9])}."
            )
    now = {"t": None, "part": None, "fixed": None, "passes": 0, "unseen": False}

    def wanted(name):
        return not now["unseen"] and match(name, patterns)

    def tap(name, tensor):
        return see(name, tensor, now["t"], now["part"]) if wanted(name) else tensor

    with ExitStack() as stack:

        def hook(module, look, kind="forward_hook", **how):
            stack.callback(getattr(module, f"register_{kind}")(look, **how).remove)

        def wrap(
            owner, method, around
        ):  # on the one object, not on its class; its signature is kept, since pipelines ask for it
            before, old = vars(owner).get(method), getattr(owner, method)
            vars(owner)[method] = wraps(old)(partial(around, old))
            stack.callback(
                lambda: (
                    vars(owner).pop(method)
                    if before is None
                    else vars(owner).__setitem__(method, before)
                )
            )

        def attention(name, layer):
            kept, versions = {}, {}

            def project(
                to, linear, args, out
            ):  # `to`: to_q, to_k, to_v, or diffusers' fused to_qkv, to_kv
                if wanted(f"{name}.{to}.weight.delta") and parametrize.is_parametrized(
                    linear, "weight"
                ):
                    original, offset = (
                        linear.parametrizations.weight.original,
                        linear.parametrizations.weight[0],
                    )
                    version = [
                        (id(p), p._version) for p in offset.parameters()
                    ]  # kept again only when it has been trained
                    if changing or versions.get(to) != version:
                        versions[to], delta = (
                            version,
                            tap(f"{name}.{to}.weight.delta", offset.delta()),
                        )
                        if changing:
                            weight = original + delta * (
                                1 if isinstance(offset, AdditiveOffset) else original
                            )
                            out = F.linear(args[0], weight.to(out.dtype), linear.bias)
                for letter, x in zip(to[3:], parts := list(out.chunk(len(to) - 3, dim=-1))):
                    kept[letter] = tap(f"{name}.to_{letter}", x)
                return (
                    torch.cat([kept[letter] for letter in to[3:]], dim=-1)
                    if changing or len(parts) > 1
                    else out
                )

            def look(
                linear, args
            ):  # softmax(Q K^T / sqrt(d)): any processor has called to_q and to_k, and calls to_out with what it made of them
                q, k, v = (
                    kept[x].unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in "qkv"
                )  # (B, heads, N or T, d)
                weights = tap(
                    f"{name}.map",
                    (q.float() @ k.float().transpose(-1, -2) * layer.scale).softmax(-1),
                )  # (B, heads, N, T)
                return (
                    ((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2), *args[1:])
                    if changing
                    else None
                )

            fused = getattr(layer, "fused_projections", False)
            for to in (
                (("to_qkv",) if hasattr(layer, "to_qkv") else ("to_q", "to_kv"))
                if fused
                else ("to_q", "to_k", "to_v")
            ):
                if (
                    wanted(f"{name}.map")
                    or any(wanted(f"{name}.to_{letter}") for letter in to[3:])
                    or wanted(f"{name}.{to}.weight.delta")
                ):
                    hook(getattr(layer, to), partial(project, to))
            if wanted(f"{name}.map"):
                hook(layer.to_out[0], look, "forward_pre_hook")

        hook(base.text_encoder, lambda m, args, out: _first(out, partial(tap, "text.hidden")))
        for name, module in layers(base.unet).items():
            if ".attn" in name:
                attention(name, module)
            if wanted(name):
                hook(module, lambda m, args, out, name=name: _first(out, partial(tap, name)))

        def begin(
            unet, args, kwargs
        ):  # ours makes two passes a step, the empty prompt first; diffusers' pipeline one with both halves
            t = torch.as_tensor(args[1] if len(args) > 1 else kwargs["timestep"]).flatten().tolist()
            now["t"] = int(t[0]) if len(t) == 1 else tuple(t)
            if hasattr(type(model), "do_classifier_free_guidance"):
                now["part"] = (
                    "both" if getattr(model, "do_classifier_free_guidance", False) else "cond"
                )
            else:
                now["part"], now["passes"] = (
                    now["fixed"] or ("uncond", "cond")[now["passes"] % 2],
                    now["passes"] + 1,
                )

        def end(unet, args, out):
            part, now["part"] = now["part"], None
            if part == "both":
                return _first(
                    out,
                    lambda x: torch.cat(
                        [
                            tap(f"guidance.{kind}", half)
                            for kind, half in zip(("uncond", "cond"), x.chunk(2))
                        ]
                    ),
                )
            return _first(out, partial(tap, f"guidance.{part}")) if not now["fixed"] else None

        hook(base.unet, begin, "forward_pre_hook", with_kwargs=True)
        hook(base.unet, end)

        def step(old, prediction, t, sample, *args, **kwargs):
            times, now["passes"] = base.scheduler.timesteps.tolist(), 0
            if t == times[0] and not changing:
                tap(f"latent[{int(t)}]", sample)
            elif t == times[0] and f"latent[{int(t)}]" in patterns:
                raise ValueError(
                    f"latent[{int(t)}] is the noise that the drawing starts from, and nothing can change it from here: give another `seed`."
                )
            after = dict(zip(times, [*(int(x) for x in times[1:]), "end"])).get(float(t), "end")
            return _first(
                old(tap("guidance.prediction", prediction), t, sample, *args, **kwargs),
                partial(tap, f"latent[{after}]"),
            )

        wrap(base.scheduler, "step", step)

        def during(key, value, old, *args, **kwargs):
            before, now[key] = now[key], value
            try:
                return old(*args, **kwargs)
            finally:  # E4T's look at the features ends in the middle of the U-Net, where `end` is not reached
                now[key], now["part"] = before, None

        def embedding(old, view, features):
            if view.dim() == 3:
                view = torch.stack(
                    [tap(f"encoder.clip.cls[{i}]", view[:, i]) for i in range(view.shape[1])], dim=1
                )
            v, offset = old(view, tap("encoder.features", features))
            return tap("placeholder.embedding", v), offset

        def loss(old, *args, **kwargs):
            return {
                k: tap(f"loss.{k}", v) if v.dim() == 0 else v
                for k, v in old(*args, **kwargs).items()
            }

        if e4t:
            hook(e4t.encoder, lambda m, args, out: tap("encoder.offset", out))
            for method, around in {
                "embedding": embedding,
                "loss": loss,
                "predict": partial(during, "fixed", "cond"),
                "features": partial(during, "fixed", "features"),
                "before": partial(during, "unseen", True),
            }.items():  # what it said before it was trained is no part of what it says
                wrap(e4t, method, around)
        yield
