import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from tiny import tiny_base, tiny_e4t

from e4t_minimal.base import load_base
from e4t_minimal.model import E4T
from e4t_minimal.scaling.architectures import save_base
from e4t_minimal.train import prepare
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
    return load_base("toy")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random base as a folder, for tests in which it does not matter what is drawn."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    save_base(tiny_base(), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_domain(tiny_folder):
    """An E4T folder on that base."""
    folder = tiny_folder.parent / "domain"
    model = tiny_e4t(load_base(tiny_folder))
    model.save_pretrained(folder)
    model.detach()
    return folder


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    model = E4T(base, "face")
    yield model
    model.detach()


@pytest.fixture
def faces():
    """Four people: (picture, caption, mask)."""
    return [draw(identity("face", "train", i), Scene()) for i in range(4)]


@pytest.fixture
def data(model, faces):
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
