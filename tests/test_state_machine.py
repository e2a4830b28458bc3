"""Whatever is done with a base, and however it ends: afterwards the base is what it was.

Hypothesis draws sequences of everything that hangs something on it, with errors and kills between.
"""

from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from PIL import Image
from tiny import changed, left_behind, tiny_base, tiny_e4t, untouched, weights_of
from torch.nn.utils import parametrize
from trying import record

from e4t_minimal.inspection.trace import patch, trace
from e4t_minimal.model import E4T
from e4t_minimal.offsets import (
    WeightOffset,
    add_offsets,
    attached_offsets,
    attention_projections,
    remove_offsets,
)
from e4t_minimal.sample import sample_steps
from e4t_minimal.train import PERSONALIZATION, PRETRAINING, personalize, prepare, pretrain

PICTURE = Image.new("RGB", (32, 32), "pink")
PROMPT = "a photo of S*"
# places on the way of a pass, from its beginning to its end
PLACES = ("text.hidden", "unet.down.0", "unet.mid.attn2.map", "unet.mid", "encoder.offset")
SPOILED = ("unet.mid.attn1.to_v", "latent*", "placeholder.embedding", "*.delta")


class Killed(BaseException):
    """As KeyboardInterrupt: nothing of ours may catch it."""


@cache
def the_base():
    """(base, its weights): of the one, every sequence has a copy."""
    base = tiny_base()
    return base, weights_of(base)


def begin(model, what):
    """A drawing or training, that has not yet done a step."""
    if what == "sample":
        return sample_steps(model, PROMPT, PICTURE, steps=2)
    if what == "personalize":
        return personalize(model, PICTURE, PERSONALIZATION.replace(steps=2, batch=2, backgrounds=2))
    data = prepare(model, [PICTURE] * 2, [PROMPT] * 2)
    return pretrain(model, data, PRETRAINING.replace(steps=2, batch=2))


def breaks(error, after):
    """A change that raises at the call number `after`."""
    calls = iter(range(after))

    def change(tensor):
        if next(calls, None) is None:
            raise error("stopped")
        return tensor

    return change


WORK = st.sampled_from(["sample", "personalize", "pretrain"])
INDEX = st.integers(0, 9)


