"""Weight offsets as mkshing/e4t-diffusion makes and stores them, to be imported in tests."""

import torch
from torch import nn

from e4t_minimal.offsets import attention_projections


class PublicOffset(nn.Module):
    """Delta for a weight (n, m): the order of their operations, and their names."""

    def __init__(self, n, m):
        super().__init__()
        self.v = nn.Parameter(torch.ones(1))
        self.linear1 = nn.Linear(1, m)
        self.linear2 = nn.Linear(1, n)
        self.linear_column = nn.Linear(m, m)
        self.linear_row = nn.Linear(n, n)

    def forward(self):
        matrix = torch.outer(self.linear1(self.v), self.linear2(self.v))  # (m, n)
        matrix = self.linear_column(matrix.T)
        return self.linear_row(matrix.T).T


def public_offsets(unet):
    """{name: offset} with random numbers, for every projection."""
    torch.manual_seed(0)
    projections = attention_projections(unet)
    return {name: PublicOffset(*linear.weight.shape) for name, linear in projections.items()}


def public_tensors(offsets):
    """{name in weight_offsets.pt: tensor}."""
    tensors = {}
    for name, offset in offsets.items():
        prefix = name.replace(".to_", ".wo_")
        for part, tensor in offset.state_dict().items():
            tensors[f"{prefix}.{part}"] = tensor
    return tensors
