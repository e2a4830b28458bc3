"""S*: one more word, whose embedding is given from outside instead of being looked up."""

from copy import deepcopy

import torch
from transformers import AddedToken

from .base import Base


class Placeholder:
    """Puts an embedding into a prompt, in the place of one token, BEFORE the text encoder (paper, method figure).

    token: the new word, which must not be a word already. class_word: what the concept is, coarsely; one token.
    """

    def __init__(self, base: Base, class_word: str, token: str = "S*"):
        words = base.tokenizer.get_vocab()
        if (
            not token
            or token.split() != [token]
            or {token, token.lower(), f"{token.lower()}</w>"} & set(words)
        ):
            raise ValueError(
                f"The placeholder {token!r} is already a word of the base, or is not one word; choose another, such as 'S*'."
            )
        pieces = base.tokenizer.encode(class_word, add_special_tokens=False)
        if len(pieces) != 1 or pieces[0] == base.tokenizer.unk_token_id:
            raise ValueError(
                f"The class word {class_word!r} is not a single token of this base, and {token} grows out of exactly one; "
                "choose another (for the toy: face, critter, robot)."
            )
        self.base, self.token, self.class_word, self.class_id = base, token, class_word, pieces[0]
        self.tokenizer = deepcopy(base.tokenizer)  # the base's own tokenizer stays as it was
        self.tokenizer.add_tokens([AddedToken(token, normalized=False, single_word=True)])
        self.id = self.tokenizer.convert_tokens_to_ids(token)

    @property
    def class_embedding(self) -> torch.Tensor:
        """v_class (D,): the token embedding of the class word."""
        return self.base.text_encoder.get_input_embeddings().weight[self.class_id]

    def tokenize(self, prompts: list[str], required: bool = True) -> torch.Tensor:
        """Token numbers (B, T). With `required`, ValueError for a prompt in which S* does not stand or is cut off."""
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.base.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        for prompt, row in zip(prompts, ids):
            if required and self.id not in row:
                if self.id in self.tokenizer(prompt, verbose=False).input_ids:
                    raise ValueError(
                        f"The prompt is too long: {self.token} comes after the {len(row) - 2} tokens that the base reads. Shorten {prompt!r}."
                    )
                raise ValueError(
                    f"The prompt {prompt!r} does not mention {self.token} as a word of its own; write it where the concept should stand, "
                    f"as in 'a photo of {self.token}'."
                )
        return ids.to(self.base.device)

    def encode(self, ids: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        """ids (B, T), embedding of S* (B, D) or None if no prompt has it -> text encoder output (B, T, D)."""
        if embedding is None:
            return self.base.text_encoder(ids).last_hidden_state
        here = ids == self.id  # (B, T)

        def put(
            module, args, looked_up
        ):  # (B, T, D): the one change we make to the text encoder's work
            return torch.where(here[..., None], embedding[:, None].to(looked_up.dtype), looked_up)

        hook = self.base.text_encoder.get_input_embeddings().register_forward_hook(put)
        try:
            return self.base.text_encoder(ids.masked_fill(here, self.class_id)).last_hidden_state
        finally:
            hook.remove()
