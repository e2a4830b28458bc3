"""The plots of views.py with handles, for a notebook (ipywidgets)."""

import io
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as w
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from .. import DATA
from ..base import Base
from ..helpers.checks import reason
from ..scaling.photos import open_photo
from ..world import DOMAINS, Scene, draw
from ..world.scenery import BACKGROUNDS, STYLES
from .trace import Trace
from .views import Settings, any_identity, avatar, limits, playground, plot_tensor, what_changed


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; it is closed then."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()


def faces() -> dict[str, Image.Image]:
    """The shipped held-out faces, {name: picture}."""
    return {path.stem: Image.open(path).copy() for path in sorted((DATA / "faces").glob("*.png"))}


def _redraw(picture: w.Image, message: w.HTML, plot: Callable[[], Figure]):
    """Put a new figure into the picture; or an error's sentence under it, and the old one stays."""
    try:
        picture.value = png(plot())
        message.value = ""
    except Exception as error:  # a widget that is left without a word looks as if it worked
        message.value = _told(error)


def _told(error: Exception) -> str:
    """An error's own sentence, or, of one that is not ours, its kind too; as HTML."""
    text = str(error) if isinstance(error, ValueError) else reason(error)
    return f"<b>{escape(text)}</b>"


class Explorer(w.VBox):
    """One tensor of a trace: choose its name, call (timestep), channel or head, and token.

    See `views.plot_tensor`.
    """

    def __init__(self, kept: Trace):
        self.kept = kept
        self.message = w.HTML()
        self.picture = w.Image(format="png")
        self.name = w.Dropdown(options=list(kept.kept), description="tensor")
        self.call = w.IntSlider(description="call", max=0)
        self.channel = w.IntSlider(description="channel", max=0)
        self.token = w.IntSlider(description="token", max=0)
        self.name.observe(self._choose, "value")
        for slider in (self.call, self.channel, self.token):
            slider.observe(self._draw, "value")
        first_line = w.HBox([self.name, self.call])
        second_line = w.HBox([self.channel, self.token])
        super().__init__([first_line, second_line, self.picture, self.message])
        self._choose()

    def _choose(self, change=None):
        name = self.name.value
        tensors = self.kept[name]
        channels, tokens = limits(tensors[0], name)
        self.channel.description = "head" if name.endswith(".map") else "channel"
        _set_count(self.call, len(tensors))
        _set_count(self.channel, channels)
        _set_count(self.token, tokens)
        self._draw()

    def _draw(self, change=None):
        _redraw(self.picture, self.message, self._plot)

    def _plot(self) -> Figure:
        place = (self.call.value, self.channel.value, self.token.value)
        return plot_tensor(self.kept, self.name.value, *place)


def _set_count(slider: w.IntSlider, count: int):
    slider.max = count - 1  # ipywidgets lowers a value that is now too high
    slider.disabled = count == 1


class AvatarBuilder(w.VBox):
    """Build a concept of the toy world word by word.

    `.identity`, `.scene`, `.image` and `.mask` are those of the picture.
    """

    def __init__(self, domain: str = "face"):
        self.picture = w.Image(format="png")
        self.message = w.HTML()
        self.domain = w.Dropdown(options=list(DOMAINS), value=domain, description="domain")
        backgrounds = list(BACKGROUNDS)
        self.background = w.Dropdown(options=backgrounds, value="white", description="background")
        self.style = w.Dropdown(options=list(STYLES), value="photo", description="style")
        self.size = w.Dropdown(options=["large", "small"], description="size")
        self.domain.observe(self._rebuild, "value")
        for handle in (self.background, self.style, self.size):
            handle.observe(self._draw, "value")
        super().__init__()
        self._rebuild()

    def _rebuild(self, change=None):
        """Handles for the words of the chosen domain."""
        domain = DOMAINS[self.domain.value]
        self.expression = w.Dropdown(options=list(domain.expressions), description="expression")
        self.words = {}
        for attribute, words in domain.attributes.items():
            name = attribute.replace("_", " ")
            self.words[attribute] = w.Dropdown(options=list(words), description=name)
        for handle in (self.expression, *self.words.values()):
            handle.observe(self._draw, "value")
        left = w.VBox([self.domain, *self.words.values()])
        scene = (self.background, self.style, self.size, self.expression)
        right = w.VBox([*scene, self.picture])
        self.children = [w.HBox([left, right]), self.message]
        self._draw()

    def _draw(self, change=None):
        words = {attribute: handle.value for attribute, handle in self.words.items()}
        self.identity = any_identity(self.domain.value, **words)
        self.scene = Scene(
            background=self.background.value,
            style=self.style.value,
            expression=self.expression.value,
            size=self.size.value,
        )
        self.image, _, self.mask = draw(self.identity, self.scene)
        _redraw(self.picture, self.message, self._plot)

    def _plot(self) -> Figure:
        return avatar(self.identity, self.scene)


