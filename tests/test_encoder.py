import numpy as np
import pytest
import torch

from e4t_minimal.encoder import ENCODERS, Encoder, encoder_half, feature_widths, unet_features
from e4t_minimal.model import E4T
from e4t_minimal.sample import sample
from e4t_minimal.train import learn_dictionary, prepare


def test_shapes_and_start(model, data):
    z, t = data["latents"], torch.tensor([0, 300, 600, 999])
    features = model.features(z, t)
    assert data["view"].shape == (
        4,
        model.base.vision.config.num_hidden_layers // 2,
        model.base.vision.config.hidden_size,
    )
    assert features.shape == (4, sum(feature_widths(model.base.unet)))
    v, offset = model.embedding(data["view"], features)
    assert v.shape == offset.shape == (4, model.base.text_encoder.config.hidden_size)
    assert torch.equal(
        v, model.placeholder.class_embedding.expand(4, -1)
    )  # S* starts as the class word


def test_cls_tokens_are_those_of_every_second_layer(base, faces):
    pixels = base.pixels([image for image, _, _ in faces])
    assert pixels.shape == (4, 3, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1
    with torch.no_grad():
        hidden = base.vision(
            pixels, output_hidden_states=True
        ).hidden_states  # the toy's own normalisation is [-1, 1] too
    assert torch.allclose(
        base.cls_tokens(pixels), torch.stack([hidden[i][:, 0] for i in (2, 4, 6)], 1), atol=1e-5
    )


def test_half_a_pass_gives_the_features_of_a_whole_one(model, data):
    z, t, hidden = data["latents"], torch.tensor(500), model.empty.expand(4, -1, -1)
    with torch.no_grad(), unet_features(model.base.unet) as found:
        model.base.unet(z, t, hidden)
    assert torch.equal(torch.cat(found, -1), encoder_half(model.base.unet, z, t, hidden))
    assert all(
        len(block._forward_hooks) == 0
        for block in [*model.base.unet.down_blocks, model.base.unet.mid_block]
    )


def test_s_scales_the_offset():
    torch.manual_seed(0)
    one = Encoder(8, 3, 20, 6, s=0.1)
    torch.nn.init.normal_(one.join[-1].weight)
    two = Encoder(8, 3, 20, 6, s=1.0)
    two.load_state_dict(one.state_dict())
    cls_tokens, features = torch.randn(2, 3, 8), torch.randn(2, 20)
    assert torch.allclose(10 * one(cls_tokens, features), two(cls_tokens, features), atol=1e-5)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_starts_as_the_class_word_and_learns(base, faces, tmp_path, kind):
    model = E4T(base, "face", encoder=ENCODERS[kind].for_base(base))
    data = prepare(model, [image for image, _, _ in faces], ["a photo of S*"] * 4)
    v, offset = model.embedding(
        data["view"], model.features(data["latents"], torch.tensor([500] * 4))
    )
    assert not offset.any() and torch.equal(v, model.placeholder.class_embedding.expand(4, -1))
    for state in learn_dictionary(model, data, torch.randn(4, v.shape[1]), steps=5, batch=4):
        pass
    model.encoder.eval()
    assert state["offset"].abs().sum() > 0
    model.picture = faces[0][0]
    model.save_pretrained(tmp_path / kind)
    ours = sample(model, "a photo of S*", steps=2)[0]
    model.detach()
    again = E4T.from_pretrained(tmp_path / kind, base)
    assert type(again.encoder) is ENCODERS[kind]
    assert (
        np.abs(
            np.asarray(sample(again, "a photo of S*", steps=2)[0], int) - np.asarray(ours, int)
        ).mean()
        < 2
    )  # of 255: stored in fp16
    again.detach()


def test_fewer_blocks_of_the_unet(base):
    widths = feature_widths(base.unet)
    encoder = Encoder.for_base(base, blocks=1)
    torch.nn.init.normal_(encoder.join[-1].weight)
    assert (
        encoder.config["unet_width"]
        == widths[-1]
        < Encoder.for_base(base).config["unet_width"]
        == sum(widths)
    )
    cls_tokens, features = (
        torch.randn(1, 3, base.vision.config.hidden_size),
        torch.randn(1, sum(widths)),
    )
    changed = features.clone()
    changed[:, : -widths[-1]] = 0  # what the other blocks say does not matter
    assert torch.equal(encoder(cls_tokens, features), encoder(cls_tokens, changed))


def test_an_encoder_for_another_unet_is_refused(base, tmp_path):
    config = Encoder.for_base(base).config
    E4T(
        base, "face", encoder=Encoder(**config | {"unet_width": config["unet_width"] + 8})
    ).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other widths"):
        E4T.from_pretrained(tmp_path / "other", base)
    E4T(base, "face", encoder=Encoder.for_base(base, blocks=2, s=0.3)).save_pretrained(
        tmp_path / "own"
    )
    assert E4T.from_pretrained(tmp_path / "own", base).encoder.config["blocks"] == 2
    E4T(base, "face").detach()
