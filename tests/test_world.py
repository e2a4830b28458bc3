import hashlib
import json
import shutil
import time

import numpy as np
import pytest

from e4t_minimal import world
from e4t_minimal.world import (
    DOMAINS,
    NAMES,
    SPLITS,
    Identity,
    Scene,
    as_dataset,
    caption,
    draw,
    example,
    identity,
    named,
)
from e4t_minimal.world.random_numbers import rng_of
from e4t_minimal.world.scenery import BACKGROUNDS, PLACES, PLAIN, STYLES, background


def pixels(one, scene):
    """(64, 64, 3) whole numbers."""
    picture, _, _ = draw(one, scene)
    return np.asarray(picture, dtype=int)


def pictures_of(one, scenes):
    """How many different pictures the scenes give."""
    return len({pixels(one, scene).tobytes() for scene in scenes})


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_same_picture(domain):
    one = example(domain, "train", 7, seed=3)
    two = example(domain, "train", 7, seed=3)
    assert one["caption"] == two["caption"]
    assert one["image"].tobytes() == two["image"].tobytes()
    assert one["mask"].tobytes() == two["mask"].tobytes()
    other = example(domain, "train", 8, seed=3)
    assert other["image"].tobytes() != one["image"].tobytes()
    assert one["image"].size == one["mask"].size == (64, 64)
    assert one["mask"].mode == "L"


WORDS = "637459ba"
DRAWN = {  # means of red, green, blue and mask, 0..255
    "face": (160.95, 155.48, 150.74, 126.12),
    "critter": (180.04, 155.04, 136.32, 117.75),
    "robot": (163.37, 154.24, 160.29, 121.45),
}


def test_the_world_is_the_one_that_the_shipped_models_have_learned():
    """Identities, scenes and captions to the letter: another order of draws is another world."""
    checksum = hashlib.sha256()
    for domain in DOMAINS:
        for split in (*SPLITS, "named"):
            for index in range(20):
                row = example(domain, split, index, seed=index % 3, plain=0.3)
                for column in ("identity", "scene", "caption"):
                    checksum.update(row[column].encode())
    assert checksum.hexdigest()[:8] == WORDS


@pytest.mark.parametrize("domain", DOMAINS)
def test_pictures_are_what_the_shipped_models_have_seen(domain):
    """Their mean color, within what another version of the drawing libraries may change."""
    rows = [example(domain, "train", index) for index in range(20)]
    color = np.mean([np.asarray(row["image"]) for row in rows], axis=(0, 1, 2))
    mask = np.mean([np.asarray(row["mask"]) for row in rows])
    assert np.abs(np.array([*color, mask]) - DRAWN[domain]).max() < 0.2


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_share_no_identity(domain):
    people = {split: [identity(domain, split, i) for i in range(400)] for split in SPLITS}
    seen = {}
    for split, ones in people.items():
        assert all(one.split == split for one in ones)
        seen[split] = {json.dumps(one.visible) for one in ones}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["held-out"]
    assert not seen["validation"] & seen["held-out"]
    assert all(one.split == "train" for one in named(domain))


def test_what_cannot_be_seen_does_not_make_another_identity():
    critters = [identity("critter", "held-out", i) for i in range(100)]
    one = next(one for one in critters if one.attributes["top"] == "none")
    colors = DOMAINS["critter"].attributes["top_color"]
    others = [Identity("critter", one.attributes | {"top_color": color}) for color in colors]
    assert {other.split for other in others} == {"held-out"}
    assert len({pixels(other, Scene()).tobytes() for other in others}) == 1


def test_every_name_has_one_identity_and_every_identity_one_name():
    people = [one for domain in DOMAINS for one in named(domain)]
    assert len(people) == 3 * NAMES
    assert len({one.name for one in people}) == 3 * NAMES
    assert len({json.dumps([one.domain, one.visible]) for one in people}) == 3 * NAMES


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_attribute_and_expression_shows(domain):
    """Changing any word of an identity, or the expression, changes the picture."""
    attributes = DOMAINS[domain].attributes
    seen = {}
    for attribute, words in attributes.items():
        seen[attribute] = next(word for word in words if word != "none")
    for attribute, words in attributes.items():
        ones = [Identity(domain, seen | {attribute: word}) for word in words]
        drawn = {pixels(one, Scene()).tobytes() for one in ones}
        assert len(drawn) == len(words), f"two words of {attribute} draw the same picture"
    expressions = DOMAINS[domain].expressions
    scenes = [Scene(expression=expression) for expression in expressions]
    assert pictures_of(Identity(domain, seen), scenes) == len(expressions)
    assert pictures_of(Identity(domain, seen), [*scenes, Scene()]) == len(expressions)