class Playground(w.VBox):
    """Choose or upload a picture, press the button: it is learned, and drawn as the prompt says.

    All results are kept below. pictures: {name: picture} to choose from (default: the shipped
    faces).
    """

    def __init__(
        self,
        base: Base,
        pictures: dict[str, Image.Image] | None = None,
        weights: str | Path = DATA / "e4t-face",
    ):
        self.base = base
        self.weights = weights
        self.pictures = dict(pictures or faces())
        self.which = w.Dropdown(options=list(self.pictures), description="picture")
        self.upload = w.FileUpload(accept="image/*", description="upload")
        self.steps = w.IntSlider(5, 0, 30, description="steps")
        self.s = w.FloatSlider(0.1, min=0.0, max=0.5, step=0.05, description="s")
        self.guidance = w.FloatSlider(4.0, min=1.0, max=10.0, step=0.5, description="guidance")
        self.prompt = w.Text("a photo of S* on the beach", description="prompt")
        self.go = w.Button(description="learn and draw")
        self.progress = w.IntProgress(description="learning")
        self.message = w.HTML()
        self.gallery = w.VBox()
        self.upload.observe(self._take, "value")
        self.go.on_click(self._run)
        of_picture = w.HBox([self.which, self.upload])
        of_learning = w.HBox([self.steps, self.s, self.guidance])
        of_drawing = w.HBox([self.prompt, self.go, self.progress])
        super().__init__([of_picture, of_learning, of_drawing, self.message, self.gallery])

    def _take(self, change=None):
        """Put the uploaded pictures among those to choose from; say what is wrong with others."""
        said = []
        for file in self.upload.value:
            name = file["name"]
            try:
                picture, notes = open_photo(io.BytesIO(file["content"]), name=name)
            except Exception as error:
                said.append(_told(error))
                continue
            self.pictures[name] = picture
            self.which.options = list(self.pictures)
            self.which.value = name
            said += map(escape, notes)
        self.message.value = "<br>".join(said)

    def _settings(self) -> Settings:
        return Settings(
            prompts=(self.prompt.value,) * 3,
            steps=self.steps.value,
            s=self.s.value,
            guidance=self.guidance.value,
            weights=self.weights,
        )

    def _plot(self) -> Figure:
        picture = self.pictures[self.which.value]
        return playground(self.base, picture, None, self._settings(), self._advance)

    def _advance(self, steps: int):
        self.progress.value = steps

    def _run(self, button=None):
        self.go.disabled = True
        self.progress.value = 0
        self.progress.max = max(self.steps.value, 1)
        picture = w.Image(format="png")
        try:
            _redraw(picture, self.message, self._plot)
        finally:
            self.go.disabled = False
        if picture.value:
            newest = w.VBox([w.Label(self._caption()), picture])
            self.gallery.children = (newest, *self.gallery.children)

    def _caption(self) -> str:
        return (
            f"{self.which.value}: {self.steps.value} steps, s = {self.s.value}, "
            f'guidance {self.guidance.value}, "{self.prompt.value}"'
        )


class WhatChanged(Playground):
    """The same noise three times: base, domain's E4T, personalized E4T; see `views.what_changed`.

    The handles of the playground, less s.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.s.layout.display = "none"
        self.s.disabled = True

    def _settings(self) -> Settings:
        return Settings(
            prompts=(self.prompt.value,),
            steps=self.steps.value,
            guidance=self.guidance.value,
            weights=self.weights,
        )

    def _plot(self) -> Figure:
        picture = self.pictures[self.which.value]
        return what_changed(self.base, picture, None, self._settings(), self._advance)