class Sequence(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        base, self.start = the_base()
        self.base = deepcopy(base)
        self.models, self.loops, self.blocks = [], [], []

    def model(self, index):
        return self.models[index % len(self.models)]

    @rule(seed=st.integers(0, 2))
    def make(self, seed):
        """It takes the place of the one before."""
        self.models = [*self.models[-2:], tiny_e4t(self.base, seed)]

    @precondition(lambda self: self.models)
    @rule(index=INDEX, what=WORK)
    def work(self, index, what):
        """To its end, or refused because the model is no longer on the base."""
        model = self.model(index)
        was_attached = model.attached
        try:
            list(begin(model, what))
        except ValueError as error:
            assert not was_attached, error
            assert "no longer hang on its base" in str(error)
        else:
            assert was_attached
            assert model.attached

    @precondition(lambda self: self.models)
    @rule(index=INDEX, what=WORK)
    def go_half_way(self, index, what):
        model = self.model(index)
        if model.attached:
            loop = begin(model, what)
            next(loop)
            self.loops.append((loop, model))

    @precondition(lambda self: self.loops)
    @rule(index=INDEX)
    def go_on(self, index):
        loop, model = self.loops.pop(index % len(self.loops))
        was_attached = model.attached
        try:
            list(loop)
        except ValueError as error:
            assert not was_attached, error

    @precondition(lambda self: self.loops)
    @rule(index=INDEX, kill=st.booleans())
    def leave(self, index, kill):
        loop, _ = self.loops.pop(index % len(self.loops))
        if kill:
            with suppress(Killed):
                loop.throw(Killed())
        loop.close()

    @precondition(lambda self: self.models)
    @rule(
        index=INDEX,
        what=WORK,
        where=st.sampled_from(PLACES),
        after=st.integers(0, 3),
        error=st.sampled_from([RuntimeError, Killed]),
    )
    def break_off(self, index, what, where, after, error):
        model = self.model(index)
        if model.attached:
            with suppress(error), patch(model, where, breaks(error, after)):
                list(begin(model, what))

    @precondition(lambda self: self.models)
    @rule(index=INDEX, names=st.sampled_from(["*", "unet.mid", "*.map", "*.delta"]))
    def look(self, index, names):
        model = self.model(index)
        if names != "*.delta" or attached_offsets(self.base.unet):
            self.open(trace(model, names))

    @precondition(lambda self: self.models)
    @rule(index=INDEX, name=st.sampled_from(SPOILED))
    def spoil(self, index, name):
        model = self.model(index)
        if name != "*.delta" or attached_offsets(self.base.unet):
            self.open(patch(model, name, lambda x: 0.5 * x))

    def open(self, block):
        block.__enter__()
        self.blocks.append(block)

    @precondition(lambda self: self.blocks)
    @rule(index=INDEX, error=st.sampled_from([None, RuntimeError, Killed]))
    def close(self, index, error):
        """In any order, and with any error on its way out."""
        block = self.blocks.pop(index % len(self.blocks))
        if error is None:
            block.__exit__(None, None, None)
        else:
            with suppress(error):
                block.__exit__(error, error("stopped"), None)

    @precondition(lambda self: self.models)
    @rule(index=INDEX)
    def detach(self, index):
        self.model(index).detach()

    @precondition(lambda self: self.models)
    @rule(index=INDEX)
    def fold(self, index):
        model = self.model(index)
        if model.attached:
            model.fold()

    @precondition(lambda self: not self.blocks)
    @rule(merge=st.booleans())
    def copy_and_merge(self, merge):
        """A copy is its own, whatever hangs on the original."""
        copy = deepcopy(self.base)
        remove_offsets(copy.unet, merge=merge)
        assert not attached_offsets(copy.unet)
        if not merge:
            assert untouched(copy, self.start)

    @rule(index=st.integers(0, 23))
    def hang_what_does_not_fit(self, index):
        before = attached_offsets(self.base.unet)
        projections = {name: WeightOffset(*shape) for name, shape in self.shapes().items()}
        projections[list(projections)[index]] = WeightOffset(3, 3)
        with suppress(ValueError):
            add_offsets(self.base.unet, projections)
            raise AssertionError("this does not fit")
        after = attached_offsets(self.base.unet)
        assert list(after) == list(before)
        assert all(after[name] is before[name] for name in before)

    def shapes(self):
        of_queries = (".to_q.weight", ".to_k.weight", ".to_v.weight")
        named = {name: tuple(tensor.shape) for name, tensor in self.start.items()}
        return {
            name.removeprefix("unet.").removesuffix(".weight"): shape
            for name, shape in named.items()
            if name.startswith("unet.") and name.endswith(of_queries)
        }

    @precondition(lambda self: self.models)
    @rule(index=INDEX)
    def save_and_load(self, index):
        model = self.model(index)
        with TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "concept")
            again = E4T.from_pretrained(Path(folder) / "concept", self.base)
        self.models = [*self.models[-2:], again]

    @invariant()
    def the_weights_are_those_of_the_start(self):
        assert changed(self.base, self.start) == []
        for linear in attention_projections(self.base.unet).values():
            assert linear.weight.isfinite().all()  # whatever hangs on it, it has one
        attached = [model for model in self.models if model.attached]
        assert len(attached) <= 1
        if not self.blocks:
            assert left_behind(self.base) == 0

    def teardown(self):
        for loop, _ in self.loops:
            loop.close()
        for block in self.blocks:
            block.__exit__(None, None, None)
        for model in self.models:
            model.detach()
        if attached_offsets(self.base.unet):  # of one that is forgotten
            remove_offsets(self.base.unet)
        clean = untouched(self.base, self.start) and self.base.running is None
        record("sequences of work, errors and kills", "ok" if clean else "left over")
        assert clean
        parameters = self.base.unet.parameters()
        assert not any(p.requires_grad or p.grad is not None for p in parameters)
        assert parametrize._cache_enabled == 0
        assert torch.is_grad_enabled()


TestSequence = Sequence.TestCase
