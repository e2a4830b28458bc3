"""Views with handles, for a notebook (ipywidgets). Each is one function that returns a widget; what it shows is a plain function of views.py."""

import io
from html import escape
from pathlib import Path

import ipywidgets as w
import matplotlib.pyplot as plt
from PIL import Image

from .. import DATA
from ..base import Base
from ..scaling.photos import open_photo
from ..world.scenery import BACKGROUNDS, STYLES
from ..inspection.trace import Trace
from ..inspection.views import any_identity, avatar, limits, look, playground, what_changed
from ..world import DOMAINS, Scene, draw


def png(figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    return out.getvalue()


def faces() -> dict[str, Image.Image]:
    """The shipped held-out faces, {name: picture}."""
    return {path.stem: Image.open(path).copy() for path in sorted((DATA / "faces").glob("*.png"))}


def _show(picture: w.Image, message: w.HTML, figure_of):
    """Put the figure into the picture; an error's sentence under it, and the old picture stays."""
    try:
        picture.value, message.value = png(figure_of()), ""
    except ValueError as error:
        message.value = f"<b>{escape(str(error))}</b>"


class Explorer(w.VBox):
    """Choose a tensor of a trace, a call (timestep), a channel or head, a token: see its heat map, its histogram, its norm over time."""

    def __init__(self, kept: Trace):
        self.kept, self.message, self.picture = kept, w.HTML(), w.Image(format="png")
        self.name = w.Dropdown(options=list(kept.kept), description="tensor")
        self.call, self.channel, self.token = (
            w.IntSlider(description=text, max=0) for text in ("call", "channel", "token")
        )
        self.name.observe(self._choose, "value")
        for slider in (self.call, self.channel, self.token):
            slider.observe(self._draw, "value")
        super().__init__(
            [
                w.HBox([self.name, self.call]),
                w.HBox([self.channel, self.token]),
                self.picture,
                self.message,
            ]
        )
        self._choose()

    def _choose(self, _=None):
        found = self.kept[self.name.value]
        self.channel.description = "head" if self.name.value.endswith(".map") else "channel"
        for slider, count in zip(
            (self.call, self.channel, self.token), (len(found), *limits(found[0], self.name.value))
        ):
            slider.max, slider.disabled = (
                count - 1,
                count == 1,
            )  # ipywidgets lowers a value that is now too high
        self._draw()

    def _draw(self, _=None):
        _show(
            self.picture,
            self.message,
            lambda: look(
                self.kept, self.name.value, self.call.value, self.channel.value, self.token.value
            ),
        )


class AvatarBuilder(w.VBox):
    """Build a concept of the toy world word by word. `.identity`, `.image` and `.mask` are what it shows now."""

    def __init__(self, domain: str = "face"):
        self.picture, self.message = w.Image(format="png"), w.HTML()
        self.domain = w.Dropdown(options=list(DOMAINS), value=domain, description="domain")
        self.background, self.style, self.size = (
            w.Dropdown(options=list(o), description=d, value=v)
            for d, o, v in (
                ("background", BACKGROUNDS, "white"),
                ("style", STYLES, "photo"),
                ("size", ("large", "small"), "large"),
            )
        )
        self.domain.observe(self._rebuild, "value")
        for handle in (self.background, self.style, self.size):
            handle.observe(self._draw, "value")
        super().__init__()
        self._rebuild()

    def _rebuild(self, _=None):
        domain = DOMAINS[self.domain.value]
        self.expression = w.Dropdown(options=list(domain.expressions), description="expression")
        self.words = {
            attribute: w.Dropdown(options=list(words), description=attribute.replace("_", " "))
            for attribute, words in domain.attributes.items()
        }
        for handle in (self.expression, *self.words.values()):
            handle.observe(self._draw, "value")
        left = w.VBox([self.domain, *self.words.values()])
        self.children = [
            w.HBox(
                [
                    left,
                    w.VBox([self.background, self.style, self.size, self.expression, self.picture]),
                ]
            ),
            self.message,
        ]
        self._draw()

    def _draw(self, _=None):
        self.identity = any_identity(
            self.domain.value,
            **{attribute: handle.value for attribute, handle in self.words.items()},
        )
        self.scene = Scene(
            self.background.value, self.style.value, self.expression.value, self.size.value
        )
        self.image, _, self.mask = draw(self.identity, self.scene)
        _show(self.picture, self.message, lambda: avatar(self.identity, self.scene))


class Playground(w.VBox):
    """Pick a picture or upload one, choose steps, s, prompt and guidance, press the button: it learns the picture, draws, and keeps all results below.

    pictures: {name: picture} to choose from (default: the shipped faces)."""

    def __init__(
        self,
        base: Base,
        pictures: dict[str, Image.Image] | None = None,
        weights: str | Path = DATA / "e4t-face",
    ):
        self.base, self.weights, self.pictures = base, weights, dict(pictures or faces())
        self.which = w.Dropdown(options=list(self.pictures), description="picture")
        self.upload = w.FileUpload(accept="image/*", description="upload")
        self.steps = w.IntSlider(5, 0, 30, description="steps")
        self.s = w.FloatSlider(0.1, min=0.0, max=0.5, step=0.05, description="s")
        self.guidance = w.FloatSlider(4.0, min=1.0, max=10.0, step=0.5, description="guidance")
        self.prompt = w.Text("a photo of S* on the beach", description="prompt")
        self.go, self.progress = (
            w.Button(description="learn and draw"),
            w.IntProgress(description="learning"),
        )
        self.message, self.gallery = w.HTML(), w.VBox()
        self.upload.observe(self._take, "value")
        self.go.on_click(self._run)
        super().__init__(
            [
                w.HBox([self.which, self.upload]),
                w.HBox([self.steps, self.s, self.guidance]),
                w.HBox([self.prompt, self.go, self.progress]),
                self.message,
                self.gallery,
            ]
        )

    def _take(self, _=None):
        for file in self.upload.value:
            try:
                self.pictures[file["name"]], notes = open_photo(
                    io.BytesIO(file["content"]), name=file["name"]
                )
            except ValueError as error:
                self.message.value = f"<b>{escape(str(error))}</b>"
                return
            self.which.options, self.message.value = list(self.pictures), escape("; ".join(notes))
            self.which.value = file["name"]

    def _figure(self):
        return playground(
            self.base,
            self.pictures[self.which.value],
            steps=self.steps.value,
            s=self.s.value,
            prompt=self.prompt.value,
            guidance=self.guidance.value,
            weights=self.weights,
            progress=lambda step: setattr(self.progress, "value", step),
        )

    def _run(self, _=None):
        self.go.disabled, self.progress.value, self.progress.max = True, 0, max(self.steps.value, 1)
        picture = w.Image(format="png")
        try:
            _show(picture, self.message, self._figure)
        finally:
            self.go.disabled = False
        if picture.value:
            text = w.Label(
                f'{self.which.value}: {self.steps.value} steps, s = {self.s.value}, guidance {self.guidance.value}, "{self.prompt.value}"'
            )
            self.gallery.children = (
                w.VBox([text, picture]),
                *self.gallery.children,
            )  # the newest first


class WhatChanged(Playground):
    """The same noise three times: base, domain-tuned, personalized. The handles of the playground, less s."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.s.layout.display = "none"
        self.s.disabled = True

    def _figure(self):
        return what_changed(
            self.base,
            self.pictures[self.which.value],
            prompts=[self.prompt.value],
            steps=self.steps.value,
            guidance=self.guidance.value,
            weights=self.weights,
            progress=lambda step: setattr(self.progress, "value", step),
        )
