import pytest
import torch

from e4t_minimal.placeholder import Placeholder


@pytest.fixture
def word(base):
    return Placeholder(base, "face")


def test_class_embedding_gives_the_class_word(base, word):
    ids = word.tokenize(["a photo of S* on the beach"])
    plain_ids = word.tokenize(["a photo of face on the beach"], required=False)
    with torch.no_grad():
        with_s = word.encode(ids, word.class_embedding[None])
        plain = base.text_encoder(plain_ids).last_hidden_state
    assert torch.equal(with_s, plain)


def test_only_the_placeholder_changes_and_all_of_them(base, word):
    ids = word.tokenize(["S* and S* at sunset", "a photo of S*"])
    v = torch.randn(2, base.text_encoder.config.hidden_size)
    embedding = base.text_encoder.get_input_embeddings()
    original = embedding(ids.masked_fill(ids == word.id, word.class_id))
    given = what_the_first_layer_is_given(base.text_encoder, word, ids, v)
    positions = base.text_encoder.embeddings.position_embedding.weight[None, : ids.shape[1]]
    changed = (given - positions - original).abs().amax(-1) > 1e-5  # (B, T)
    assert torch.equal(changed, ids == word.id)
    assert changed.sum(1).tolist() == [2, 1]
    in_its_place = (given - positions)[0][changed[0]]
    assert torch.allclose(in_its_place, v[0].expand(2, -1), atol=1e-5)
    assert len(embedding._forward_hooks) == 0  # nothing stays behind


def what_the_first_layer_is_given(text_encoder, word, ids, v):
    """(B, T, D): embeddings of tokens and places."""
    given = []

    def keep(module, args, kwargs):
        given.append(args[0] if args else kwargs["hidden_states"])

    layer = text_encoder.encoder.layers[0]
    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        word.encode(ids, v)
    finally:
        hook.remove()
    return given[0]


def test_without_an_embedding_it_is_the_text_encoder(base, word):
    ids = word.tokenize(["a photo of a face"], required=False)
    with torch.no_grad():
        assert torch.equal(word.encode(ids), base.text_encoder(ids).last_hidden_state)


def test_gradient_flows_to_the_embedding(word):
    v = word.class_embedding[None].clone().requires_grad_()
    word.encode(word.tokenize(["S*"]), v).sum().backward()
    assert v.grad.abs().sum() > 0


def test_base_tokenizer_is_untouched(base):
    count = len(base.tokenizer)
    Placeholder(base, "robot", "<my-robot>")
    assert len(base.tokenizer) == count


@pytest.mark.parametrize(
    ("prompt", "says"),
    [("a photo of a face", "does not mention"), ("a photo of a face " * 12 + "S*", "too long")],
)
def test_prompt_without_a_visible_placeholder(word, prompt, says):
    with pytest.raises(ValueError, match=says):
        word.tokenize([prompt])


@pytest.mark.parametrize(
    ("arguments", "says"),
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
