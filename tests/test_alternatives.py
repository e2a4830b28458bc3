"""What E4T does not do: a ResNet-18, additive offsets, and three terms of the loss."""

import pytest
import torch
from conftest import disturb
from test_offsets import run, tensors_of

from e4t_minimal.base import load_base
from e4t_minimal.encoder import ENCODERS
from e4t_minimal.evaluation.alternatives import (
    AdditiveOffset,
    ResNetEncoder,
    contrastive,
    sparsity_l1,
    weight_cosine,
)
from e4t_minimal.model import E4T
from e4t_minimal.offsets import (
    add_offsets,
    attention_projections,
    fold,
    new_offsets,
    remove_offsets,
    unfold,
)
from e4t_minimal.train import PRETRAINING, accumulate, draw_batch, loss_function, prepare, pretrain

FOUR = PRETRAINING.replace(batch=4)


def test_sparsity_and_cosine_by_hand():
    assert sparsity_l1([torch.tensor([[1.0, -3.0]]), torch.zeros(2, 2)]) == 1.0
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert weight_cosine([weight], [3 * weight]).abs() < 1e-6  # longer, but the same direction
    assert torch.allclose(weight_cosine([weight], [-weight]), torch.tensor(2.0))
    right_angle = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    both = weight_cosine([weight, weight], [weight, right_angle])
    assert torch.allclose(both, torch.tensor(0.5))


def test_contrastive_wants_each_to_be_most_like_its_own():
    prompts = torch.eye(4)
    right, shuffled = contrastive(prompts, prompts), contrastive(prompts.roll(1, 0), prompts)
    assert right < 1e-3 < 10 < shuffled
    own = torch.exp(torch.tensor(1 / 0.07))
    by_hand = -torch.log(own / (own + 3))  # the positive stands in the denominator too
    assert torch.allclose(right, by_hand, atol=1e-6)


def test_terms_are_switched_on_by_name_and_reach_what_they_are_about(model, data):
    disturb(model.offsets)
    torch.nn.init.normal_(model.encoder.join[-1].weight, std=0.1)
    weights = {"l2": 0.1, "contrastive": 0.2, "sparsity": 0.3, "cosine": 0.4}
    losses = model.loss(*draw_batch(model, data, FOUR, 0), weights)
    total = losses["diffusion"] + sum(weight * losses[name] for name, weight in weights.items())
    assert torch.allclose(losses["total"], total)
    assert min(losses[name] for name in weights) > 0
    offset = next(iter(model.offsets.values()))
    reached = {
        "contrastive": model.encoder.join[-1].weight,
        "sparsity": offset.rows.weight,
        "cosine": offset.rows.weight,
    }
    for name, weight in reached.items():
        (gradient,) = torch.autograd.grad(losses[name], weight, retain_graph=True)
        assert gradient.any(), name


@pytest.mark.parametrize("size", [1e-3, 2e-2])
def test_in_half_precision_every_term_is_what_it_is_in_single(tiny_folder, faces, size):
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(tiny_folder, dtype=dtype)
        torch.manual_seed(0)
        model = E4T(base, "face")
        torch.nn.init.normal_(model.encoder.join[-1].weight, std=0.1)
        for offset in model.offsets.values():
            torch.nn.init.normal_(offset.rows.weight, std=size)
        data = prepare(model, [image for image, _, _ in faces], ["a photo of S*"] * 4)
        weights = {"l2": 1.0, "contrastive": 1.0, "sparsity": 1.0, "cosine": 1.0}
        losses = model.loss(*draw_batch(model, data, FOUR, 0), weights)
        found[dtype] = {name: losses[name].item() for name in weights}
        model.detach()
    assert min(found[torch.float32].values()) > 0
    assert found[torch.bfloat16] == pytest.approx(found[torch.float32], rel=0.1)


@pytest.mark.parametrize("term", ["sparsity", "cosine"])
def test_a_term_about_offsets_wants_offsets(base, faces, term):
    model = E4T(base, "face", offsets={})
    data = prepare(model, [faces[0][0]], ["a photo of S*"])
    with pytest.raises(
        ValueError, match=f"'{term}' is about weight offsets, and this E4T has none"
    ):
        next(pretrain(model, data, PRETRAINING.replace(batch=2, weights={term: 1.0})))


