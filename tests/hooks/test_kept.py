"""What autograd keeps of a forward pass, worked out by hand."""

import torch
from torch import nn

from lswag_hooks.hooks.kept import kept_bytes


def test_each_piece_of_memory_counts_once_and_the_models_own_not_at_all():
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.BatchNorm1d(3), nn.Sigmoid()).eval()
    # the inputs, what Tanh gave, which the second layer keeps too, the BatchNorm's input, and what Sigmoid gave
    assert kept_bytes(net, torch.randn(4, 5)) == 4 * 4 * (5 + 7 + 3 + 3)


def test_memory_that_came_free_is_not_taken_for_what_is_kept():
    class Net(nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = (x + 1).exp()  # only what exp gave is kept
            return x

    assert kept_bytes(Net(), torch.randn(4, 5, requires_grad=True)) == 3 * 4 * 4 * 5
