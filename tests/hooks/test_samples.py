"""Units of a layer, taken as they lie in memory."""

import pytest
import torch

from lswag_hooks.hooks.samples import units_of


@pytest.mark.parametrize(
    ("outputs", "copied"),
    [
        (torch.randn(3, 4, 5, 6), False),
        (torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last), False),
        (torch.randn(3, 4, 5, 6, 2).to(memory_format=torch.channels_last_3d), False),
        (torch.randn(3, 5, 4).transpose(1, 2), False),
        (torch.randn(5, 3, 4).transpose(0, 1), True),  # as of a model that takes sequences first
        (torch.randn(3, 4, 1).expand(3, 4, 6), True),
        (torch.randn(3), False),
        (torch.randn(3, 4, 0), False),
    ],
)
def test_each_sample_keeps_its_units(outputs, copied):
    found = units_of(outputs)
    wanted = outputs.reshape(3, -1) if outputs.numel() else torch.empty(3, 0)
    assert found.shape == wanted.shape
    # the same order in every sample: columns are columns
    assert sorted(map(tuple, found.T.tolist())) == sorted(map(tuple, wanted.T.tolist()))
    assert (found.data_ptr() != outputs.data_ptr()) == copied
