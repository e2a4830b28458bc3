"""S*: one more token, whose embedding is given from outside instead of being looked up."""

import re
from copy import deepcopy

import torch
from transformers import AddedToken

from .base import Base
from .helpers.checks import texts
from .helpers.hooking import check_hookable

TOKEN = "S*"


class Placeholder:
    """Puts an embedding into a prompt, in the place of one token, BEFORE the text encoder.

    Source: the paper's method figure.
    token: the new word, which must not be a word already.
    class_word: what the concept is, coarsely; a single token of the base, from which S* grows.
    """

    def __init__(self, base: Base, class_word: str, token: str = TOKEN):
        _check_token(base, token)
        self.base = base
        self.token = token
        self.class_word = class_word
        self.class_id = _class_id(base, class_word, token)
        self.tokenizer = deepcopy(base.tokenizer)  # the base's own tokenizer stays as it was
        self.tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True)])
        self.id = self.tokenizer.convert_tokens_to_ids(token)
        # wherever it may be meant: "s*" and "S*S*" too, but "sks" not in "asks"
        pattern = rf"\b{token}\b" if token.isalnum() else re.escape(token)
        self.spelling = re.compile(pattern, re.IGNORECASE)

    @property
    def class_embedding(self) -> torch.Tensor:
        """v_class (D,): the token embedding of the class word."""
        return self.base.text_encoder.get_input_embeddings().weight[self.class_id]

    def tokenize(self, prompts: list[str], required: bool = True) -> torch.Tensor:
        """Token numbers (B, T).

        ValueError for a prompt in which S* is cut off, or is no word of its own, and, if it is
        required, for one without it.
        """
        prompts = texts(prompts)
        ids = self.base.tokenize(prompts, self.tokenizer)
        for prompt, read in zip(prompts, (ids == self.id).sum(1).tolist(), strict=True):
            if read < len(self.spelling.findall(prompt)) or (required and read == 0):
                self._refuse(prompt, read, room=ids.shape[1] - 2)
        return ids

    def encode(self, ids: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        """Text encoder output (B, T, D) of ids (B, T), with the embedding of S* (B, D).

        embedding: None if no prompt has S*.
        """
        check_hookable(text_encoder=self.base.text_encoder)
        if embedding is None:
            return self.base.text_encoder(ids).last_hidden_state
        here = ids == self.id  # (B, T)
        known = ids.masked_fill(here, self.class_id)  # the text encoder has no row for S*

        def put_in(module, args, looked_up):  # looked_up: (B, T, D)
            given = embedding[:, None].to(looked_up.dtype)  # (B, 1, D)
            return torch.where(here[..., None], given, looked_up)

        # the one change that we make to the text encoder's work
        hook = self.base.text_encoder.get_input_embeddings().register_forward_hook(put_in)
        try:
            return self.base.text_encoder(known).last_hidden_state
        finally:
            hook.remove()

    def _refuse(self, prompt: str, read: int, room: int):
        if self.tokenizer(prompt, verbose=False).input_ids.count(self.id) > read:
            raise ValueError(
                f"The prompt is too long: {self.token} comes after the {room} tokens that the base "
                f"reads. Shorten {prompt!r}."
            )
        raise ValueError(
            f"The prompt {prompt!r} does not mention {self.token}, or not as a word of its own; "
            f"write it where the concept should stand, as in 'a photo of {self.token}'."
        )


def _class_id(base: Base, class_word: str, token: str) -> int:
    pieces = base.tokenizer.encode(class_word, add_special_tokens=False)
    if len(pieces) != 1 or pieces[0] == base.tokenizer.unk_token_id:
        raise ValueError(
            f"The class word {class_word!r} is not a single token of this base, and {token} grows "
            "out of exactly one; choose another (for the toy: face, critter, robot)."
        )
    return pieces[0]


def _check_token(base: Base, token: str):
    known = base.tokenizer.get_vocab()
    spellings = {token, token.lower(), f"{token.lower()}</w>"}
    if not token or token.split() != [token] or spellings & set(known):
        raise ValueError(
            f"The placeholder {token!r} is already a word of the base, or is not one word; "
            "choose another, such as 'S*'."
        )
