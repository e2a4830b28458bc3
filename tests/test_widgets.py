import io
from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from e4t_minimal import DATA
from e4t_minimal.model import E4T
from e4t_minimal.offsets import attention_projections
from e4t_minimal.sample import sample, sample_steps
from e4t_minimal.inspection.trace import trace
from e4t_minimal.inspection.views import any_identity, avatar, look, plane, playground, what_changed
from e4t_minimal.inspection.widgets import AvatarBuilder, Explorer, Playground, WhatChanged, faces
from e4t_minimal.world import DOMAINS, Scene, draw, identity


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def kept(base):
    model = E4T.from_pretrained(DATA / "e4t-face", base)
    with trace(
        model,
        (
            "*.attn2*.map",
            "unet.mid",
            "latent*",
            "guidance.*",
            "text.hidden",
            "*mid*.delta",
            "placeholder.*",
            "unet.mid.attn1",
        ),
    ) as t:
        list(sample_steps(model, ["a photo of S*"], faces()["face-00"], steps=3))
    model.detach()
    return t


def pixels(data: bytes):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def test_every_tensor_can_be_looked_at(kept):
    for name in kept.kept:
        figure = look(kept, name, call=len(kept[name]) - 1)
        assert isinstance(figure, Figure) and len(figure.axes) >= 3
    shown = plane(kept["unet.mid.attn2.map"][1], "unet.mid.attn2.map", channel=2, token=4)
    assert (shown.flatten() == kept["unet.mid.attn2.map"][1][0, 2, :, 4]).all() and shown.shape == (
        4,
        4,
    )
    with pytest.raises(ValueError, match="kept were"):
        look(kept, "unet.nowhere")


def test_explorer_follows_its_handles(kept):
    one = Explorer(kept)
    one.name.value = "unet.up.2.attn2[0].map"
    assert (
        one.channel.description == "head"
        and one.token.max == kept["unet.up.2.attn2[0].map"][0].shape[-1] - 1
    )
    pictures = [pixels(one.picture.value)]
    for slider, value in ((one.call, 3), (one.channel, 1), (one.token, 4)):
        slider.value = value
        pictures.append(pixels(one.picture.value))
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:]))
    one.name.value = "latent[end]"
    assert (
        one.call.disabled
        and one.call.value == 0
        and one.channel.description == "channel"
        and not one.message.value
    )


def test_avatar_builder_builds_what_the_world_draws():
    one = AvatarBuilder("face")
    before = pixels(one.picture.value)
    attribute, handle = next((a, h) for a, h in one.words.items() if len(h.options) > 2)
    handle.value = handle.options[-1]
    one.background.value = "beach"
    assert (pixels(one.picture.value) != before).any() and one.identity.attributes[
        attribute
    ] == handle.options[-1]
    assert list(one.image.getdata()) == list(
        draw(one.identity, Scene(background="beach", expression=one.expression.value))[0].getdata()
    )
    one.domain.value = "robot"
    assert (
        one.identity.domain == "robot"
        and set(one.words) == set(DOMAINS["robot"].attributes)
        and not one.message.value
    )
    with pytest.raises(ValueError, match="attributes are"):
        any_identity("face", wings="two")
    assert isinstance(avatar(identity("critter", "train", 0)), Figure)


def test_playground_learns_shows_progress_and_keeps_results(base):
    one = Playground(base)
    one.steps.value, one.prompt.value = 2, "a photo of S*"
    seen = []
    one.progress.observe(lambda change: seen.append(change.new), "value")
    one.go.click()
    one.s.value = 0.0
    one.go.click()
    assert (
        seen[:2] == [1, 2]
        and one.progress.max == 2
        and not one.go.disabled
        and len(one.gallery.children) == 2
    )
    newest, first = (pixels(box.children[1].value) for box in one.gallery.children)
    assert (newest != first).any()
    linear = next(iter(attention_projections(base.unet).values()))
    assert not hasattr(linear, "parametrizations")  # the base is as it was


def test_playground_takes_uploads_and_refuses_what_is_no_picture(base):
    one, data = Playground(base), io.BytesIO()
    draw(identity("face", "held-out", 3), Scene())[0].save(data, "PNG")
    file = {
        "name": "me.png",
        "type": "image/png",
        "size": data.tell(),
        "content": memoryview(data.getvalue()),
        "last_modified": datetime.now(),
    }
    one.upload.value = (file,)
    assert one.which.value == "me.png" and one.pictures["me.png"].size == (64, 64)
    one.upload.value = (file | {"name": "notes.txt", "content": memoryview(b"no picture")},)
    assert (
        "notes.txt cannot be read as a picture" in one.message.value
        and one.which.value == "me.png"
        and "notes.txt" not in one.which.options
    )
    data = io.BytesIO()
    Image.new("RGB", (90, 60), "pink").save(data, "JPEG")
    one.upload.value = (file | {"name": "wide.jpg", "content": memoryview(data.getvalue())},)
    assert (
        one.pictures["wide.jpg"].size == (60, 60) and "90 x 60 is not square" in one.message.value
    )
    one.which.value, one.pictures["me.png"] = "me.png", Image.new("RGBA", (64, 64))
    one.steps.value = 1
    one.go.click()
    assert (
        "transparent everywhere" in one.message.value
        and not one.gallery.children
        and not one.go.disabled
    )
    assert not hasattr(
        next(iter(attention_projections(base.unet).values())), "parametrizations"
    )  # the base is as it was
    one.which.value, one.steps.value, one.prompt.value = "wide.jpg", 0, "S* with {braces}"
    one.go.click()
    assert len(one.gallery.children) == 1 and not one.message.value


def test_what_changed_shows_the_same_noise_three_times(base):
    image = faces()["face-01"]
    figure = what_changed(base, image, prompts=["a photo of S*"], steps=1)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == 4 and (shown[1] == np.asarray(sample(base, "a photo of a face")[0])).all()
    assert (shown[1] != shown[2]).any() and (shown[2] != shown[3]).any()
    one = WhatChanged(base)
    one.steps.value = 0
    one.go.click()
    assert len(one.gallery.children) == 1 and not one.message.value
    assert isinstance(playground(base, image, steps=0, count=1), Figure)
