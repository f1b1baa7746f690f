import os
import random

import numpy as np
import pytest
import torch

# of the processes that tests start, too: on a busy machine the threads of small products wait for one another, and a
# test of ten seconds takes minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws_in_every_test():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and "device" not in item.fixturenames and not torch.cuda.is_available():
        pytest.skip("no CUDA device")  # those with the fixture `device` see for themselves
