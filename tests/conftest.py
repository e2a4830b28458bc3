"""Fixtures that many tests use.

They load diffusers and transformers when they are first used: the process that hands out the tests
reads this file too, and until it has, no test starts.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

import e4t_minimal as e4t
from e4t_minimal.world import Scene, draw, identity

# how much hypothesis tries: the same few in every `make test`, others and more in `make soak`
OPTIONS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile(
    "quick", max_examples=10, stateful_step_count=12, derandomize=True, **OPTIONS
)
settings.register_profile("soak", max_examples=300, stateful_step_count=40, **OPTIONS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def base():
    return e4t.load_base("toy")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random base as a folder, for tests in which it does not matter what is drawn."""
    from tiny import tiny_base

    from e4t_minimal.scaling.architectures import save_base

    folder = tmp_path_factory.mktemp("tiny") / "base"
    save_base(tiny_base(), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_domain(tiny_folder):
    """An E4T folder on that base."""
    from tiny import tiny_e4t

    folder = tiny_folder.parent / "domain"
    model = tiny_e4t(e4t.load_base(tiny_folder))
    model.save_pretrained(folder)
    model.detach()
    return folder


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    model = e4t.E4T(base, "face")
    yield model
    model.detach()


@pytest.fixture
def faces():
    """Four people: (picture, caption, mask)."""
    return [draw(identity("face", "train", i), Scene()) for i in range(4)]


@pytest.fixture
def data(model, faces):
    from e4t_minimal.train import prepare

    images = [image for image, _, _ in faces]
    return prepare(model, images, ["a photo of S* on a white background"] * 4)


@pytest.fixture
def portrait(tmp_path):
    image, _, mask = draw(identity("face", "held-out", 5), Scene())
    image.putalpha(mask)
    path = tmp_path / "portrait.png"
    image.save(path)
    assert Image.open(path).mode == "RGBA"
    return path


def disturb(offsets):
    """Give fresh offsets something to do: Delta is zero at the start."""
    with torch.no_grad():
        for offset in offsets.values():
            for p in offset.rows.parameters():
                p.add_(0.02 * torch.randn_like(p))
