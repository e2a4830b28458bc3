"""What a text says, and what a picture shows, read by linear layers: one for every question.

CLIP's contrastive loss is content once a caption can be told from the others of its batch: colours
and large shapes are enough for that. So small parts (a robot's antenna, a mouth) hardly reach the
end of a caption, and the U-Net cannot draw what it does not hear. Asking every question of every
caption, and later of every picture, mends that. Our choice; nothing of E4T.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ..world import DOMAINS, named
from .data import QUESTIONS, UNKNOWN
from .tokenizer import grammar, name_tokens


class Readers(nn.Module):
    """A linear layer for every one of QUESTIONS."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, len(words)) for words in QUESTIONS.values())

    def loss(self, features: torch.Tensor, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean cross-entropy over the questions of features (B, width) -> scalar."""
        features = self.norm(features.float())
        losses = []
        for question, head in zip(QUESTIONS, self.heads, strict=True):
            wanted = answers[question]
            if (wanted != UNKNOWN).any():
                losses.append(F.cross_entropy(head(features), wanted, ignore_index=UNKNOWN))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def accuracies(
        self, features: torch.Tensor, answers: dict[str, torch.Tensor]
    ) -> dict[str, float]:
        """{question: share of right answers}, where there is something to ask."""
        features = self.norm(features.float())
        shares = {}
        for question, head in zip(QUESTIONS, self.heads, strict=True):
            known = answers[question] != UNKNOWN
            if known.any():
                right = head(features[known]).argmax(1) == answers[question][known]
                shares[question] = right.float().mean().item()
        return shares


def ends(hidden: torch.Tensor, ids: torch.Tensor, eos: int, g: torch.Generator) -> torch.Tensor:
    """Hidden states (B, T, D) -> (B, D), each at a random token from the end of its text on.

    All tokens after the end have read the whole text, and the U-Net looks at all of them.
    """
    first = (ids == eos).int().argmax(1).cpu()  # (B,)
    after = torch.rand(len(ids), generator=g) * (ids.shape[1] - first)
    places = (first + after.long()).to(hidden.device)
    return hidden[torch.arange(len(ids), device=hidden.device), places]


class NamesFromParts(nn.Module):
    """A parametrization of the table of token embeddings: a name is the sum of its parts.

    The embedding of somebody's name is the sum of one learned vector for each of the person's
    attributes, and one for the domain. So what the base learns of one name holds for all, and for
    people without a name, too. Our choice: a real base has seen its celebrities millions of times.
    """

    def __init__(self, tokens: torch.Tensor, parts: torch.Tensor, vectors: torch.Tensor):
        super().__init__()
        self.register_buffer("tokens", tokens)  # (names,)
        self.register_buffer("parts", parts)  # (names, P) of 0 and 1
        self.vectors = nn.Parameter(vectors)  # (P, D)

    def forward(self, table: torch.Tensor) -> torch.Tensor:
        """(vocabulary, D) -> the same, with the names' rows put in."""
        names = self.parts @ self.vectors
        return table.index_copy(0, self.tokens, names.to(table.dtype))


def add_names_from_parts(text_encoder, tokenizer) -> NamesFromParts:
    """Hang one on a text encoder's embeddings, starting from the names as they are."""
    embeddings = text_encoder.get_input_embeddings()
    people = [one for domain in DOMAINS for one in named(domain) if one.name not in grammar()]
    tokens = torch.tensor(name_tokens(tokenizer, [one.name for one in people]))
    parts = torch.tensor([_parts(one) for one in people])
    now = embeddings.weight.detach()[tokens]
    # ridge regression: the vectors whose sums come closest to the names
    damped = parts.T @ parts + torch.eye(parts.shape[1])
    vectors = torch.linalg.solve(damped, parts.T @ now)
    module = NamesFromParts(tokens, parts, vectors)
    parametrize.register_parametrization(embeddings, "weight", module)
    return module


def remove_names_from_parts(text_encoder):
    """Leave the names' rows as they have become, and the table a plain one."""
    parametrize.remove_parametrizations(text_encoder.get_input_embeddings(), "weight")


def _parts(one) -> list[float]:
    """A number for every attribute's word, and every domain: 1 for the person's own."""
    found = []
    for name, domain in DOMAINS.items():
        found.append(float(name == one.domain))
        for attribute, words in domain.attributes.items():
            own = one.visible.get(attribute) if name == one.domain else None
            found += [float(word == own) for word in words]
    return found
