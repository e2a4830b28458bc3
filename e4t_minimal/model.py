"""E4T: a base model, S*, the encoder and the weight offsets, tied together by one loss."""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .base import Base, square
from .encoder import ENCODERS, Encoder, encoder_half
from .files import filling
from .offsets import add_offsets, attention_projections, fold, remove_offsets, unfold
from .placeholder import Placeholder
from .regularizers import contrastive, embedding_l2, outside_change, sparsity_l1, weight_cosine

FILES = ("e4t.json", "encoder.safetensors", "offsets.safetensors", "picture.png")


class E4T:
    """One domain's E4T on one base. Its offsets live on `base.unet` until `detach()`; a new E4T on the same base takes the old one's place.

    class_word: the domain's coarse word ("face"). encoder, offsets: the paper's, new, unless given (one of ENCODERS; `new_offsets`).
    picture: the concept's picture, once it has been personalized.
    """

    def __init__(
        self,
        base: Base,
        class_word: str,
        token: str = "S*",
        encoder: torch.nn.Module | None = None,
        offsets: dict | None = None,
        picture: Image.Image | None = None,
    ):
        self.base, self.picture = base, picture
        self.placeholder = Placeholder(base, class_word, token)
        self.encoder = (encoder or Encoder.for_base(base)).to(base.device).eval()
        self.offsets = add_offsets(base.unet, offsets)
        self.empty = base.text_encoder(
            self.placeholder.tokenize([""], required=False)
        ).last_hidden_state  # (1, T, D)

    def parts(self) -> dict[str, list]:
        """What E4T trains: the parameters of {"encoder", "offsets"}."""
        return {
            "encoder": list(self.encoder.parameters()),
            "offsets": [p for offset in self.offsets.values() for p in offset.parameters()],
        }

    def parameters(self) -> list:
        return sum(self.parts().values(), [])

    def fold(self):
        """Replace every offset by its rank-3 form: the same Delta, in 3 (n + m) numbers."""
        folded = fold(self.offsets)
        remove_offsets(self.base.unet)
        self.offsets = add_offsets(self.base.unet, folded)

    def detach(self) -> Base:
        """Take the offsets off the base, which is then as it was."""
        remove_offsets(self.base.unet)
        return self.base

    def embedding(
        self, view: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's view of pictures, as CLIP's (B, L/2, width), and the U-Net's features (B, width) -> v* = v_class + s E (B, D), and s E alone (B, D)."""
        offset = self.encoder(view.float(), features.float())
        return self.placeholder.class_embedding + offset, offset

    def features(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The U-Net's view of z_t (B, C, h, w) under the empty prompt, offsets on -> (B, width). No gradients."""
        if not self.encoder.sees_noise:
            return z_t.new_zeros(len(z_t), 0)
        return encoder_half(self.base.unet, z_t, t, self.empty.expand(len(z_t), -1, -1))

    def predict(
        self, data: dict, noise: torch.Tensor, t: torch.Tensor, view: torch.Tensor | None = None
    ) -> dict:
        """One look at noisy pictures: what the U-Net should say and what it says, with S* from `view` (default: the pictures' own)."""
        z_t, target = self.base.noisy(data["latents"], noise, t)
        v, offset = self.embedding(data["view"] if view is None else view, self.features(z_t, t))
        hidden = self.placeholder.encode(data["ids"], v)
        prediction = self.base.unet(z_t, t, hidden).sample
        return {
            "z_t": z_t,
            "target": target,
            "embedding": v,
            "offset": offset,
            "hidden": hidden,
            "prediction": prediction,
        }

    @torch.no_grad()
    def before(
        self,
        learned: list[torch.nn.Parameter],
        start: list[torch.Tensor] | None,
        data: dict,
        noise: torch.Tensor,
        t: torch.Tensor,
    ) -> dict:
        """{"before": what the U-Net said, (B, C, h, w), when `learned` were still what they were at the `start`}; {} without a start."""
        if start is None:
            return {}
        for p, value in zip(learned, start):
            p.data, value.data = value.data, p.data
        try:
            return {"before": self.predict(data, noise, t)["prediction"]}
        finally:
            for p, value in zip(learned, start):
                p.data, value.data = value.data, p.data

    def loss(
        self,
        data: dict,
        noise: torch.Tensor,
        t: torch.Tensor,
        weights: dict[str, float],
        view: torch.Tensor | None = None,
    ) -> dict:
        """Diffusion loss + the sum of weight * regularizer; the paper's weights are {"l2": 0.01} and, on one picture, {"l2": 0.1}.

        data: latents (B, C, h, w), view, ids (B, T), mask (B, 1, h, w) or None; for the term "outside", 0 without it, also before (B, C, h, w), an earlier prediction.
        Other names: contrastive, sparsity, cosine."""
        seen = self.predict(data, noise, t, view)
        error = (seen["prediction"].float() - seen["target"].float()).square()
        if data.get("mask") is not None:  # the loss looks at the subject only
            error = (
                error * data["mask"] / data["mask"].mean(dim=(1, 2, 3), keepdim=True)
            )  # each picture counts alike, however much of it the subject fills
        regularizers = {
            "l2": lambda: embedding_l2(seen["offset"]),
            "outside": lambda: (
                outside_change(seen["prediction"], data["before"], data["mask"])
                if "before" in data
                else error.new_zeros(())
            ),
            "contrastive": lambda: contrastive(
                seen["embedding"], self._prompt_embeddings(data["ids"], seen["hidden"])
            ),
            "sparsity": lambda: sparsity_l1([offset.delta() for offset in self.offsets.values()]),
            "cosine": lambda: weight_cosine(
                *zip(
                    *(
                        (w.parametrizations.weight.original, w.weight)
                        for w in attention_projections(self.base.unet).values()
                    )
                )
            ),
        }
        if unknown := set(weights) - set(regularizers):
            raise ValueError(
                f"The loss has no term {', '.join(map(repr, sorted(unknown)))}; its terms are {', '.join(regularizers)}."
            )
        terms = {"diffusion": error.mean()} | {name: regularizers[name]() for name in weights}
        return (
            seen
            | terms
            | {
                "loss": terms["diffusion"]
                + sum(weight * terms[name] for name, weight in weights.items())
            }
        )

    def _prompt_embeddings(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T) and (B, T, D) -> (B, D): what the text encoder says at the end of each prompt."""
        ends = (ids == self.base.tokenizer.eos_token_id).int().argmax(-1)  # (B,)
        return hidden[torch.arange(len(ends)), ends]

    def save_pretrained(self, folder: str | Path, **card):
        """Write e4t.json, encoder.safetensors (fp16), offsets.safetensors (folded) and the picture: beside, then moved into place.

        In an E4T folder these files are replaced, and what else lies in it stays; any other folder is refused with ValueError."""
        config = {
            "base": self.base.name,
            "vision": self.base.tower,
            "resolution": self.base.resolution,
            "class_word": self.placeholder.class_word,
            "token": self.placeholder.token,
            "encoder": {"kind": _kind(self.encoder)} | self.encoder.config,
        } | card
        sides = {
            f"{name}.{side}": tensor.detach().contiguous().cpu()
            for name, offset in fold(self.offsets).items()
            for side, tensor in offset.state_dict().items()
        }
        with filling(check_target(folder), FILES) as new:
            save_file(
                {k: v.half().contiguous().cpu() for k, v in self.encoder.state_dict().items()},
                new / "encoder.safetensors",
            )
            save_file(sides, new / "offsets.safetensors")
            (new / "e4t.json").write_text(json.dumps(config, indent=2) + "\n")
            if self.picture is not None:
                square(self.picture, self.base.resolution, self.picture.mode).save(
                    new / "picture.png"
                )  # what the model sees of it, not a whole photo

    @classmethod
    def from_pretrained(cls, folder: str | Path, base: Base) -> "E4T":
        """Read what `save_pretrained` wrote. ValueError if the folder is missing, foreign, damaged, or belongs to another base."""
        folder, config = Path(folder), read_config(folder)
        try:
            options = {"kind": "e4t"} | config["encoder"]
            encoder = ENCODERS[options.pop("kind")](**options)
            encoder.load_state_dict(
                {k: v.float() for k, v in load_file(folder / "encoder.safetensors").items()}
            )
            offsets = unfold(load_file(folder / "offsets.safetensors"))
            picture = (
                Image.open(folder / "picture.png").copy()
                if (folder / "picture.png").exists()
                else None
            )
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{folder} is damaged ({type(error).__name__}: {str(error).splitlines()[0][:120]}). Make or download it again."
            ) from None
        if (
            encoder.config
            != type(encoder)
            .for_base(
                base, **{k: v for k, v in encoder.config.items() if k in ("blocks", "width", "s")}
            )
            .config
        ):
            raise ValueError(
                f"{folder} was made for the base {config.get('base')!r}; {base.name!r} has other widths. Load it with the base it was made for."
            )
        if config.get("vision") != base.tower:
            raise ValueError(
                f"{folder} was made with the vision tower {config.get('vision')!r}, this base has {base.tower!r}. Load the base with `vision=` that one."
            )
        return cls(base, config["class_word"], config["token"], encoder, offsets, picture)


def _kind(encoder: torch.nn.Module) -> str:
    return next(kind for kind, one in ENCODERS.items() if type(encoder) is one)


def read_config(folder: str | Path) -> dict:
    """What e4t.json says: base, class_word, token, encoder; ValueError if the folder is not an E4T."""
    try:
        config = json.loads((Path(folder) / "e4t.json").read_text())
        return {name: config[name] for name in ("base", "class_word", "token", "encoder")} | config
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} is not an E4T folder (no readable e4t.json). Make one with `e4t personalize`, or use data_samples/e4t-face."
        ) from None


def check_target(folder: str | Path) -> Path:
    """The folder's absolute path if an E4T may be written there; ValueError otherwise."""
    folder = Path(folder).resolve()
    foreign = (
        folder.exists()
        and not (folder / "e4t.json").exists()
        and (not folder.is_dir() or any(folder.iterdir()))
    )
    if folder == Path.cwd() or foreign:
        raise ValueError(
            f"{folder} exists and is not an E4T folder of its own; nothing was written. Choose another name."
        )
    return folder