FACE = Identity(
    "face",
    {
        "skin": "pale",
        "top": "long",
        "top_color": "brown",
        "beard": "none",
        "glasses": "sunglasses",
        "clothes": "hoodie",
        "clothes_color": "blue",
    },
)


def test_caption_says_what_the_options_are():
    assert caption(FACE, Scene("beach", "sketch", "sad")) == (
        "a pencil sketch of a sad face with pale skin and long brown hair and sunglasses "
        "and a blue hoodie on the beach"
    )
    assert caption(FACE, Scene("beach"), subject="S*") == "a photo of smiling S* on the beach"
    small = Scene("beach", size="small")
    assert caption(FACE, small, subject="S*") == "a photo of small smiling S* on the beach"
    # a plain color is not seen in a sketch, so it is not named
    assert caption(FACE, Scene("pink", "sketch")).endswith("hoodie")
    rng = rng_of("test")  # details are dropped at random
    assert len({caption(FACE, Scene(), rng) for _ in range(30)}) > 5


def test_background_colour_and_mask_agree_with_the_picture():
    one = identity("robot", "train", 0)
    for name, code in PLAIN.items():
        picture, _, mask = draw(one, Scene(name))
        outside = np.asarray(mask) == 0
        assert outside.mean() > 0.2
        color = [int(code[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.asarray(picture)[outside] == color).all()


def test_places_and_styles_differ():
    one = identity("face", "train", 0)
    assert pictures_of(one, [Scene(place) for place in PLACES]) == len(PLACES)
    assert pictures_of(one, [Scene("beach", style) for style in STYLES]) == len(STYLES)
    photo = pixels(one, Scene("beach"))
    assert (pixels(one, Scene("beach", "negative")) == 255 - photo).all()
    grey = pixels(one, Scene("beach", "greyscale"))
    assert (grey[..., 0] == grey[..., 1]).all()


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_place_depends_on_its_seed_and_a_plain_color_does_not(name):
    pictures = {background(name, seed).tobytes() for seed in range(4)}
    assert (len(pictures) > 1) == (name in PLACES)


def test_unknown_domain_names_the_choices():
    with pytest.raises(ValueError, match="face"):
        identity("cat", "train", 0)


def test_dataset_is_drawn_once_and_quickly():
    start = time.perf_counter()
    one = as_dataset("critter", "held-out", 20, seed=11)
    two = as_dataset("critter", "held-out", 20, seed=11)
    assert one.column_names == ["image", "caption", "mask", "identity", "scene"]
    assert one.cache_files == two.cache_files
    expected = example("critter", "held-out", 3, seed=11)
    assert one[3]["image"].tobytes() == expected["image"].tobytes()
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("name", ["identities.py", "scenery.py", "drawing.py", "domains.json"])
def test_other_code_draws_another_dataset(name, tmp_path, monkeypatch):
    def cache_file():
        return as_dataset("robot", "held-out", 1, seed=12).cache_files[0]["filename"]

    now = cache_file()
    assert cache_file() == now
    folder = tmp_path / "world"
    shutil.copytree(world.__path__[0], folder)
    monkeypatch.setattr("e4t_minimal.world.dataset.files", lambda package: folder)
    assert cache_file() == now
    with (folder / name).open("a") as file:
        file.write("\n")
    assert cache_file() != now


def test_other_versions_of_what_draws_draw_another_dataset(monkeypatch):
    def cache_file():
        return as_dataset("robot", "held-out", 1, seed=13).cache_files[0]["filename"]

    now = cache_file()
    monkeypatch.setattr("e4t_minimal.world.dataset.version", lambda package: f"{package} 99")
    assert cache_file() != now


def test_processes_draw_the_same_dataset():
    options = {"pictures": 4, "seed": 14}
    two, one = as_dataset("robot", num_proc=2, **options), as_dataset("robot", **options)
    assert two["caption"] == one["caption"]
