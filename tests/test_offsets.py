import torch
from conftest import disturb

from e4t_minimal.offsets import (
    FoldedOffset,
    WeightOffset,
    add_offsets,
    attention_projections,
    fold,
    new_offsets,
    remove_offsets,
    unfold,
)


def run(base, seed=0):
    g = torch.Generator().manual_seed(seed)
    z, hidden = (
        torch.randn(2, base.unet.config.in_channels, 16, 16, generator=g),
        torch.randn(2, 40, base.unet.config.cross_attention_dim, generator=g),
    )
    with torch.no_grad():
        return base.unet(z, torch.tensor([10, 700]), hidden).sample


def test_zero_start_leaves_the_model_bit_equal(base):
    before = run(base)
    offsets = add_offsets(base.unet)
    assert (
        len(offsets)
        == len(attention_projections(base.unet))
        == sum(n.endswith(("to_q", "to_k", "to_v")) for n, _ in base.unet.named_modules())
    )
    assert torch.equal(run(base), before)
    disturb(offsets)
    assert not torch.allclose(run(base), before, atol=1e-4)
    remove_offsets(base.unet)
    assert torch.equal(run(base), before)


def test_folded_is_live_is_merged(base):
    weights = {
        name: linear.weight.clone() for name, linear in attention_projections(base.unet).items()
    }
    offsets = add_offsets(base.unet)
    disturb(offsets)
    live = run(base)
    remove_offsets(base.unet)
    add_offsets(base.unet, fold(offsets))
    assert torch.allclose(run(base), live, atol=1e-5)
    remove_offsets(base.unet, merge=True)
    assert torch.allclose(run(base), live, atol=1e-5)
    for name, linear in attention_projections(base.unet).items():
        assert torch.allclose(linear.weight, weights[name] * (1 + offsets[name].delta()), atol=1e-5)
        linear.weight.data.copy_(weights[name])


def test_rank_three_and_factors():
    torch.manual_seed(0)
    offset = WeightOffset(24, 40)
    assert (offset.delta() == 0).all()
    disturb({"x": offset})
    delta, (left, right) = offset.delta(), offset.factors()
    assert left.shape == (24, 3) and right.shape == (40, 3)
    assert torch.allclose(left @ right.T, delta, atol=1e-6)
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 3
    with torch.no_grad():
        offset.columns.bias.zero_(), offset.rows.bias.zero_()
    assert torch.linalg.matrix_rank(offset.delta(), rtol=1e-4) == 1
    folded = FoldedOffset(left.detach(), right.detach())
    assert torch.allclose(folded.delta(), delta, atol=1e-6)
    weight = torch.randn(24, 40)
    assert torch.allclose(
        folded(weight), weight * (1 + delta), atol=1e-5
    )  # multiplied, element by element


def test_gradient_reaches_a_zero_offset():
    offset = WeightOffset(8, 8)
    offset(torch.ones(8, 8)).sum().backward()
    assert offset.rows.weight.grad.abs().sum() > 0


def test_additive_offsets_are_full_size_and_fold_to_themselves(base):
    before = run(base)
    offsets = add_offsets(base.unet, new_offsets(base.unet, "additive"))
    assert torch.equal(run(base), before)
    for offset in offsets.values():
        torch.nn.init.normal_(offset.change, std=0.02)
    live = run(base)
    assert not torch.allclose(live, before, atol=1e-4)
    name, linear = next(iter(attention_projections(base.unet).items()))
    assert torch.equal(
        linear.weight, linear.parametrizations.weight.original + offsets[name].change
    )
    add_offsets(
        base.unet,
        unfold(
            {
                f"{name}.{k}": v
                for name, offset in fold(offsets).items()
                for k, v in offset.state_dict().items()
            }
        ),
    )
    assert torch.equal(run(base), live)
    remove_offsets(base.unet)
    assert new_offsets(base.unet, "none") == {} == add_offsets(base.unet, {}) and torch.equal(
        run(base), before
    )
