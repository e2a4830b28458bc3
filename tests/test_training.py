"""How the toy models are trained: the loop, names made of parts, questions, places that count."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from e4t_minimal.training import captions
from e4t_minimal.training.data import QUESTIONS, UNKNOWN, Pictures, pictures, truth
from e4t_minimal.training.hardware import autocast, choose_attention
from e4t_minimal.training.importance import importance
from e4t_minimal.training.loop import Training, train
from e4t_minimal.training.tokenizer import build_tokenizer, grammar, name_tokens
from e4t_minimal.world import DOMAINS, Scene, identity, named


def regression(seed: int = 0):
    """A model, its groups and loss: y = sum of x."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    # as a linear solver leaves it, column by column
    model[0].weight.data = model[0].weight.data.T.contiguous().T

    def loss_of_step(g, step):
        x = torch.randn(16, 4, generator=g)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return model, [{"params": model.parameters(), "lr": 1e-2}], loss_of_step


class Stop(Exception):
    pass


def test_the_tokenizer_numbers_words_alike_every_time():
    """Else a training that is gone on with would read other words under the same numbers."""
    vocabularies = [build_tokenizer().get_vocab() for _ in range(3)]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]


def test_whole_numbers_in_a_model_are_not_averaged(tmp_path):
    model, groups, loss = regression()
    model.register_buffer("number", torch.tensor([1449, 1690]))
    train(model, groups, loss, Training("whole numbers", tmp_path, 30))
    assert model.number.tolist() == [1449, 1690]
    state = load_file(tmp_path / "state.safetensors")
    assert state["average.module.number"].tolist() == [1449, 1690]
    assert model[1].num_batches_tracked == 30


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_run_that_was_stopped_and_resumed_gives_the_same_bits(tmp_path, monkeypatch, stop):
    monkeypatch.setattr("e4t_minimal.training.loop.SAVE_SECONDS", -1)  # a state after every step
    model, *rest = regression()
    train(model, *rest, Training("whole", tmp_path / "whole", 20))
    other, groups, loss = regression()

    def until_stop(g, step):
        if step == stop:
            raise Stop
        return loss(g, step)

    training = Training("parts", tmp_path / "parts", 20)
    with pytest.raises(Stop):
        train(other, groups, until_stop, training)
    torch.manual_seed(99)
    again, groups, loss = regression(seed=5)  # what it starts with does not matter
    train(again, groups, loss, training.replace(resume=True))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_training_learns_logs_and_leaves_the_averaged_weights(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x = torch.randn(64, 4)

    def error():
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    def loss_of_step(g, step):
        return error() + torch.randn((), generator=g) * model.bias.sum()  # noise on the gradient

    before = error().item()
    groups = [{"params": model.parameters(), "lr": 3e-2}]
    training = Training("line", tmp_path, 300, check_every=100)
    report = train(model, groups, loss_of_step, training, lambda: {"error": error()})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [row["step"] for row in logged] == [100, 200, 300]
    assert logged[-1]["error"] < logged[0]["error"] < before
    assert report["command"] == "python -m e4t_minimal.training line --steps 300 --seed 0"
    assert not model.training
    with torch.no_grad():
        assert error() < 0.01 * before
    state = load_file(tmp_path / "state.safetensors")
    assert torch.equal(model.bias, state["average.module.bias"])
    assert not torch.equal(model.bias, state["model.bias"])


def test_the_rate_rises_stays_and_falls_to_zero():
    training = Training("x", None, steps=1000, warmup=100, cool=0.3)
    rates = [training.rate(step) for step in range(1000)]
    assert rates[0] == 0.01
    assert set(rates[100:700]) == {1.0}
    assert rates[-1] < 1e-4
    assert all(a >= b for a, b in zip(rates[699:], rates[700:], strict=False))


def test_the_faster_attention_is_set_on_every_layer_and_leaves_no_gradients(base):
    unet = deepcopy(base.unet).requires_grad_(True)
    kind = choose_attention(unet)
    assert kind in ("plain", "fused")
    assert len({type(processor) for processor in unet.attn_processors.values()}) == 1
    assert all(p.grad is None for p in unet.parameters())


def test_autocast_keeps_no_stale_copies_of_weights_that_are_trained():
    layer = nn.Linear(64, 64)
    x = torch.ones(1, 64)
    with autocast("cpu"):
        layer(x).sum().backward()
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        assert layer(x).abs().max() == 0


@pytest.fixture(scope="module")
def few() -> dict[str, Pictures]:
    return {domain: pictures(domain, "train", 120, seed=21, plain=0.7) for domain in DOMAINS}


def test_answers_are_the_truth_and_unknown_where_nothing_is_seen(few):
    data = few["critter"]
    answers = data.answers()
    assert set(answers) == set(QUESTIONS)
    for i in range(len(data)):
        known = truth(data.identities[i], data.scenes[i])
        for question, words in QUESTIONS.items():
            number = answers[question][i].item()
            said = None if number == UNKNOWN else words[number]
            assert said == known.get(question)
    assert (answers["face.top"] == UNKNOWN).all()


def test_pixels_are_the_pictures(few):
    data = few["face"]
    pixels = data.pixels([3, 1])
    assert pixels.shape == (2, 3, 64, 64)
    back = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(back, torch.from_numpy(data.images[[3, 1]]))


def test_places_where_identities_differ_weigh_more(base, few):
    data = few["robot"]
    with torch.no_grad():
        latents = base.encode(data.pixels(range(len(data))))
    weights = importance(data, latents)
    assert weights.shape == (len(data), 16, 16)
    torch.testing.assert_close(weights.mean((1, 2)), torch.ones(len(data)))
    large = next(i for i, scene in enumerate(data.scenes) if scene.size == "large")
    small = next(i for i, scene in enumerate(data.scenes) if scene.size == "small")
    assert weights[large, 4:12, 4:12].mean() > 2 * weights[large, :, :2].mean()
    assert (weights[small] == 1).all()


def test_names_are_sums_of_parts_and_strangers_parts_are_the_same_words(base):
    text = deepcopy(base.text_encoder).requires_grad_(True)
    table = text.get_input_embeddings()
    plain = table.weight.detach().clone()
    captions.add_names_from_parts(text, base.tokenizer)
    people = [one for one in named("face") if one.name not in grammar()]
    tokens = torch.tensor(name_tokens(base.tokenizer, [one.name for one in people]))
    others = torch.ones(len(plain), dtype=torch.bool)
    everybody = [one.name for domain in DOMAINS for one in named(domain)]
    made = [name for name in everybody if name not in grammar()]
    others[name_tokens(base.tokenizer, made)] = False
    assert torch.equal(table.weight[others], plain[others])  # all other words stay
    # a name without one part, plus another, is the name of somebody who has that one
    by_visible = {json.dumps(one.visible): i for i, one in enumerate(people)}
    assert len(by_visible) == len(people)
    ids = base.tokenize([f"a photo of {people[0].name}"])
    text(ids).last_hidden_state.sum().backward()
    vectors = table.parametrizations.weight[0].vectors
    assert (vectors.grad.abs().sum(1) > 0).sum() == len(people[0].visible) + 1
    expected = table.weight[tokens].detach().clone()
    captions.remove_names_from_parts(text)
    assert torch.equal(table.weight[tokens], expected)
    assert type(table) is nn.Embedding


def test_readers_learn_what_is_said_and_skip_what_is_unknown(few):
    data = few["robot"]
    answers = data.answers()
    torch.manual_seed(0)
    readers = captions.Readers(32)
    features = torch.nn.functional.one_hot(answers["robot.eyes"], 32).float()
    optimizer = torch.optim.Adam(readers.parameters(), 1e-2)
    first = readers.loss(features, answers)
    for _ in range(100):
        loss = readers.loss(features, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first
    shares = readers.accuracies(features, answers)
    assert shares["robot.eyes"] == 1.0
    assert shares["robot.head"] < 0.8  # nothing in the features says it
    assert "face.top" not in shares


def test_the_end_of_a_text_is_read_at_any_token_after_it():
    ids = torch.tensor([[1, 5, 9, 9, 9, 9], [1, 5, 5, 5, 9, 9]])  # 9: end of text, and padding
    hidden = torch.arange(6.0).expand(2, 6)[..., None]  # the place of each token
    places = {0: set(), 1: set()}
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        for i, place in enumerate(captions.ends(hidden, ids, 9, g)):
            places[i].add(int(place))
    assert places == {0: {2, 3, 4, 5}, 1: {4, 5}}


def test_truth_of_a_scene_without_a_background_does_not_name_one():
    one = identity("face", "train", 0)
    assert "background" not in truth(one, Scene(background="blue", style="sketch"))
    assert truth(one, Scene(background="blue"))["background"] == "blue"
