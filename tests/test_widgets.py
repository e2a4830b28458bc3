"""The views draw what they say, and the widgets follow their handles."""

import io
from datetime import datetime
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from e4t_minimal import DATA
from e4t_minimal.inspection.plots import gallery, grid
from e4t_minimal.inspection.trace import trace
from e4t_minimal.inspection.views import (
    Settings,
    any_identity,
    avatar,
    plane,
    playground,
    plot_tensor,
    what_changed,
)
from e4t_minimal.inspection.widgets import AvatarBuilder, Explorer, Playground, WhatChanged, faces
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attached_offsets
from e4t_minimal.sample import sample, sample_steps
from e4t_minimal.world import DOMAINS, Scene, draw, identity


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Pictures in three denoising steps, so that tests need not wait."""
    monkeypatch.setattr("e4t_minimal.inspection.views.sample", partial(sample, steps=3))


@pytest.fixture(scope="module")
def kept(base):
    asked = (
        "*.attn2*.map",
        "unet.mid",
        "latent*",
        "guidance.*",
        "text.hidden",
        "*mid*.delta",
        "placeholder.*",
        "unet.mid.attn1",
    )
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    with trace(model, asked) as t:
        list(sample_steps(model, ["a photo of S*"], faces()["face-00"], steps=3))
    model.detach()
    return t


def pixels(data: bytes):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def uploaded(name, picture, kind="PNG"):
    """What the browser sends for one picture, or for bytes that are none."""
    file = io.BytesIO()
    if isinstance(picture, bytes):
        file.write(picture)
    else:
        picture.save(file, kind)
    return {
        "name": name,
        "type": "image/*",
        "size": file.tell(),
        "content": memoryview(file.getvalue()),
        "last_modified": datetime.now(),
    }


def test_every_tensor_can_be_plotted(kept):
    for name in kept.kept:
        figure = plot_tensor(kept, name, call=len(kept[name]) - 1)
        assert isinstance(figure, Figure)
        assert len(figure.axes) >= 3
        plt.close(figure)
    weights = kept["unet.mid.attn2.map"][1]
    shown = plane(weights, "unet.mid.attn2.map", channel=2, token=4)
    assert shown.shape == (4, 4)
    assert (shown.flatten() == weights[0, 2, :, 4]).all()
    with pytest.raises(ValueError, match="kept were"):
        plot_tensor(kept, "unet.nowhere")


def test_explorer_follows_its_handles(kept):
    one = Explorer(kept)
    one.name.value = "unet.up.2.attn2[0].map"
    assert one.channel.description == "head"
    assert one.token.max == kept["unet.up.2.attn2[0].map"][0].shape[-1] - 1
    pictures = [pixels(one.picture.value)]
    for slider, value in ((one.call, 3), (one.channel, 1), (one.token, 4)):
        slider.value = value
        pictures.append(pixels(one.picture.value))
    for last, following in zip(pictures, pictures[1:], strict=False):
        assert (last != following).any()
    one.name.value = "latent[end]"
    assert one.call.disabled
    assert one.call.value == 0
    assert one.channel.description == "channel"
    assert not one.message.value


def test_gallery_and_grid_show_every_picture():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    figure = gallery(red, {"one": [blue, red], "two": [red]}, ["a {}", "b"])
    assert sum(bool(axis.images) for axis in figure.axes) == 4
    figure = grid([red, np.zeros((4, 4)), blue], ["x", "y", "z"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["x", "y", "z", ""]
    assert sum(bool(axis.images) for axis in figure.axes) == 3


def test_avatar_builder_builds_what_the_world_draws():
    one = AvatarBuilder("face")
    at_first = pixels(one.picture.value)
    attribute = next(name for name, handle in one.words.items() if len(handle.options) > 2)
    word = one.words[attribute].options[-1]
    one.words[attribute].value = word
    one.background.value = "beach"
    assert (pixels(one.picture.value) != at_first).any()
    assert one.identity.attributes[attribute] == word
    scene = Scene(background="beach", expression=one.expression.value)
    assert one.image.tobytes() == draw(one.identity, scene)[0].tobytes()
    one.domain.value = "robot"
    assert one.identity.domain == "robot"
    assert set(one.words) == set(DOMAINS["robot"].attributes)
    assert not one.message.value
    assert isinstance(avatar(identity("critter", "train", 0)), Figure)


def test_an_identity_needs_words_of_its_domain():
    with pytest.raises(ValueError, match="no attribute of a face 'wings'; choose one of skin"):
        any_identity("face", wings="two")
    with pytest.raises(ValueError, match="no skin 'transparent'; choose one of"):
        any_identity("face", skin="transparent")
    with pytest.raises(ValueError, match="no domain 'house'; choose one of face"):
        any_identity("house")


def test_playground_learns_shows_progress_and_keeps_results(base):
    one = Playground(base)
    one.steps.value = 2
    one.prompt.value = "a photo of S*"
    seen = []
    one.progress.observe(lambda change: seen.append(change.new), "value")
    one.go.click()
    one.s.value = 0.0
    one.go.click()
    assert seen[:2] == [1, 2]
    assert one.progress.max == 2
    assert not one.go.disabled
    assert len(one.gallery.children) == 2
    newest, first = (pixels(box.children[1].value) for box in one.gallery.children)
    assert (newest != first).any()
    assert not attached_offsets(base.unet)  # the base is as it was


def test_playground_takes_uploads_and_refuses_what_is_no_picture(base):
    one = Playground(base)
    person = draw(identity("face", "held-out", 3), Scene())[0]
    one.upload.value = (uploaded("me.png", person),)
    assert one.which.value == "me.png"
    assert one.pictures["me.png"].size == (64, 64)
    one.upload.value = (uploaded("notes.txt", b"no picture"),)
    assert "notes.txt cannot be read as a picture" in one.message.value
    assert one.which.value == "me.png"
    assert "notes.txt" not in one.which.options
    one.upload.value = (uploaded("wide.jpg", Image.new("RGB", (90, 60), "pink"), "JPEG"),)
    assert one.pictures["wide.jpg"].size == (60, 60)
    assert "90 x 60 is not square" in one.message.value
    more = [uploaded("<b>", b""), uploaded("next.png", person), uploaded("cut.png", b"\x89PNG")]
    one.upload.value = tuple(more)
    assert one.which.value == "next.png"
    assert "&lt;b&gt; cannot be read" in one.message.value
    assert "cut.png cannot be read" in one.message.value


def test_an_error_that_is_not_ours_is_said_too(base, monkeypatch):
    def no_memory(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate\nmuch")

    one = Playground(base)
    monkeypatch.setattr("e4t_minimal.inspection.widgets.playground", no_memory)
    one.go.click()
    assert "RuntimeError: CUDA out of memory. Tried to allocate" in one.message.value
    assert not one.go.disabled
    assert not one.gallery.children


def test_playground_says_why_a_picture_cannot_be_learned_and_goes_on(base):
    pictures = {"nothing": Image.new("RGBA", (64, 64)), "pink": Image.new("RGB", (60, 60), "pink")}
    one = Playground(base, pictures)
    one.which.value = "nothing"
    one.steps.value = 1
    one.go.click()
    assert "transparent everywhere" in one.message.value
    assert not one.gallery.children
    assert not one.go.disabled
    assert not attached_offsets(base.unet)  # the base is as it was
    one.which.value = "pink"
    one.steps.value = 0
    one.prompt.value = "S* with {braces}"
    one.go.click()
    assert "no token for" in one.message.value
    assert not attached_offsets(base.unet)
    one.prompt.value = "a photo of S*"
    one.go.click()
    assert len(one.gallery.children) == 1
    assert not one.message.value


def test_what_changed_shows_the_same_noise_three_times(base):
    image = faces()["face-01"]
    figure = what_changed(base, image, settings=Settings(prompts=("a photo of S*",), steps=1))
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == 4
    assert (shown[1] == np.asarray(sample(base, "a photo of a face", steps=3)[0])).all()
    assert (shown[1] != shown[2]).any()
    assert (shown[2] != shown[3]).any()
    one = WhatChanged(base)
    one.steps.value = 0
    one.go.click()
    assert len(one.gallery.children) == 1
    assert not one.message.value
    settings = Settings(prompts=("a photo of S* on the beach",), steps=0)
    assert isinstance(playground(base, image, settings=settings), Figure)
    assert not attached_offsets(base.unet)
