"""The random states of Python, NumPy, torch, CUDA and MPS: keep them, or seed them for a while."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from lswag_hooks.errors import InputError

_LARGEST_SEED = 2**32 - 1  # NumPy's global generator takes no more


def check_seed(seed: int) -> int:
    """Return a seed that every generator takes.

    Raises:
        InputError: It is no whole number from 0 to 2**32 - 1.

    Example:
        >>> check_seed(7)
        7
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"seed={seed!r}: take a whole number from 0 to {_LARGEST_SEED}.")
    return int(seed)


@contextlib.contextmanager
def preserved(*generators: torch.Generator) -> Iterator[None]:
    """Give every global random state back on leaving, also after an exception.

    CUDA states are read only where CUDA is already initialised: a look at them must not start a GPU context.

    Args:
        generators: Generators of the caller's own to restore too, such as a sampler's.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with preserved():
        ...     inside = torch.rand(1)
        >>> torch.equal(inside, torch.rand(1))
        True
    """
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    own = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in own:
            generator.set_state(state)


def torch_states() -> list[torch.Tensor]:
    """The states of torch's generators, to tell whether anything was drawn in between.

    Example:
        >>> before = torch_states()
        >>> _ = torch.rand(1)
        >>> all(map(torch.equal, before, torch_states()))
        False
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return [torch.get_rng_state(), *cuda, *mps]


@contextlib.contextmanager
def seeded(seed: int, *, start_cuda: bool = False) -> Iterator[None]:
    """Run a block with every global generator seeded, then give the states back as they were.

    Args:
        seed: From 0 to 2**32 - 1.
        start_cuda: Initialise CUDA first where there is one, for a block that may draw on a GPU: a generator that
            does not exist yet can be neither seeded nor restored.

    Raises:
        InputError: The seed is out of range.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(1)
        >>> with seeded(7):
        ...     torch.equal(first, torch.rand(1))
        True
    """
    seed = check_seed(seed)
    if start_cuda and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # in a forked process CUDA cannot start, so nothing draws on it either
            torch.cuda.init()
    with preserved():
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed would queue a seed for a CUDA that starts later, and so outlive this block
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        yield
