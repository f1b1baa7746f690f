import random

import numpy as np
import pytest
import torch

from lswag_hooks.errors import InputError
from lswag_hooks.rng import check_seed, preserved, seeded


def draws():
    return random.random(), float(np.random.rand()), torch.rand(2).tolist()


def without_drawing():
    """What would be drawn next, found out without any help of the code under test."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


@pytest.mark.parametrize("block", [preserved, lambda: seeded(3)])
def test_global_states_survive(block):
    expected = without_drawing()
    with block():
        draws()
    assert draws() == expected


@pytest.mark.parametrize("block", [preserved, lambda: seeded(3)])
def test_global_states_survive_an_exception(block):
    expected = without_drawing()
    with pytest.raises(KeyboardInterrupt), block():
        draws()
        raise KeyboardInterrupt
    assert draws() == expected


def test_a_generator_of_one_s_own_survives():
    generator = torch.Generator().manual_seed(5)
    with preserved(generator):
        first = torch.rand(3, generator=generator)
    assert torch.equal(first, torch.rand(3, generator=generator))


def test_the_seed_decides_what_is_drawn():
    with seeded(1):
        first = draws()
    random.random(), np.random.rand(), torch.rand(1)
    with seeded(1):
        assert draws() == first
    with seeded(2):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None])
def test_a_seed_that_not_every_generator_takes(seed):
    with pytest.raises(InputError, match="whole number from 0"):
        check_seed(seed)


@pytest.mark.gpu
def test_cuda_states_survive_and_follow_the_seed():
    torch.cuda.manual_seed(11)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(11)
    with seeded(1, start_cuda=True):
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    with seeded(1):
        assert torch.equal(torch.rand(3, device="cuda"), first)
