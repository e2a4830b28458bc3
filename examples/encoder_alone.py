"""A method of your own for the benchmark: E4T whose weight offsets learn nothing of the person.

    e4t bench --quick --method E4T --method examples/encoder_alone.py:EncoderAlone

Copy this file, change one thing, and see whether it helps. What may stand here: docs/own-method.md.
"""

from e4t_minimal.model import E4T
from e4t_minimal.train import fit, prepare_concept


class EncoderAlone:
    what = "the encoder alone; the offsets stay as the domain's pretraining left them"
    steps = 15

    def start(self, base, class_word, weights, seed):
        """The model before the first step."""
        return E4T.from_pretrained(weights, base)

    def learn(self, model, picture, mask, schedule):
        """One step after the other, on the one picture."""
        data = prepare_concept(model, picture, mask, backgrounds=schedule.backgrounds)
        groups = [{"params": model.parts()["encoder"], "lr": schedule.lr}]
        yield from fit(model, data, schedule, groups)

    def stored(self, model):
        """What has to be kept of one person."""
        return model.parts()["encoder"]