def encoder_of(kind, base):
    """One that has left its start, at which all say nothing."""
    torch.manual_seed(0)
    encoder = ENCODERS[kind][0].for_base(base)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return encoder


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_pass_leaves_no_trace_in_an_encoder(base, faces, kind, training):
    encoder = encoder_of(kind, base).train(training)
    start = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    pixels = base.pixels([image for image, _, _ in faces])
    with torch.no_grad():
        image_features = encoder.image_features(base, pixels)
        unet_features = torch.randn(4, sum(base.unet.config.block_out_channels) * 2)
        encoder(image_features, unet_features)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, start[name]), name


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("training", [True, False])
def test_what_an_encoder_says_does_not_depend_on_the_rest_of_the_batch(base, faces, kind, training):
    encoder = encoder_of(kind, base).train(training)
    unet_features = torch.randn(4, sum(base.unet.config.block_out_channels) * 2)
    with torch.no_grad():
        pixels = base.pixels([image for image, _, _ in faces])
        image_features = encoder.image_features(base, pixels)
        together = encoder(image_features, unet_features)
        alone = encoder(image_features[2:3], unet_features[2:3])
    assert together.any()
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_micro_batches_give_a_resnet_the_same_gradients(base, faces):
    model = E4T(base, "face", encoder=encoder_of("resnet18", base))
    data = prepare(model, [image for image, _, _ in faces], ["a photo of S*"] * 4)
    gradients = {}
    for micro in (None, 1, 3):
        model.encoder.train()
        model.encoder.zero_grad()
        loss = loss_function(model, FOUR, [])
        accumulate(loss, *draw_batch(model, data, FOUR, 0), micro)
        gradients[micro] = model.encoder.body.embedder.embedder.convolution.weight.grad.clone()
    scale = gradients[None].abs().max()
    assert scale > 0
    for micro in (1, 3):
        assert torch.allclose(gradients[micro], gradients[None], atol=1e-3 * scale)


def test_a_resnet_starts_as_the_class_word_learns_and_is_stored(base, faces, tmp_path):
    model = E4T(base, "face", encoder=ResNetEncoder.for_base(base, s=0.2))
    data = prepare(model, [image for image, _, _ in faces], ["a photo of S*"] * 4)
    nothing = torch.zeros(4, 0)
    v, offset = model.embedding(data.image_features, nothing)
    assert not offset.any()
    assert torch.equal(v, model.placeholder.class_embedding.expand(4, -1))
    list(pretrain(model, data, FOUR.replace(steps=2, lr=1e-3)))
    with torch.no_grad():
        _, learned = model.embedding(data.image_features, nothing)
    assert learned.any()
    model.save_pretrained(tmp_path / "learned")
    model.detach()
    again = E4T.from_pretrained(tmp_path / "learned", base)
    assert type(again.encoder) is ResNetEncoder
    assert again.encoder.config == model.encoder.config
    with torch.no_grad():
        _, read = again.embedding(data.image_features, nothing)
    assert torch.allclose(read, learned, rtol=1e-2, atol=1e-4)  # stored in fp16
    again.detach()


def test_additive_offsets_are_full_size_and_fold_to_themselves(base):
    plain = run(base)
    offsets = add_offsets(base.unet, new_offsets(base.unet, "additive"))
    assert torch.equal(run(base), plain)
    for offset in offsets.values():
        torch.nn.init.normal_(offset.change, std=0.02)
    live = run(base)
    assert not torch.allclose(live, plain, atol=1e-4)
    for name, linear in attention_projections(base.unet).items():
        original = linear.parametrizations.weight.original
        assert offsets[name].shape == original.shape
        assert torch.equal(linear.weight, original + offsets[name].change)
    folded = fold(offsets)
    remove_offsets(base.unet)
    assert torch.equal(run(base), plain)
    add_offsets(base.unet, unfold(tensors_of(folded)))
    assert torch.equal(run(base), live)
    remove_offsets(base.unet)


def test_an_e4t_with_additive_offsets_is_stored(base, tmp_path):
    offsets = new_offsets(base.unet, "additive")
    for offset in offsets.values():
        torch.nn.init.normal_(offset.change, std=0.02)
    model = E4T(base, "face", offsets=offsets)
    live = run(base)
    model.save_pretrained(tmp_path / "additive")
    model.detach()
    again = E4T.from_pretrained(tmp_path / "additive", base)
    assert {type(offset) for offset in again.offsets.values()} == {AdditiveOffset}
    assert torch.equal(run(base), live)
    again.detach()
