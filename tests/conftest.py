import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws_in_every_test():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and "device" not in item.fixturenames and not torch.cuda.is_available():
        pytest.skip("no CUDA device")  # those with the fixture `device` see for themselves
