"""E4T: a base model, S*, the encoder and the weight offsets, tied together by one loss."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import torch
from PIL import Image

from .base import Base
from .encoder import ENCODERS, Encoder, encoder_half
from .helpers import checks
from .helpers.hooking import ONE_AT_A_TIME, check_hookable
from .helpers.pictures import square
from .helpers.stored import StoredModel, damaged, kind_of, read_model, rebuild, write_model
from .offsets import add_offsets, attached_offsets, fold, remove_offsets, unfold
from .placeholder import Placeholder
from .regularizers import TERMS


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures with their prompts, as the loss wants them."""

    latents: torch.Tensor  # (B, C, h, w), scaled
    image_features: torch.Tensor  # (B, ...): what the encoder sees of the pictures
    ids: torch.Tensor  # (B, T): token numbers of the prompts
    mask: torch.Tensor | None = None  # (B, 1, h, w) in [0, 1], 1 on the subject
    initial: torch.Tensor | None = None  # (B, C, h, w): what the U-Net predicted at the start
    words: torch.Tensor | None = None  # (B, D): embeddings of their names, for the dictionary

    def __post_init__(self):
        checks.as_many(**vars(self))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, indices: torch.Tensor) -> "Batch":
        fields = {name: value for name, value in vars(self).items() if value is not None}
        return Batch(**{name: value[indices] for name, value in fields.items()})

    def replace(self, **changes) -> "Batch":
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything on the way from noisy pictures to what the U-Net says of them."""

    target: torch.Tensor  # (B, C, h, w): what the U-Net should say
    embedding: torch.Tensor  # (B, D): v* = v_class + s E
    offset: torch.Tensor  # (B, D): s E, the offset of the word (`E4T.offsets`: of weights)
    hidden: torch.Tensor  # (B, T, D): the prompts, as the text encoder says them
    noise_prediction: torch.Tensor  # (B, C, h, w): what the U-Net says, noise or v (the toy: v)


class E4T:
    """One domain's E4T on one base.

    Its offsets live on `base.unet` until `detach()`. A new E4T on the same base takes the old one's
    place; using the old one then raises ValueError.

    class_word: the domain's coarse word ("face").
    encoder, offsets: the paper's, new, unless given (see ENCODERS and `new_offsets`).
    picture: the concept's picture, once it has been personalized.
    """

    def __init__(
        self,
        base: Base,
        class_word: str,
        token: str = "S*",
        encoder: torch.nn.Module | None = None,
        offsets: dict[str, torch.nn.Module] | None = None,
        picture: Image.Image | None = None,
    ):
        self.base = base
        self.picture = picture
        self.placeholder = Placeholder(base, class_word, token)
        self.encoder = (encoder or Encoder.for_base(base)).to(base.device).eval()
        _check_widths(self.encoder, base)
        # (1, T, D): what the text encoder says of the empty prompt
        self.empty = self.placeholder.encode(self.placeholder.tokenize([""], required=False))
        self.offsets = add_offsets(base.unet, offsets)  # last: it changes the base

    def parts(self) -> dict[str, list[torch.nn.Parameter]]:
        """What E4T trains: the parameters of {"encoder", "offsets"}."""
        of_offsets = [p for offset in self.offsets.values() for p in offset.parameters()]
        return {"encoder": list(self.encoder.parameters()), "offsets": of_offsets}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for part in self.parts().values() for p in part]

    def fold(self):
        """Replace every offset by its rank-3 form: the same Delta, in 3 (n + m) numbers."""
        self.check_attached()
        self.offsets = add_offsets(self.base.unet, fold(self.offsets))

    def detach(self) -> Base:
        """Take the offsets off the base, which is then as it was."""
        if self.attached:
            remove_offsets(self.base.unet)
        return self.base

    @property
    def attached(self) -> bool:
        """Whether the offsets that hang on the base are this model's."""
        hanging = attached_offsets(self.base.unet)
        if set(hanging) != set(self.offsets):
            return False
        return all(hanging[name] is offset for name, offset in self.offsets.items())

    def check_attached(self):
        """ValueError if it is not, or if the base passes hooks by."""
        check_hookable(text_encoder=self.base.text_encoder)
        if not self.attached:
            raise ValueError(
                "This E4T's offsets no longer hang on its base: it was detached, or another E4T "
                "took its place. Make or load it again; for two at once, load a base for each."
            )

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the encoder sees of pictures (B, 3, H, W) in [-1, 1]: for CLIP (B, L/2, width)."""
        return self.encoder.image_features(self.base, pixels)

    def unet_features(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The U-Net's features (B, all blocks) of z_t (B, C, h, w), with the empty prompt.

        Offsets are on, gradients are not; (B, 0) for an encoder that does not look at the noise.
        """
        self.check_attached()
        if not self.encoder.sees_noise:
            return z_t.new_zeros(len(z_t), 0)
        with ONE_AT_A_TIME:  # its hooks stop the U-Net half-way
            return encoder_half(self.base, z_t, t, self.empty.expand(len(z_t), -1, -1))

    def embedding(
        self, image_features: torch.Tensor, unet_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """v* = v_class + s E (B, D), and s E alone (B, D), from both sides' features."""
        tap = self.base.tap
        image_features = tap("encoder.clip.cls", image_features)
        unet_features = tap("encoder.features", unet_features)
        offset = self.encoder(image_features.float(), unet_features.float())
        offset = tap("encoder.offset", offset)
        v = tap("placeholder.embedding", self.placeholder.class_embedding + offset)
        return v, offset

    def predict(
        self,
        batch: Batch,
        noise: torch.Tensor,
        t: torch.Tensor,
        image_features: torch.Tensor | None = None,
    ) -> Prediction:
        """One pass over noisy pictures: noise (B, C, h, w), timesteps t (B,).

        image_features: of others, to put somebody else behind S* (default: the batch's own).
        """
        if image_features is None:
            image_features = batch.image_features
        z_t, target = self.base.add_noise(batch.latents, noise, t)
        with ONE_AT_A_TIME:  # two threads share the hooks that put S* in
            v, offset = self.embedding(image_features, self.unet_features(z_t, t))
            hidden = self.placeholder.encode(batch.ids, v)
            noise_prediction = self.base.predict(z_t, t, hidden)
        return Prediction(target, v, offset, hidden, noise_prediction)

    def loss(
        self,
        batch: Batch,
        noise: torch.Tensor,
        t: torch.Tensor,
        weights: dict[str, float],
        image_features: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """{"diffusion", every term of `weights`, "total"}: scalars.

        total = diffusion + the sum of weight * term. Re-implementations have {"l2": 0.01} in
        pretraining and {"l2": 0.1} on one picture. ValueError for a term that TERMS does not have.
        """
        for name in weights:
            checks.choice("term of the loss", name, TERMS)
        prediction = self.predict(batch, noise, t, image_features)
        losses = {"diffusion": _diffusion_loss(prediction, batch.mask)}
        losses |= {name: TERMS[name](self, batch, prediction) for name in weights}
        regularization = sum(weight * losses[name] for name, weight in weights.items())
        losses["total"] = losses["diffusion"] + regularization
        return {name: self.base.tap(f"loss.{name}", value) for name, value in losses.items()}

    def save_pretrained(self, folder: str | Path, **card):
        """Write e4t.json, encoder.safetensors (fp16), offsets.safetensors (folded) and the picture.

        In an E4T folder these files are replaced, and what else lies in it stays; any other folder
        is refused with ValueError. card: more entries for e4t.json, such as the seed.
        """
        config = {
            "base": self.base.name,
            "vision": self.base.vision_name,
            "resolution": self.base.resolution,
            "class_word": self.placeholder.class_word,
            "token": self.placeholder.token,
            "encoder": {"kind": kind_of(self.encoder, ENCODERS)} | asdict(self.encoder.config),
        }
        encoder = {name: tensor.half() for name, tensor in self.encoder.state_dict().items()}
        offsets = {
            f"{name}.{side}": tensor
            for name, offset in fold(self.offsets).items()
            for side, tensor in offset.state_dict().items()
        }
        picture = self.picture
        if picture is not None:  # what the model sees of it, not a whole photo
            picture = square(picture, self.base.resolution, keep_transparency=True)
        write_model(folder, StoredModel(config, encoder, offsets, picture), **card)

    @classmethod
    def from_pretrained(cls, folder: str | Path, base: Base) -> "E4T":
        """Read what `save_pretrained` wrote; ValueError if damaged, or not as wide as the base."""
        stored = read_model(folder)
        config = stored.config
        try:
            encoder = rebuild(config["encoder"], stored.encoder, ENCODERS)
            offsets = unfold(stored.offsets)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise damaged(folder, error) from None
        _check_vision(folder, config, base)
        return cls(base, config["class_word"], config["token"], encoder, offsets, stored.picture)


def _diffusion_loss(prediction: Prediction, mask: torch.Tensor | None) -> torch.Tensor:
    """Squared error, with a mask (B, 1, h, w) over the subject only -> scalar."""
    error = (prediction.noise_prediction.float() - prediction.target.float()).square()
    if mask is not None:  # each picture counts alike, however much of it the subject fills
        error = error * mask / mask.mean(dim=(1, 2, 3), keepdim=True)
    return error.mean()


def _check_vision(folder: Path, config: dict, base: Base):
    if config.get("vision") != base.vision_name:
        raise ValueError(
            f"{folder} was made with the vision tower {config.get('vision') or 'of its base'!r}, "
            f"this base has {base.vision_name or 'its own'!r}. Load a base with that one."
        )


def _check_widths(encoder: torch.nn.Module, base: Base):
    """ValueError if the encoder was made for another base; one of no known kind may be anything."""
    if hasattr(encoder, "config_for"):
        chosen = [field.name for field in fields(encoder.config) if field.default is not MISSING]
        own_choices = {name: getattr(encoder.config, name) for name in chosen}
        if encoder.config != encoder.config_for(base, **own_choices):
            raise ValueError(
                f"The encoder was made for a base of other widths than {base.name!r}. Load it with "
                "the base it was made for, or make one with `for_base`."
            )
