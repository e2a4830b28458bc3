from dataclasses import replace

import numpy as np
import pytest
import torch

from e4t_minimal.encoder import (
    Encoder,
    EncoderConfig,
    collect_features,
    encoder_half,
    feature_widths,
)
from e4t_minimal.model import E4T
from e4t_minimal.sample import sample
from e4t_minimal.scaling.fixed import FixedEmbedding
from e4t_minimal.train import prepare
from e4t_minimal.training.dictionary import DICTIONARY, fit_dictionary


def test_shapes_and_start(model, data):
    t = torch.tensor([0, 300, 600, 999])
    features = model.unet_features(data.latents, t)
    vision = model.base.vision.config
    width = model.base.text_encoder.config.hidden_size
    assert data.image_features.shape == (4, vision.num_hidden_layers // 2, vision.hidden_size)
    assert features.shape == (4, sum(feature_widths(model.base.unet)))
    v, offset = model.embedding(data.image_features, features)
    assert v.shape == offset.shape == (4, width)
    # S* starts as the class word
    assert torch.equal(v, model.placeholder.class_embedding.expand(4, -1))


def test_cls_tokens_are_those_of_every_second_layer(base, faces):
    pixels = base.pixels([image for image, _, _ in faces])
    assert pixels.shape == (4, 3, 64, 64)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    with torch.no_grad():  # the toy's own normalisation is [-1, 1] too
        hidden = base.vision(pixels, output_hidden_states=True).hidden_states
        cls_tokens = base.cls_tokens(pixels)
    wanted = torch.stack([hidden[i][:, 0] for i in (2, 4, 6)], 1)
    assert torch.allclose(cls_tokens, wanted, atol=1e-5)


def test_half_a_pass_gives_the_features_of_a_whole_one(model, data):
    z, t, hidden = data.latents, torch.tensor(500), model.empty.expand(4, -1, -1)
    unet = model.base.unet
    with torch.no_grad(), collect_features(unet) as whole:
        unet(z, t, hidden)
    assert torch.equal(torch.cat(whole, -1), encoder_half(model.base, z, t, hidden))
    assert model.base.running is None
    blocks = [*unet.down_blocks, unet.mid_block]
    assert all(len(block._forward_hooks) == 0 for block in blocks)


def test_s_scales_the_offset():
    torch.manual_seed(0)
    config = EncoderConfig(vision_width=8, vision_layers=3, unet_width=20, word_width=6, s=0.1)
    one, ten = Encoder(config), Encoder(replace(config, s=1.0))
    torch.nn.init.normal_(one.join[-1].weight)
    ten.load_state_dict(one.state_dict())
    cls_tokens, features = torch.randn(2, 3, 8), torch.randn(2, 20)
    assert torch.allclose(10 * one(cls_tokens, features), ten(cls_tokens, features), atol=1e-5)


@pytest.mark.parametrize("of_class", [Encoder, FixedEmbedding])
def test_every_encoder_starts_as_the_class_word_and_learns(base, faces, tmp_path, of_class):
    model = E4T(base, "face", encoder=of_class.for_base(base))
    data = prepare(model, [image for image, _, _ in faces], ["a photo of S*"] * 4)
    features = model.unet_features(data.latents, torch.tensor([500] * 4))
    v, offset = model.embedding(data.image_features, features)
    assert not offset.any()
    assert torch.equal(v, model.placeholder.class_embedding.expand(4, -1))
    list(fit_dictionary(model, data, torch.randn_like(v), DICTIONARY.replace(steps=5, batch=4)))
    with torch.no_grad():
        _, learned = model.embedding(data.image_features, features)
    assert learned.any()
    model.save_pretrained(tmp_path / "learned")
    drawn = sample(model, "a photo of S*", faces[0][0], steps=2)[0]
    model.detach()
    again = E4T.from_pretrained(tmp_path / "learned", base)
    assert type(again.encoder) is of_class
    assert again.encoder.config == model.encoder.config
    with torch.no_grad():
        _, read = again.embedding(data.image_features, features)
    assert torch.allclose(read, learned, rtol=1e-2, atol=1e-4)  # stored in fp16
    drawn_again = sample(again, "a photo of S*", faces[0][0], steps=2)[0]
    assert mean_difference(drawn, drawn_again) < 2  # of 255
    again.detach()


def mean_difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).mean()


def test_fewer_blocks_of_the_unet(base):
    widths = feature_widths(base.unet)
    encoder = Encoder.for_base(base, blocks=1)
    torch.nn.init.normal_(encoder.join[-1].weight)
    assert encoder.config.unet_width == widths[-1]
    assert Encoder.for_base(base).config.unet_width == sum(widths)
    cls_tokens = torch.randn(1, 3, base.vision.config.hidden_size)
    features = torch.randn(1, sum(widths))
    changed = features.clone()
    changed[:, : -widths[-1]] = 0  # what the other blocks say does not matter
    assert torch.equal(encoder(cls_tokens, features), encoder(cls_tokens, changed))


def test_an_encoder_for_another_unet_is_refused(base, tmp_path):
    config = Encoder.for_base(base).config
    wider = Encoder(replace(config, unet_width=config.unet_width + 8))
    with pytest.raises(ValueError, match="other widths"):
        E4T(base, "face", encoder=wider)
    own = Encoder.for_base(base, blocks=2, s=0.3)
    E4T(base, "face", encoder=own).save_pretrained(tmp_path / "own")
    again = E4T.from_pretrained(tmp_path / "own", base)
    assert again.encoder.config.blocks == 2
    assert again.encoder.config.s == 0.3
    again.detach()


def test_levels_are_averaged(base):
    torch.manual_seed(0)
    encoder = Encoder.for_base(base)
    torch.nn.init.normal_(encoder.join[-1].weight, std=0.1)
    seen = torch.randn(2, encoder.config.unet_width)
    image = torch.randn(2, encoder.config.vision_layers, encoder.config.vision_width)
    levels = [level(image[:, i]) for i, level in enumerate(encoder.levels)]
    sides = [encoder.act(sum(levels) / len(levels)), encoder.act(encoder.features(seen))]
    wanted = encoder.config.s * encoder.join(torch.cat(sides, dim=1))
    assert torch.allclose(encoder(image, seen), wanted, atol=1e-6)


def test_features_are_averaged_over_space(model, data):
    outputs = []
    hook = model.base.unet.mid_block.register_forward_hook(lambda *call: outputs.append(call[2]))
    features = model.unet_features(data.latents, torch.tensor([0, 300, 600, 999]))
    hook.remove()
    (deepest,) = outputs  # (B, C, h, w)
    wanted = deepest.flatten(2).mean(-1)
    assert torch.allclose(features[:, -deepest.shape[1] :], wanted, atol=1e-5)
