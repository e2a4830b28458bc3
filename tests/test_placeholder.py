import pytest
import torch

from e4t_minimal.placeholder import Placeholder


@pytest.fixture
def word(base):
    return Placeholder(base, "face")


def test_class_embedding_gives_the_class_word(base, word):
    with torch.no_grad():
        with_s = word.encode(
            word.tokenize(["a photo of S* on the beach"]), word.class_embedding[None]
        )
        plain = base.text_encoder(
            word.tokenize(["a photo of face on the beach"], required=False)
        ).last_hidden_state
    assert torch.equal(with_s, plain)


def test_only_the_placeholder_changes_and_all_of_them(base, word):
    ids = word.tokenize(["S* and S* at sunset", "a photo of S*"])
    v = torch.randn(2, base.text_encoder.config.hidden_size)
    inside = []
    embedding = base.text_encoder.get_input_embeddings()
    original = embedding(ids.masked_fill(ids == word.id, word.class_id))
    first = base.text_encoder.encoder.layers[0].register_forward_pre_hook(
        lambda m, a, k: inside.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    try:
        word.encode(ids, v)
    finally:
        first.remove()
    positions = base.text_encoder.embeddings.position_embedding.weight[None, : ids.shape[1]]
    changed = (inside[0] - positions - original).abs().amax(-1) > 1e-5  # (B, T)
    assert torch.equal(changed, ids == word.id) and changed[0].sum() == 2 and changed[1].sum() == 1
    assert torch.allclose((inside[0] - positions)[0][changed[0]], v[0].expand(2, -1), atol=1e-5)
    assert len(embedding._forward_hooks) == 0  # nothing stays behind


def test_gradient_flows_to_the_embedding(word):
    v = word.class_embedding[None].clone().requires_grad_()
    word.encode(word.tokenize(["S*"]), v).sum().backward()
    assert v.grad.abs().sum() > 0


def test_base_tokenizer_is_untouched(base):
    before = len(base.tokenizer)
    Placeholder(base, "robot", "<my-robot>")
    assert len(base.tokenizer) == before


@pytest.mark.parametrize(
    "prompt, says",
    [("a photo of a face", "does not mention"), ("a photo of a face " * 12 + "S*", "too long")],
)
def test_prompt_without_a_visible_placeholder(word, prompt, says):
    with pytest.raises(ValueError, match=says):
        word.tokenize([prompt])


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("face", "beach"), "already a word"),
        (("face", "q"), "already a word"),
        (("face", "<|endoftext|>"), "already a word"),
        (("grumpy cat",), "not a single token"),
        (("face", " "), "not one word"),
    ],
)
def test_bad_words(base, arguments, says):
    with pytest.raises(ValueError, match=says):
        Placeholder(base, *arguments)
