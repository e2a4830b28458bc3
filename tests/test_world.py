import json
import time

import numpy as np
import pytest

from e4t_minimal.world.scenery import PLACES, PLAIN, STYLES, rng_of
from e4t_minimal.world import (
    DOMAINS,
    NAMES,
    Identity,
    Scene,
    as_dataset,
    caption,
    draw,
    example,
    identity,
    named,
)


def pixels(one, scene):
    return np.asarray(draw(one, scene)[0], dtype=int)


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_same_picture(domain):
    one, two = example(domain, "train", 7, seed=3), example(domain, "train", 7, seed=3)
    assert (
        one["caption"] == two["caption"]
        and one["image"].tobytes() == two["image"].tobytes()
        and one["mask"].tobytes() == two["mask"].tobytes()
    )
    assert example(domain, "train", 8, seed=3)["image"].tobytes() != one["image"].tobytes()
    assert one["image"].size == one["mask"].size == (64, 64) and one["mask"].mode == "L"


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_share_no_identity(domain):
    people = {
        split: [identity(domain, split, i) for i in range(400)]
        for split in ("train", "validation", "held-out")
    }
    seen = {split: {json.dumps(one.visible) for one in ones} for split, ones in people.items()}
    assert (
        not seen["train"] & seen["validation"]
        and not seen["train"] & seen["held-out"]
        and not seen["validation"] & seen["held-out"]
    )
    assert all(
        one.split == split for split, ones in people.items() for one in ones
    )  # by construction
    assert all(one.split == "train" for one in named(domain))


def test_what_cannot_be_seen_does_not_make_another_identity():
    one = next(
        one
        for one in (identity("critter", "held-out", i) for i in range(100))
        if one.attributes["top"] == "none"
    )
    others = [
        Identity("critter", one.attributes | {"top_color": color})
        for color in DOMAINS["critter"].attributes["top_color"]
    ]
    assert {other.split for other in others} == {"held-out"} and len(
        {pixels(other, Scene()).tobytes() for other in others}
    ) == 1


def test_every_name_has_one_identity_and_every_identity_one_name():
    people = [one for domain in DOMAINS for one in named(domain)]
    assert (
        len(people)
        == len({one.name for one in people})
        == len({json.dumps([one.domain, one.visible]) for one in people})
        == 3 * NAMES
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_attribute_and_expression_shows(domain):
    """Changing any word of an identity, or the expression, changes the picture; changing nothing does not."""
    one, scene = identity(domain, "train", 1), Scene()
    one = Identity(
        domain,
        {
            a: next(w for w in words if w != "none")
            for a, words in DOMAINS[domain].attributes.items()
        },
    )
    before = pixels(one, scene)
    for attribute, words in DOMAINS[domain].attributes.items():
        seen = {
            pixels(Identity(domain, one.attributes | {attribute: word}), scene).tobytes()
            for word in words
        }
        assert len(seen) == len(words), f"two words of {attribute} draw the same picture"
    faces = {pixels(one, Scene(expression=e)).tobytes() for e in DOMAINS[domain].expressions}
    assert len(faces) == len(DOMAINS[domain].expressions) and before.tobytes() in faces


def test_caption_says_what_the_options_are():
    one = Identity(
        "face",
        dict(
            skin="pale",
            top="long",
            top_color="brown",
            beard="none",
            glasses="sunglasses",
            clothes="hoodie",
            clothes_color="blue",
        ),
    )
    assert (
        caption(one, Scene("beach", "sketch", "sad"))
        == "a pencil sketch of a sad face with pale skin and long brown hair and sunglasses and a blue hoodie on the beach"
    )
    assert caption(one, Scene("beach"), subject="S*") == "a photo of smiling S* on the beach"
    assert caption(one, Scene("pink", "sketch")).endswith(
        "hoodie"
    )  # a plain colour is not seen in a sketch, so it is not named
    rng = rng_of("test")
    assert len({caption(one, Scene(), rng) for _ in range(30)}) > 5  # details are dropped at random


def test_background_colour_and_mask_agree_with_the_picture():
    one = identity("robot", "train", 0)
    for name, hex_ in PLAIN.items():
        image, _, mask = draw(one, Scene(name))
        outside = np.asarray(mask) == 0
        assert outside.mean() > 0.2
        assert (
            np.asarray(image)[outside] == tuple(int(hex_[i : i + 2], 16) for i in (1, 3, 5))
        ).all()


def test_places_and_styles_differ():
    one = identity("face", "train", 0)
    assert len({pixels(one, Scene(place)).tobytes() for place in PLACES}) == len(PLACES)
    assert len({pixels(one, Scene("beach", style)).tobytes() for style in STYLES}) == len(STYLES)
    assert (pixels(one, Scene("beach", "negative")) == 255 - pixels(one, Scene("beach"))).all()
    grey = pixels(one, Scene("beach", "greyscale"))
    assert (grey[..., 0] == grey[..., 1]).all()


def test_unknown_domain_names_the_choices():
    with pytest.raises(ValueError, match="face"):
        identity("cat", "train", 0)


def test_dataset_is_drawn_once_and_quickly():
    start = time.perf_counter()
    one = as_dataset("critter", "held-out", 20, seed=11)
    two = as_dataset("critter", "held-out", 20, seed=11)
    assert (
        one.column_names == ["image", "caption", "mask", "identity", "scene"]
        and one.cache_files == two.cache_files
    )
    assert (
        one[3]["image"].tobytes() == example("critter", "held-out", 3, seed=11)["image"].tobytes()
    )
    assert time.perf_counter() - start < 30
