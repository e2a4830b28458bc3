"""E4T's phase 1 on one domain of the toy world: first the dictionary, then the paper's loss."""

import json
import time

import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from tqdm.auto import tqdm

from ..base import load_base
from ..encoder import ENCODERS
from ..model import E4T
from ..offsets import new_offsets
from ..world.scenery import rng_of
from ..train import conditioning_gap, learn_dictionary, prepare, pretrain
from ..world import Identity, Scene, caption, draw, identity
from ..training.data import pictures
from ..training.loop import bf16_is_faster


def domain_pictures(
    model: E4T, domain: str, split: str, count: int, seed: int, plain: float
) -> tuple[dict, list[dict]]:
    """Prepared pictures whose captions call the subject S* and name the scene, so that S* need not explain it."""
    rows = pictures(domain, split, count, seed, plain)
    prompts = [
        caption(Identity(**who), Scene(**where), rng_of("prompt", seed, i), model.placeholder.token)
        for i, (who, where) in enumerate(zip(rows["identities"], rows["scenes"]))
    ]
    return prepare(model, [Image.fromarray(x) for x in rows["images"]], prompts), rows["identities"]


def words_of(model: E4T, identities: list[dict]) -> torch.Tensor:
    """(n, D): the token embeddings of the celebrities' names, also for pictures whose caption did not say the name."""
    ids = model.placeholder.tokenizer.convert_tokens_to_ids(
        [who["name"] + "</w>" for who in identities]
    )
    return model.base.text_encoder.get_input_embeddings().weight[torch.tensor(ids)]


def fit(
    folder,
    domain: str = "face",
    steps: int = 200,
    dictionary_steps: int = 1000,
    seed: int = 0,
    encoder: str = "e4t",
    offsets: str = "multiplicative",
    blocks: int | None = None,
    s: float | None = None,
    weights: dict[str, float] | None = None,
    resume: bool = False,
):
    """encoder, offsets, weights: other kinds and further terms of the loss, to be measured against the paper's. blocks, s: of the paper's encoder, see `Encoder`.
    resume: go on from the dictionary that an earlier run has saved."""
    if encoder not in ENCODERS:
        raise ValueError(f"There is no encoder {encoder!r}; choose one of {', '.join(ENCODERS)}.")
    torch.manual_seed(seed)
    base, begun = load_base("toy"), time.time()
    given = {name: value for name, value in dict(blocks=blocks, s=s).items() if value is not None}
    model = E4T(
        base,
        domain,
        encoder=ENCODERS[encoder].for_base(base, **given),
        offsets=new_offsets(base.unet, offsets),
    )
    model.base.unet.set_attn_processor(
        AttnProcessor()
    )  # as in unet.py: faster in training on a CPU
    log = open(folder / "log.jsonl", "a")
    people = [
        identity(domain, "validation", i) for i in range(96)
    ]  # all in the same plain scene: the gap is about who they are, and nothing else
    validation = prepare(
        model,
        [draw(one, Scene())[0] for one in people],
        [caption(one, Scene(), subject=model.placeholder.token) for one in people],
    )

    def report(phase, step, **numbers):
        row = {
            "phase": phase,
            "step": step,
            "seconds": round(time.time() - begun),
            **{k: round(v, 4) for k, v in numbers.items()},
        }
        log.write(json.dumps(row) + "\n"), log.flush(), tqdm.write(json.dumps(row))
        return row

    # without the cache: autocast would go on using the half-precision copies of weights that an optimizer has changed since
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_faster(), cache_enabled=False):
        if resume:
            rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            rows, begun = (
                [row for row in rows if row["phase"] != "pretrain"],
                begun - rows[-1]["seconds"],
            )
            model = E4T(
                base,
                domain,
                encoder=E4T.from_pretrained(folder / "dictionary", base).encoder,
                offsets=model.offsets,
            )
        elif dictionary_steps == 0:
            rows = [report("start", 0, gap=conditioning_gap(model, validation))]
        else:
            celebrities, who = domain_pictures(model, domain, "named", 8000, 1, 0.8)
            rows = [report("start", 0, gap=conditioning_gap(model, validation))]
            loop = learn_dictionary(
                model, celebrities, words_of(model, who), dictionary_steps, seed=seed
            )
            for state in tqdm(loop, total=dictionary_steps, desc="dictionary", mininterval=10):
                if (state["step"] + 1) % 250 == 0:
                    rows.append(
                        report(
                            "dictionary",
                            state["step"] + 1,
                            gap=conditioning_gap(model, validation),
                            loss=state["loss"].item(),
                        )
                    )
            model.save_pretrained(
                folder / "dictionary"
            )  # so that `e4t evaluate --weights` can tell what the paper's loss adds
        pictures_of_train, _ = domain_pictures(model, domain, "train", 6000, 1, 0.5)
        loop = pretrain(
            model, pictures_of_train, steps, seed=seed, validation=validation, **(weights or {})
        )
        for state in tqdm(loop, total=steps, desc="pretrain", mininterval=10):
            if state["gap"] is not None:
                rows.append(
                    report(
                        "pretrain",
                        state["step"] + 1,
                        gap=state["gap"],
                        loss=state["terms"]["loss"].item(),
                        l2=state["terms"]["l2"].item(),
                    )
                )
    command = f"python -m e4t_minimal.training e4t --domain {domain} --steps {steps} --dictionary-steps {dictionary_steps} --seed {seed}"
    command += f" --encoder {encoder}" * (encoder != "e4t") + f" --offsets {offsets}" * (
        offsets != "multiplicative"
    )
    command += "".join(f" --{name} {value}" for name, value in given.items())
    command += "".join(f" --extra {name}={weight}" for name, weight in (weights or {}).items())
    model.save_pretrained(
        folder / "model", command=command, seed=seed, seconds=round(time.time() - begun)
    )
    return {"command": command, "seconds": round(time.time() - begun), "rows": rows}
