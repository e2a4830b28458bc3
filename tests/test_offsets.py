import pytest
import torch
from conftest import disturb
from peft import LoraConfig

from e4t_minimal.base import load_base
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
    """What the U-Net says of a fixed noise and text (2, C, h, w)."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(2, base.unet.config.in_channels, 16, 16, generator=g)
    hidden = torch.randn(2, 40, base.unet.config.cross_attention_dim, generator=g)
    with torch.no_grad():
        return base.unet(z, torch.tensor([10, 700]), hidden).sample


def tensors_of(offsets):
    """{name.side: tensor}, as they lie on disk."""
    return {
        f"{name}.{side}": tensor
        for name, offset in offsets.items()
        for side, tensor in offset.state_dict().items()
    }


def test_zero_start_leaves_the_model_bit_equal(base):
    plain = run(base)
    names = [name for name, _ in base.unet.named_modules()]
    offsets = add_offsets(base.unet)
    assert len(offsets) == sum(name.endswith(("to_q", "to_k", "to_v")) for name in names)
    assert set(offsets) == set(attention_projections(base.unet))
    assert torch.equal(run(base), plain)
    disturb(offsets)
    assert not torch.allclose(run(base), plain, atol=1e-4)
    remove_offsets(base.unet)
    assert torch.equal(run(base), plain)


def test_folded_is_live_is_merged(base):
    projections = attention_projections(base.unet)
    weights = {name: linear.weight.clone() for name, linear in projections.items()}
    offsets = add_offsets(base.unet)
    disturb(offsets)
    live = run(base)
    remove_offsets(base.unet)
    add_offsets(base.unet, fold(offsets))
    assert torch.allclose(run(base), live, atol=1e-5)
    remove_offsets(base.unet, merge=True)
    assert torch.allclose(run(base), live, atol=1e-5)
    for name, linear in attention_projections(base.unet).items():
        wanted = weights[name] * (1 + offsets[name].delta())
        assert torch.allclose(linear.weight, wanted, atol=1e-5)
        linear.weight.data.copy_(weights[name])


def test_rank_three_and_factors():
    torch.manual_seed(0)
    offset = WeightOffset(24, 40)
    assert (offset.delta() == 0).all()
    disturb({"x": offset})
    delta, (left, right) = offset.delta(), offset.factors()
    assert left.shape == (24, 3)
    assert right.shape == (40, 3)
    assert torch.allclose(left @ right.T, delta, atol=1e-6)
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 3
    with torch.no_grad():
        offset.columns.bias.zero_()
        offset.rows.bias.zero_()
    assert torch.linalg.matrix_rank(offset.delta(), rtol=1e-4) == 1
    folded = FoldedOffset(left.detach(), right.detach())
    assert torch.allclose(folded.delta(), delta, atol=1e-6)
    weight = torch.randn(24, 40)  # is multiplied, element by element
    assert torch.allclose(folded(weight), weight * (1 + delta), atol=1e-5)


def test_gradient_reaches_a_zero_offset():
    offset = WeightOffset(8, 8)
    offset(torch.ones(8, 8)).sum().backward()
    assert offset.rows.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("is_zero", [True, False])
def test_what_is_folded_stays_as_it_is(is_zero):
    torch.manual_seed(0)
    offsets = {"layer.to_q": WeightOffset(24, 40)}
    if not is_zero:
        disturb(offsets)
    once = fold(offsets)
    stored = {name: tensor.clone() for name, tensor in tensors_of(once).items()}
    twice = tensors_of(fold(fold(once)))
    for name, tensor in twice.items():  # both sides are balanced again, which only rounds
        assert torch.allclose(tensor, stored[name], rtol=1e-5)
    read = once
    for _ in range(5):  # to the disk and back
        read = unfold(tensors_of(read))
    for name, tensor in tensors_of(read).items():
        assert torch.allclose(tensor, stored[name], rtol=1e-5)


def test_both_sides_of_a_folded_offset_are_equally_long():
    torch.manual_seed(0)
    offset = WeightOffset(24, 40)
    disturb({"x": offset})
    folded = fold({"x": offset})["x"]
    assert torch.allclose(folded.left.norm(dim=0), folded.right.norm(dim=0), rtol=1e-4)


def test_tensors_that_are_no_offset_are_refused():
    with pytest.raises(ValueError, match="layer.to_q with left, middle is no weight offset"):
        unfold({"layer.to_q.left": torch.ones(2, 3), "layer.to_q.middle": torch.ones(2, 3)})


def test_offsets_of_another_unet_are_refused_and_nothing_changes(base):
    mine = add_offsets(base.unet)
    disturb(mine)
    with_mine = run(base)
    of_others = dict(list(new_offsets(base.unet).items())[1:])
    with pytest.raises(ValueError, match="belong to another U-Net"):
        add_offsets(base.unet, of_others)
    name = next(iter(mine))
    with pytest.raises(ValueError, match=f"{name} is 8 x 8"):
        add_offsets(base.unet, new_offsets(base.unet) | {name: WeightOffset(8, 8)})
    assert torch.equal(run(base), with_mine)
    remove_offsets(base.unet)


def test_no_offsets_at_all(base):
    plain = run(base)
    assert new_offsets(base.unet, "none") == {}
    assert add_offsets(base.unet, {}) == {}
    assert torch.equal(run(base), plain)


def test_an_unknown_kind_of_offset_is_named(base):
    with pytest.raises(ValueError, match="no kind of offsets 'quadratic'"):
        new_offsets(base.unet, "quadratic")


def test_where_an_adapter_lies_around_attention_there_is_nothing_to_hang_on(tiny_folder):
    base = load_base(tiny_folder)
    base.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"]))
    with pytest.raises(ValueError, match="Merge or unload the adapter first"):
        new_offsets(base.unet)


def test_offsets_are_in_fp32_whatever_the_file_has(base):
    tensors = tensors_of(fold(new_offsets(base.unet)))
    offsets = unfold({name: tensor.half() for name, tensor in tensors.items()})
    assert {p.dtype for offset in offsets.values() for p in offset.parameters()} == {torch.float32}
